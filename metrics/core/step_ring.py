"""The recent steps of each model, by replica and time: what a request's time is explained with. Bounded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from bus.messages.vitals import StepLine, Steps

MAX_STEPS: Final = 8_192  # of a replica: minutes; about 4 MiB
MAX_MODELS: Final = 64
MAX_REPLICAS: Final = 64  # of a model


class ReplicaSteps:
    """Steps of the replicas of one model, each in order of time."""

    def __init__(self) -> None:
        self._lines: dict[int, list[StepLine]] = {}

    def add(self, line: StepLine) -> None:
        """The newest step of its replica."""
        lines = self._lines.get(line.replica)
        if lines is None:
            if len(self._lines) >= MAX_REPLICAS:
                return
            lines = self._lines[line.replica] = []
        if lines and line.at_ns < lines[-1].at_ns:
            return  # of a scheduler that was replaced
        lines.append(line)
        if len(lines) > MAX_STEPS:
            del lines[: MAX_STEPS // 4]

    def within(self, replica: int, after_ns: int, until_ns: int) -> list[StepLine]:
        """Steps that ended after the one and not after the other."""
        lines = self._lines.get(replica, [])
        begin = bisect_right(lines, after_ns, key=lambda line: line.at_ns)
        return lines[begin : bisect_right(lines, until_ns, key=lambda line: line.at_ns)]

    def planned_at(self, replica: int, step: int, at_ns: int) -> StepLine | None:
        """The step of that number which was under way then. Numbers begin again with each scheduler."""
        lines = self._lines.get(replica, [])
        begin = bisect_left(lines, at_ns, key=lambda line: line.at_ns)
        return next((line for line in lines[begin : begin + 64] if line.step == step), None)


class StepRing:
    """All models' steps."""

    def __init__(self) -> None:
        self._models: dict[str, ReplicaSteps] = {}

    def take(self, steps: Steps) -> None:
        """A scheduler's steps since its last message."""
        if steps.model not in self._models and len(self._models) >= MAX_MODELS:
            return
        of_model = self.of(steps.model)
        for line in steps.lines:
            of_model.add(line)

    def of(self, model: str) -> ReplicaSteps:
        """Those of one model."""
        return self._models.setdefault(model, ReplicaSteps()) if model else ReplicaSteps()
