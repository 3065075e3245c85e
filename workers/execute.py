"""One step: plan in, result out. Slots, forward pass, log probabilities, draw, commit; no socket, no loop.

`Executor.run` leaves the worker ready for the next plan whatever happens: it returns a result, or raises
`StepBroken` with every slot closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from bus.messages.steps import StepPlan, StepResult
from bus.packed import pack_u32
from workers.group import Group
from workers.models.interface import Model
from workers.rows import StepRows, Written, rows_of
from workers.sampling.draw import BrokenLogits
from workers.sampling.logprobs import token_logprobs
from workers.slots import PlanRefused, Slots

# Logits held at once for prompt log probabilities: 16 MiB of float32. All of a 100k-token prompt would be 50 GB.
_LOGITS_AT_ONCE: Final = 1 << 22

PromptLogprobs = tuple[int, int, tuple[TokenLogprobs, ...]]


class _Draw(NamedTuple):
    """What came of the rows that are sampled: a token of each, log probabilities by index, and `StepResult.failed`."""

    tokens: list[int]
    logprobs: tuple[tuple[int, TokenLogprobs], ...]
    failed: tuple[tuple[int, str], ...]


class Pages(Protocol):
    """The arena as the executor uses it."""

    @property
    def tensor(self) -> Tensor:
        """[cells, layers, 2, kv heads of all ranks, page tokens, head dim]."""
        ...

    def launched(self, written: Written) -> None:
        """The forward pass that writes these pages is on its way."""
        ...

    def commit(self, written: Written) -> None:
        """These pages hold so many valid tokens now; full ones are in the arena when this returns."""
        ...

    def abandon(self) -> None:
        """The step failed: its pages hold nothing new."""
        ...


class StepBroken(Exception):
    """A step failed. Nothing of it may be used, and all slots are closed.

    Attributes:
        slots: rows that are known to be the cause.
        together: whether every rank of the group fails this step alike, so that the group can go on.
        out_of_memory: a smaller step may do.
    """

    def __init__(self, problem: str, slots: Iterable[int] = (), *, together: bool, out_of_memory: bool = False) -> None:
        super().__init__(problem)
        self.slots = tuple(slots)
        self.together = together
        self.out_of_memory = out_of_memory


def as_broken(error: Exception) -> StepBroken:
    """What went wrong in a step, as its scheduler is told."""
    match error:
        case StepBroken():
            return error
        case PlanRefused():
            return StepBroken(str(error), error.slots, together=True)
    broken = StepBroken(f"{type(error).__name__}: {error}", together=False, out_of_memory=is_out_of_memory(error))
    broken.__cause__ = error
    return broken


class Executor:
    """Executes plans on one rank.

    Args:
        model: this rank's share.
        slots: state of the requests.
        pages: the arena.
        group: the ranks; all of them run the same plans in the same order.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self, model: Model, slots: Slots, pages: Pages, group: Group, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._model, self._slots, self._pages, self._group, self._clock = model, slots, pages, group, clock
        self._vocabulary = model.architecture.vocabulary

    def reset(self) -> None:
        """Close all slots."""
        self._pages.abandon()
        self._slots.close_all()

    def spent_ns(self) -> Mapping[str, int]:
        """Of the model; see `Model.spent_ns`."""
        return self._model.spent_ns()

    def run(self, plan: StepPlan, waited_ns: int = 0) -> StepResult:
        """Execute one plan.

        Args:
            plan: the next one.
            waited_ns: how long this worker was idle before it; only passed on.

        Raises:
            StepBroken: whatever went wrong.
        """
        try:
            with torch.inference_mode():
                return self._run(plan, waited_ns)
        except Exception as error:
            broken = as_broken(error)
        self.reset()
        raise broken

    def _run(self, plan: StepPlan, waited_ns: int) -> StepResult:
        self._slots.apply(plan)
        rows = rows_of(plan, self._slots)
        if not len(rows.slots):
            return StepResult(plan.step, b"", b"", waited_ns, 0)
        began = self._clock()
        if (grammars := self._slots.grammars) is not None:
            grammars.begin(rows.slots[rows.samples].tolist())
        ids = self._slots.ids(rows.token_slots, rows.positions)
        hidden = self._model.forward(ids, rows.batch(self._slots, self._model.device), self._pages.tensor)
        written = rows.written(self._slots)
        self._pages.launched(written)
        prompt = self._prompt_logprobs(rows, hidden)
        tokens, logprobs, failed = self._draw(rows, hidden)
        self._slots.computed(rows.slots, rows.ends)
        self._pages.commit(written)
        ran_ns = self._clock() - began
        if self._group.rank:
            return StepResult(plan.step, b"", b"", waited_ns, ran_ns)
        sampled = pack_u32(rows.slots[rows.samples])
        return StepResult(
            plan.step, sampled, pack_u32(tokens), waited_ns, ran_ns, logprobs, prompt, failed=failed
        )  # fmt: skip

    def _draw(self, rows: StepRows, hidden: Tensor) -> _Draw:
        """Draw for the rows that are sampled, tell the other ranks, and append to the slots."""
        slots = rows.slots[rows.samples]
        if not len(slots):
            return _Draw([], (), ())
        last = torch.from_numpy(rows.row_starts[1:][rows.samples] - 1).to(hidden.device)
        logits = self._model.logits(hidden[last])
        tokens = torch.full((len(slots),), -1, dtype=torch.int64, device=hidden.device)
        logprobs: tuple[tuple[int, TokenLogprobs], ...] = ()
        grammars = self._slots.grammars
        masks = grammars.masks() if grammars is not None else None
        if self._group.rank == 0:
            banned = masks.banned if masks is not None else {}
            try:
                tokens, logprobs = self._slots.sampling.draw(logits, slots, rows.ends[rows.samples], banned)
            except BrokenLogits as broken:
                # The other ranks wait for tokens. Those that cannot be are told as -1, the others do not matter.
                tokens = torch.zeros_like(tokens)
                tokens[list(broken.rows)] = -1
        tokens = self._group.share(tokens)
        on_host = tokens.tolist()
        if min(on_host) < 0:
            causes = [slot for slot, token in zip(slots.tolist(), on_host, strict=True) if token < 0]
            raise StepBroken(f"logits of slot {causes} are not finite", causes, together=True)
        self._slots.append(slots, tokens)
        if grammars is not None:
            grammars.append(slots.tolist(), on_host)
        failed = tuple((int(slots[row]), why) for row, why in masks.failed.items()) if masks is not None else ()
        return _Draw(on_host, logprobs, failed)

    def _prompt_logprobs(self, rows: StepRows, hidden: Tensor) -> tuple[PromptLogprobs, ...]:
        """Of each prompt token that follows a token of this step, for slots that asked.

        The model's own: penalties and bias are about what is generated.
        """
        wanted = self._slots.prompt_logprobs[rows.slots]
        found: list[PromptLogprobs] = []
        for row in np.flatnonzero(wanted >= 0).tolist():
            slot, start = int(rows.slots[row]), int(rows.starts[row])
            count = min(int(rows.ends[row]), int(self._slots.prompt_length[slot]) - 1) - start
            if count < 1:
                continue
            first = int(rows.row_starts[row])
            positions = np.arange(start + 1, start + 1 + count)
            following = self._slots.ids(np.full(count, slot), positions)
            values: list[TokenLogprobs] = []
            at_once = max(1, _LOGITS_AT_ONCE // self._vocabulary)
            for begin in range(0, count, at_once):
                end = min(begin + at_once, count)
                logits = self._model.logits(hidden[first + begin : first + end])  # a collective: on every rank
                if self._group.rank == 0:
                    values += token_logprobs(logits, following[begin:end], [int(wanted[row])] * (end - begin))
            found.append((slot, start + 1, tuple(values)))
        return tuple(found)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller step may do. Torch says it of a GPU by type, and of the host by words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
