"""What a worker counts."""

from __future__ import annotations

from collections.abc import Mapping

from bus.messages.steps import Registered, StepPlan, StepResult
from bus.packed import unpack_u32
from bus.telemetry import Telemetry
from workers.step.effort import Effort, Step


class Measures:
    """Instruments of one worker, labelled with its model.

    Args:
        effort: what its steps take at least; None where that is not known.
    """

    def __init__(self, telemetry: Telemetry, registered: Registered, effort: Effort | None = None) -> None:
        self._effort = effort
        self._telemetry = telemetry
        self._labels = labels = {
            "model": registered.model,
            "replica": str(registered.replica),
            "rank": str(registered.rank),
        }
        self._seconds = telemetry.histogram("headrace_step_seconds", "Time a step took", **labels)
        self._rows = telemetry.histogram("headrace_step_rows", "Rows of a step", **labels)
        self._computed = telemetry.counter("headrace_step_tokens_total", "Tokens computed", **labels)
        self._drawn = telemetry.counter("headrace_drawn_tokens_total", "Tokens drawn", **labels)
        self._waited = telemetry.counter("headrace_step_wait_seconds_total", "Time idle before a plan came", **labels)
        self._read = telemetry.counter("headrace_step_bytes_total", "Bytes that steps had to read", **labels)
        self._spent: Mapping[str, int] = {}
        self._failed = telemetry.counter("headrace_steps_failed_total", "Steps that failed", **labels)

    def step(self, plan: StepPlan, result: StepResult, spent_ns: Mapping[str, int]) -> None:
        """A step was executed. Plans without rows only change slots and are not steps.

        Args:
            spent_ns: by the model in all steps so far; what it does not account for is "everything else".
        """
        self._waited.add(result.waited_ns / 1e9)
        if not plan.slots:
            return
        self._seconds.observe(result.ran_ns / 1e9)
        self._rows.observe(len(plan.slots) // 4)
        drafted = sum(result.drafted)
        self._computed.add(float(unpack_u32(plan.counts).sum()) + drafted)
        self._drawn.add(len(result.tokens) // 4)
        if self._effort is not None:
            self._count_effort(self._effort.of(plan, drafted))
        parts = {part: ns - self._spent.get(part, 0) for part, ns in spent_ns.items()}
        self._spent = spent_ns
        for part, ns in (parts | {"everything else": max(0, result.ran_ns - sum(parts.values()))}).items():
            self._telemetry.counter(
                "headrace_step_part_seconds_total", "Time of steps by what it went into", part=part, **self._labels
            ).add(ns / 1e9)

    def _count_effort(self, step: Step) -> None:
        self._read.add(step.read)
        for kind, operations in step.operations.items():
            self._telemetry.counter(
                "headrace_step_operations_total", "Arithmetic of steps, by type", arithmetic=kind, **self._labels
            ).add(operations)

    def failed(self) -> None:
        """A step failed."""
        self._failed.add()
