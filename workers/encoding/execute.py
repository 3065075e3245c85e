"""One step of an encoder: plan in, vectors out. No pages, no drawing, no socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bus.messages.steps import SlotOpen, StepPlan, StepResult
from bus.packed import pack_f32, unpack_u32
from workers.encoding.encoder import Encoder
from workers.step.execute import StepBroken, as_broken
from workers.step.interface import OneAtATime
from workers.step.slots import PlanRefused

Ids = npt.NDArray[np.int64]


class _Sequence(NamedTuple):
    """What is in a slot: token ids, and how many of them are the first text's."""

    ids: Ids
    segment: int


class EncodeExecutor(OneAtATime):
    """Executes plans; the same to a conversation as `workers.step.execute.Executor`.

    Args:
        slots: how many there are.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(self, encoder: Encoder, slots: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._encoder, self._slots, self._clock = encoder, slots, clock
        super().__init__()
        self._open: dict[int, _Sequence] = {}

    @property
    def in_use(self) -> int:
        """Slots with a request in them."""
        return len(self._open)

    def reset(self) -> None:
        """Close all slots."""
        super().reset()
        self._open.clear()

    def run(self, plan: StepPlan, waited_ns: int = 0) -> StepResult:
        """Execute one plan.

        Raises:
            StepBroken: whatever went wrong; all slots are closed.
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
        for slot in unpack_u32(plan.closes).tolist():
            self._open.pop(slot, None)
        for opened in plan.opens:
            self._open[opened.slot] = self._sequence(opened)
        slots = unpack_u32(plan.slots).tolist()
        if not slots:
            return StepResult(plan.step, b"", b"", waited_ns, self._clock() - began)
        vectors = self._encode([self._row(plan, row, slot) for row, slot in enumerate(slots)])
        if broken := [slot for slot, vector in zip(slots, vectors, strict=True) if not np.isfinite(vector).all()]:
            raise StepBroken(f"what came out for slot {broken} is not finite", broken, together=True)
        return StepResult(plan.step, b"", b"", waited_ns, self._clock() - began, vectors=pack_f32(vectors))

    def _encode(self, rows: list[_Sequence]) -> npt.NDArray[np.float32]:
        """[rows, dimensions]. The encoder wants the longest first."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids), reverse=True)
        lengths = [len(rows[row].ids) for row in order]
        ids = np.concatenate([rows[row].ids for row in order])
        segments = np.concatenate([np.arange(len(rows[row].ids)) >= rows[row].segment for row in order])
        found = self._encoder(torch.from_numpy(ids), torch.from_numpy(segments.astype(np.int64)), lengths)
        vectors = np.empty(found.shape, np.float32)
        vectors[order] = found.numpy()
        return vectors

    def _row(self, plan: StepPlan, row: int, slot: int) -> _Sequence:
        sequence = self._open.get(slot)
        if sequence is None:
            raise PlanRefused("a row of a closed slot", [slot])
        start, count = (int(unpack_u32(column)[row]) for column in (plan.starts, plan.counts))
        if start or count != len(sequence.ids) or plan.samples[row]:
            raise PlanRefused("an encoder's row is a whole sequence, and nothing is drawn", [slot])
        return sequence

    def _sequence(self, opened: SlotOpen) -> _Sequence:
        a, slot = self._encoder.architecture, opened.slot
        if not 0 <= slot < self._slots:
            raise PlanRefused(f"there are {self._slots} slots, no slot {slot}")
        ids = unpack_u32(opened.tokens).astype(np.int64)
        if not 0 < len(ids) <= a.context:
            raise PlanRefused(f"{len(ids)} tokens, of at most {a.context}", [slot])
        if int(ids.max()) >= a.vocabulary:
            raise PlanRefused(f"token id {int(ids.max())} of a vocabulary of {a.vocabulary}", [slot])
        if not 0 < opened.segment <= len(ids):
            raise PlanRefused(f"a first text of {opened.segment} of {len(ids)} tokens", [slot])
        return _Sequence(ids, opened.segment)
