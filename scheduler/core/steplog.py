"""The record of the steps of late: what was in them, how long they took, what bounded them. Flat in cost."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from bus.messages.steps import StepResult
from bus.messages.vitals import StepBound, StepLine

RECORDED: Final = 256
PIPELINE_SHARE: Final = 0.05  # of a step's time, waited though the plan was ready


class PlanRecord(NamedTuple):
    """What there is to say of a step when it is planned.

    Attributes:
        behind: another step was in flight: the plan is ready before the worker is.
    """

    planned_ns: int
    plan_ns: int
    predicted_ns: int
    behind: bool
    rows: int
    decodes: int
    prefill_tokens: int
    chunk_count: int
    chunks: tuple[tuple[int, int], ...]
    waiting: int
    starved: int
    bound: StepBound


class StepRecords:
    """The last steps, all replicas together. Flat in cost: whoever reads keeps a place (`total`) of its own.

    Attributes:
        total: steps ever done.
    """

    def __init__(self) -> None:
        self.total = 0
        self._lines: deque[StepLine] = deque(maxlen=RECORDED)
        self._done_ns: dict[int, int] = {}

    def done(self, replica: int, record: PlanRecord | None, result: StepResult, now: int, apply_ns: int) -> None:
        """A step's result was taken in. One without a record is a barrier: nothing was computed."""
        began_ns, self._done_ns[replica] = self._done_ns.get(replica, 0), now
        if record is None:
            return
        elapsed_ns = now - max(began_ns, record.planned_ns)
        in_it_ns = result.ran_ns + (result.waited_ns if record.behind else 0)
        self.total += 1
        self._lines.append(
            StepLine(
                replica, result.step, now, result.ran_ns, record.predicted_ns, result.waited_ns, record.plan_ns,
                apply_ns, max(0, elapsed_ns - in_it_ns), record.rows, record.decodes, record.prefill_tokens,
                record.chunk_count, record.chunks, record.waiting, record.starved, _seen(record, result),
                sum(result.drafted), sum(result.drawn) - len(result.drawn),
            )
        )  # fmt: skip

    def since(self, total: int) -> tuple[StepLine, ...]:
        """Steps after the `total`-th, as far as they are remembered."""
        fresh = min(self.total - total, len(self._lines))
        return tuple(self._lines)[len(self._lines) - fresh :] if fresh > 0 else ()


def _seen(record: PlanRecord, result: StepResult) -> StepBound:
    late = record.behind and result.waited_ns > PIPELINE_SHARE * result.ran_ns
    return "pipeline" if late else record.bound
