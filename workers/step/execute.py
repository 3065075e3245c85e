"""Steps: plan in, result out. Slots, forward pass, log probabilities, draw, commit; no socket, no loop.

    launch(n)   launch(n + 1)   finish(n)   launch(n + 2)   finish(n + 1) ...

A step is launched, and finished when its tokens are on the host. On a device that computes beside the host the next
one is launched in between, unless it has to wait (`workers.step.overlap`): its tokens come out of the slots, which have
them already. Steps are finished in order. Whatever happens, the worker is ready for the next plan afterwards: a step
has a result, or raises `StepBroken`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from bus.messages.steps import StepPlan, StepResult
from bus.packed import pack_u32
from workers.group import Group
from workers.models.interface import Model
from workers.sampling.draw import BrokenLogits
from workers.sampling.logprobs import token_logprobs
from workers.speculative.interface import Proposer, Watcher
from workers.step.drawing import Drawing, Nothing, draw_once, draw_with_drafts
from workers.step.overlap import Unread, wants_of, why_wait
from workers.step.readback import HostReader, Reader, Reading
from workers.step.rows import NOWHERE, StepRows, Written, rows_of
from workers.step.slots import PlanRefused, Slots
from workers.step.staging import staged
from workers.step.windows import Folding

# Logits held at once for prompt log probabilities: 16 MiB of float32. All of a 100k-token prompt would be 50 GB.
_LOGITS_AT_ONCE: Final = 1 << 22

PromptLogprobs = tuple[int, int, tuple[TokenLogprobs, ...]]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that was launched.

    Attributes:
        launched_ns: when its launch began.
        followed: slots that it drew for, and whose tokens the host has to take note of.
        reading: `drawing.values` on their way; when they are there, the step is through.
    """

    plan: StepPlan
    rows: StepRows
    waited_ns: int
    launched_ns: int
    drafting_ns: int
    written: Written
    prompt: tuple[PromptLogprobs, ...]
    drawing: Drawing
    followed: frozenset[int]
    reading: Reading


class Pages(Protocol):
    """The arena as the executor uses it."""

    @property
    def tensor(self) -> Tensor:
        """[cells, layers, 2, kv heads of all ranks, page tokens, head dim]."""
        ...

    def launched(self, written: Written) -> None:
        """The forward pass that writes these pages is on its way. Once for each step, and each is committed in the
        order of launches, or all are abandoned."""
        ...

    def commit(self, written: Written) -> None:
        """The oldest step is through: its pages hold so many valid tokens now; full ones are in the arena when this
        returns."""
        ...

    def abandon(self) -> None:
        """A step failed: what was launched and not committed holds nothing new."""
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
        reader: brings to the host what the device draws; None where the device is the host.
    """

    def __init__(
        self,
        model: Model,
        slots: Slots,
        pages: Pages,
        group: Group,
        clock: Callable[[], int] = time.monotonic_ns,
        proposer: Proposer | None = None,
        reader: Reader | None = None,
    ) -> None:
        self._model, self._slots, self._pages, self._group, self._clock = model, slots, pages, group, clock
        self._proposer = proposer
        self._watcher = proposer if isinstance(proposer, Watcher) else None
        self._vocabulary = model.architecture.vocabulary
        self._folding = Folding.of(model.architecture.windows)
        self._reader = reader or HostReader()
        self._flights: deque[_Flight] = deque()
        self._finished_ns = 0

    @property
    def in_flight(self) -> int:
        """Steps that are launched and not finished."""
        return len(self._flights)

    @property
    def reading(self) -> Reading | None:
        """What the oldest of them waits for."""
        return self._flights[0].reading if self._flights else None

    def may_launch(self, plan: StepPlan) -> bool:
        """Whether a plan may be launched now, or has to wait until the oldest step in flight is finished."""
        if not self._flights:
            return True
        followed = frozenset[int]().union(*(flight.followed for flight in self._flights))
        unread = Unread(len(self._flights), followed)
        return why_wait(unread, wants_of(plan, self._slots)) is None

    def reset(self) -> None:
        """Close all slots. Steps in flight are waited for, since they write, and forgotten."""
        while self._flights:
            # A device that has failed says so for each of them; what is reset is told of it by its next step.
            with suppress(RuntimeError):
                self._flights.popleft().reading.wait()
        self._pages.abandon()
        self._slots.close_all()

    def spent_ns(self) -> Mapping[str, int]:
        """Of the model; see `Model.spent_ns`."""
        return self._model.spent_ns()

    def run(self, plan: StepPlan, waited_ns: int = 0) -> StepResult:
        """Execute one plan, while no other is in flight.

        Args:
            plan: the next one.
            waited_ns: how long this worker was idle before it; only passed on.

        Raises:
            StepBroken: whatever went wrong; all slots are closed.
        """
        assert not self._flights
        try:
            self.launch(plan, waited_ns)
        except StepBroken:
            self.reset()
            raise
        return self.finish()

    def launch(self, plan: StepPlan, waited_ns: int = 0) -> None:
        """Have a plan computed that `may_launch`. On a GPU this does not wait for it.

        Raises:
            StepBroken: it could not be launched. Steps in flight are as good as ever: finish them, then `reset`.
        """
        try:
            with torch.inference_mode():
                self._flights.append(self._launch(plan, waited_ns))
        except Exception as error:
            broken = as_broken(error)
        else:
            return
        raise broken

    def finish(self) -> StepResult:
        """The result of the oldest step in flight; waits for it.

        Raises:
            StepBroken: whatever went wrong; all slots are closed, and nothing is in flight.
        """
        flight = self._flights[0]
        try:
            with torch.inference_mode():
                result = self._finish(flight)
        except Exception as error:
            broken = as_broken(error)
        else:
            self._flights.popleft()
            return result
        self.reset()
        raise broken

    def _launch(self, plan: StepPlan, waited_ns: int) -> _Flight:
        began = self._clock()
        self._slots.apply(plan)
        rows = rows_of(plan, self._slots, self._proposer)
        drafting_ns = self._clock() - began if plan.drafts else 0
        device = self._model.device
        if not len(rows.slots):
            nothing = Nothing(device)
            self._pages.launched(NOWHERE)
            reading = self._reader.read(nothing.values)
            return _Flight(plan, rows, waited_ns, began, 0, NOWHERE, (), nothing, frozenset(), reading)
        for cells, target in self._slots.to_fold:
            assert self._folding is not None
            self._folding.fold(self._pages.tensor, cells, target)
        if (grammars := self._slots.grammars) is not None:
            grammars.begin(rows.slots[rows.samples].tolist())
        ids = self._slots.ids(rows.token_slots, rows.positions)
        hidden = self._model.forward(ids, rows.batch(self._slots, device), self._pages.tensor)
        # What is behind a wrong draft is no KV: with drafts, what was written is known when tokens are drawn.
        written = None if rows.drafts.counts.any() else rows.written(self._slots, rows.ends)
        if written is not None:
            self._pages.launched(written)
        prompt = self._prompt_logprobs(rows, hidden)
        drawing = self._draw(rows, hidden)
        ends = rows.valid(self._slots)
        if written is None:
            written = rows.written(self._slots, ends)
            self._pages.launched(written)
        self._slots.computed(rows.slots, ends)
        if self._watcher is not None:
            first = rows.row_starts[:-1]
            states = [hidden[begin : begin + n] for begin, n in zip(first, ends - rows.starts, strict=True)]
            self._watcher.watch(rows.slots, rows.starts, states)
        followed = self._slots.followed(rows.slots[rows.samples])
        reading = self._reader.read(drawing.values)
        return _Flight(plan, rows, waited_ns, began, drafting_ns, written, prompt, drawing, followed, reading)

    def _finish(self, flight: _Flight) -> StepResult:
        rows, drawn_for = flight.rows, flight.rows.slots[flight.rows.samples]
        try:
            told = flight.drawing.told(flight.reading.values())
        except BrokenLogits as broken:
            causes = drawn_for[list(broken.rows)].tolist()
            raise StepBroken(f"logits of slot {causes} are not finite", causes, together=True) from broken
        self._pages.commit(flight.written)
        # A step that was launched before the one in front of it was through has run since then.
        now = self._clock()
        ran_ns = now - max(flight.launched_ns, self._finished_ns) if len(rows.slots) else 0
        self._finished_ns = now
        step, waited_ns = flight.plan.step, flight.waited_ns
        if self._group.rank or not len(rows.slots):
            return StepResult(step, b"", b"", waited_ns, ran_ns)
        drafted = rows.drafts.counts[rows.samples]
        says = drafted.any()
        return StepResult(
            step, pack_u32(drawn_for), pack_u32(told.tokens), waited_ns, ran_ns, told.logprobs, flight.prompt,
            failed=told.failed, drawn=bytes(told.counts) if says else b"",
            drafted=bytes(drafted.tolist()) if says else b"", drafting_ns=flight.drafting_ns,
            behind_ns=self._proposer.behind_ns if says and self._proposer is not None else 0,
        )  # fmt: skip

    def _draw(self, rows: StepRows, hidden: Tensor) -> Drawing:
        """Draw for the rows that are sampled, tell the other ranks, and append to the slots."""
        slots, drafted = rows.slots[rows.samples], rows.drafts.counts[rows.samples]
        if not len(slots):
            return Nothing(hidden.device)
        # After a row's last token, and after each of its drafts.
        widths = 1 + drafted
        within = np.arange(int(widths.sum())) - np.repeat(widths.cumsum() - widths, widths)
        places = np.repeat(rows.row_starts[1:][rows.samples] - widths, widths) + within
        logits = self._model.logits(
            hidden[staged(places, hidden.device)], self._slots.adapters_of(np.repeat(slots, widths))
        )
        if not drafted.any():
            return draw_once(self._slots, slots, logits, self._group)
        drafts = rows.drafts.tokens[rows.samples]
        try:
            return draw_with_drafts(self._slots, slots, logits, widths, drafts, self._group, hidden.device)
        except BrokenLogits as broken:
            causes = slots[list(broken.rows)].tolist()
            raise StepBroken(f"logits of slot {causes} are not finite", causes, together=True) from broken

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
