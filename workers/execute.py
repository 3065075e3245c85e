"""One step: plan in, result out. Slots, forward pass, log probabilities, draw, commit; no socket, no loop.

`Executor.run` leaves the worker ready for the next plan whatever happens: it returns a result, or raises
`StepBroken` with every slot closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
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
from workers.sampling.logprobs import token_logprobs
from workers.slots import Ints, PlanRefused, Slots
from workers.speculative.interface import Proposer, Watcher
from workers.speculative.verify import BROKEN, NOTHING, draw_along, follow
from workers.windows import Folding

# Logits held at once for prompt log probabilities: 16 MiB of float32. All of a 100k-token prompt would be 50 GB.
_LOGITS_AT_ONCE: Final = 1 << 22

PromptLogprobs = tuple[int, int, tuple[TokenLogprobs, ...]]


class _Draw(NamedTuple):
    """What came of the rows that are sampled: tokens, how many each row has, log probabilities by index, and
    `StepResult.failed`."""

    tokens: list[int]
    counts: list[int]
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
        proposer: of draft tokens, for rows that may have some.
    """

    def __init__(
        self,
        model: Model,
        slots: Slots,
        pages: Pages,
        group: Group,
        clock: Callable[[], int] = time.monotonic_ns,
        proposer: Proposer | None = None,
    ) -> None:
        self._model, self._slots, self._pages, self._group, self._clock = model, slots, pages, group, clock
        self._proposer = proposer
        self._watcher = proposer if isinstance(proposer, Watcher) else None
        self._vocabulary = model.architecture.vocabulary
        self._folding = Folding.of(model.architecture.windows)

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
        began = self._clock()
        self._slots.apply(plan)
        rows = rows_of(plan, self._slots, self._proposer)
        drafting_ns = self._clock() - began if plan.drafts else 0
        if not len(rows.slots):
            return StepResult(plan.step, b"", b"", waited_ns, 0)
        for cells, target in self._slots.to_fold:
            assert self._folding is not None
            self._folding.fold(self._pages.tensor, cells, target)
        if (grammars := self._slots.grammars) is not None:
            grammars.begin(rows.slots[rows.samples].tolist())
        ids = self._slots.ids(rows.token_slots, rows.positions)
        hidden = self._model.forward(ids, rows.batch(self._slots, self._model.device), self._pages.tensor)
        # What is behind a wrong draft is no KV: with drafts, what was written is known when tokens are drawn.
        written = None if rows.drafts.counts.any() else rows.written(self._slots, rows.ends)
        if written is not None:
            self._pages.launched(written)
        prompt = self._prompt_logprobs(rows, hidden)
        tokens, counts, logprobs, failed = self._draw(rows, hidden)
        ends = rows.valid(self._slots)
        if written is None:
            written = rows.written(self._slots, ends)
            self._pages.launched(written)
        self._slots.computed(rows.slots, ends)
        self._pages.commit(written)
        if self._watcher is not None:
            first = rows.row_starts[:-1]
            states = [hidden[begin : begin + n] for begin, n in zip(first, ends - rows.starts, strict=True)]
            self._watcher.watch(rows.slots, rows.starts, states)
        ran_ns = self._clock() - began
        if self._group.rank:
            return StepResult(plan.step, b"", b"", waited_ns, ran_ns)
        sampled, drafted = pack_u32(rows.slots[rows.samples]), rows.drafts.counts[rows.samples]
        told = drafted.any()
        return StepResult(
            plan.step, sampled, pack_u32(tokens), waited_ns, ran_ns, logprobs, prompt, failed=failed,
            drawn=bytes(counts) if told else b"", drafted=bytes(drafted.tolist()) if told else b"",
            drafting_ns=drafting_ns, behind_ns=self._proposer.behind_ns if told and self._proposer is not None else 0,
        )  # fmt: skip

    def _draw(self, rows: StepRows, hidden: Tensor) -> _Draw:
        """Draw for the rows that are sampled, tell the other ranks, and append to the slots."""
        slots, drafted = rows.slots[rows.samples], rows.drafts.counts[rows.samples]
        if not len(slots):
            return _Draw([], [], (), ())
        # After a row's last token, and after each of its drafts.
        widths = 1 + drafted
        within = np.arange(int(widths.sum())) - np.repeat(widths.cumsum() - widths, widths)
        places = np.repeat(rows.row_starts[1:][rows.samples] - widths, widths) + within
        logits = self._model.logits(
            hidden[torch.from_numpy(places).to(hidden.device)], self._slots.adapters_of(np.repeat(slots, widths))
        )
        tokens: Ints = np.full((len(slots), int(widths.max())), NOTHING, np.int64)
        logprobs: list[tuple[int, int, TokenLogprobs]] = []
        failed: dict[int, str] = {}
        if self._group.rank == 0:
            tokens, logprobs, failed = draw_along(
                self._slots, slots, logits, widths, rows.drafts.tokens[rows.samples]
            )  # fmt: skip
        tokens = self._group.share(torch.from_numpy(tokens).to(hidden.device)).cpu().numpy()
        if (broken := tokens[:, 0] == BROKEN).any():
            causes = slots[broken].tolist()
            raise StepBroken(f"logits of slot {causes} are not finite", causes, together=True)
        if self._group.rank:
            follow(self._slots, slots, tokens)
        counts = (tokens != NOTHING).sum(axis=1)
        firsts = (counts.cumsum() - counts).tolist()
        return _Draw(
            tokens[tokens != NOTHING].tolist(),
            counts.tolist(),
            tuple((firsts[row] + at, value) for row, at, value in sorted(logprobs, key=itemgetter(0, 1))),
            tuple((int(slots[row]), why) for row, why in failed.items()),
        )

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
                adapters = self._slots.adapters_of(np.full(end - begin, slot))
                # A collective: on every rank.
                logits = self._model.logits(hidden[first + begin : first + end], adapters)
                if self._group.rank == 0:
                    values += token_logprobs(logits, following[begin:end], [int(wanted[row])] * (end - begin))
            found.append((slot, start + 1, tuple(values)))
        return tuple(found)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller step may do. Torch says it of a GPU by type, and of the host by words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
