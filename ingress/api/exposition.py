"""The host's metrics, asked of the metrics process each time: no copy of them is kept here."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import msgspec

from bus.identity import Identity
from bus.link import Link
from bus.messages.observe import Exposition, GetExposition, Snapshot, TimelineReply, ToObserver
from bus.names import METRICS, OBSERVE_DOOR
from ingress.errors import ApiError

PATIENCE_S: Final = 5.0

_Told = Exposition | Snapshot | TimelineReply | msgspec.Struct


class MetricsClient:
    """A link to `metrics@host`, and the questions under way on it."""

    def __init__(self, life: Identity) -> None:
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)
        self._link: Link[_Told] = Link(
            life,
            METRICS,
            OBSERVE_DOOR,
            "observe",
            ToObserver,
            on_message=self._hear,
            on_down=self._fail,
        )

    async def exposition(self) -> bytes:
        """The Prometheus text.

        Raises:
            ApiError: 503, the metrics process is not there or does not answer.
        """
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self._link.send(GetExposition(number)):
                raise _unavailable("the metrics process is not running")
            async with asyncio.timeout(PATIENCE_S):
                return await answer
        except TimeoutError:
            raise _unavailable(f"the metrics process did not answer within {PATIENCE_S:.0f} s") from None
        finally:
            del self._asked[number]

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def _hear(self, message: _Told) -> None:
        if not isinstance(message, Exposition):
            return
        answer = self._asked.get(message.rid)
        if answer is not None and not answer.done():
            answer.set_result(message.text)

    def _fail(self, reason: str) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_unavailable(f"the metrics process is gone: {reason}"))


def _unavailable(why: str) -> ApiError:
    return ApiError(
        503, "service_unavailable_error", f"No metrics: {why}.", code="metrics_unavailable", retry_after_s=2.0
    )
