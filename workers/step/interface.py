"""What a conversation needs of whatever executes its plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bus.messages.steps import StepPlan, StepResult
from workers.step.readback import Reading


class Steps(Protocol):
    """Steps are launched and finished in order; several may be in flight. See `workers.step.execute.Executor`."""

    @property
    def in_flight(self) -> int: ...
    @property
    def reading(self) -> Reading | None: ...
    def may_launch(self, plan: StepPlan) -> bool: ...
    def launch(self, plan: StepPlan, waited_ns: int = 0) -> None: ...
    def finish(self) -> StepResult: ...
    def reset(self) -> None: ...
    def spent_ns(self) -> Mapping[str, int]: ...


class OneAtATime:
    """Steps that are through when they are launched, for executors that have `run` and nothing beside the host."""

    def __init__(self) -> None:
        self._result: StepResult | None = None

    @property
    def in_flight(self) -> int:
        """Steps that are computed and not told."""
        return self._result is not None

    @property
    def reading(self) -> Reading | None:
        """Nothing is waited for."""
        return None

    def may_launch(self, plan: StepPlan) -> bool:
        """When the one before it is told."""
        del plan
        return self._result is None

    def launch(self, plan: StepPlan, waited_ns: int = 0) -> None:
        """See `run`."""
        self._result = self.run(plan, waited_ns)

    def finish(self) -> StepResult:
        """The result of what was launched."""
        result, self._result = self._result, None
        assert result is not None, "nothing was launched"
        return result

    def reset(self) -> None:
        """Forget what was not told."""
        self._result = None

    def spent_ns(self) -> Mapping[str, int]:
        """Nothing is measured apart."""
        return {}

    def run(self, plan: StepPlan, waited_ns: int = 0) -> StepResult:
        """Execute one plan.

        Raises:
            workers.step.execute.StepBroken: whatever went wrong; all slots are closed.
        """
        raise NotImplementedError
