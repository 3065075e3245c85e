"""standby@MODEL.REPLICA.RANK: everything that a worker needs before its first step, done; then it waits to be one.

It waits for the lock of the worker's name, which the kernel hands over when the worker dies or ends. Nobody has to
notice, decide or start anything: the process goes on under the worker's name, with the next epoch, to where a freshly
started worker would be seconds later (`process.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bus.identity import Claim, claim
from bus.messages.control import Ok, Rejected, ToProcess
from bus.process import Description, Life
from workers.background import Background
from workers.host import Assignment
from workers.loading import Model, load, why_not

log = logging.getLogger(__name__)


class StandbyService:
    """A `bus.process.Service` that ends by becoming `worker`.

    Args:
        worker: the name that it waits for.
        take: is given the weights and the name; then this service ends.
    """

    def __init__(self, life: Life, assignment: Assignment, worker: str, take: Callable[[Model, Claim], None]) -> None:
        self._life, self._assignment, self._worker, self._take = life, assignment, worker, take
        self._phase = "starting"
        self._background: Background[Model] | Background[Claim] | None = None

    def start(self) -> None:
        self._phase = f"loading the weights of {self._worker}"
        self._background = Background(self._life.loop, self._prepare, self._prepared, self._failed)

    def describe(self) -> Description:
        return Description(detail=self._phase)

    def drain(self) -> None:
        """Nothing to do: nothing is in hand."""

    def undrain(self) -> None:
        """Nothing to do, see `drain`."""

    def drained(self) -> bool:
        return True

    def hand_over(self) -> None:
        """Nothing to do, see `drain`."""

    def stop(self) -> None:
        if self._background is not None:
            self._background.cancel()

    def control(self, message: ToProcess) -> Ok | Rejected | None:
        del message
        return None

    def _prepare(self) -> Model:
        loaded = load(self._assignment, lambda _: None)
        loaded.warm_up(self._assignment)
        return loaded

    def _prepared(self, loaded: Model) -> None:
        self._phase = f"takes over when {self._worker} ends"
        self._life.ready()
        self._background = Background(
            self._life.loop,
            lambda: claim(self._worker, self._life.run, wait=True),
            lambda claimed: self._taken(loaded, claimed),
            self._failed,
        )

    def _taken(self, loaded: Model, claimed: Claim) -> None:
        self._background = None
        log.info("taking over as %s", self._worker, extra={"epoch": claimed.epoch})
        self._take(loaded, claimed)
        self._life.end()

    def _failed(self, error: Exception) -> None:
        self._life.fail(*why_not(self._assignment.model.name, error))
