"""The link to the metrics process: it is asked for the host's metrics each time, and told what requests used."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

import msgspec

from bus.identity import Identity
from bus.link import Link
from bus.messages.observe import Exposition, GetExposition, Snapshot, TimelineReply, ToObserver
from bus.messages.usage import TakeUsage, UsageTaken
from bus.names import METRICS, OBSERVE_DOOR
from ingress.errors import ApiError

PATIENCE_S: Final = 5.0
TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

_Told = Exposition | Snapshot | TimelineReply | msgspec.Struct


class MetricsClient:
    """A link to `metrics@host`, and the questions under way on it.

    Args:
        on_up: it is there (again).
        on_taken: it has written records of usage.
    """

    def __init__(
        self,
        life: Identity,
        on_up: Callable[[], None] = lambda: None,
        on_taken: Callable[[UsageTaken], None] = lambda _: None,
    ) -> None:
        self._on_taken = on_taken
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)
        self._link: Link[_Told] = Link(
            life,
            METRICS,
            OBSERVE_DOOR,
            "observe",
            ToObserver,
            on_message=self._hear,
            on_up=on_up,
            on_down=self._fail,
        )

    def tell(self, usage: TakeUsage) -> bool:
        """Records for the ledger; False where the metrics process is not there."""
        return self._link.send(usage)

    async def exposition(self, *, openmetrics: bool) -> bytes:
        """Everything known, as Prometheus' text or as OpenMetrics.

        Raises:
            ApiError: 503, the metrics process is not there or does not answer.
        """
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self._link.send(GetExposition(number, openmetrics)):
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
        if isinstance(message, UsageTaken):
            self._on_taken(message)
            return
        if not isinstance(message, Exposition):
            return
        answer = self._asked.get(message.rid)
        if answer is not None and not answer.done():
            answer.set_result(message.text)

    def _fail(self, reason: str) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_unavailable(f"the metrics process is gone: {reason}"))


def wants_openmetrics(accept: str) -> bool:
    """Whether a scraper prefers OpenMetrics to text, by its Accept header: the larger `q`, then what is named first."""
    best, best_q = "", 0.0
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        given = dict(pair.strip().partition("=")[::2] for pair in parameters.split(";"))
        if kind.strip() not in ("application/openmetrics-text", "text/plain", "*/*"):
            continue
        if kind.strip() == "application/openmetrics-text" and given.get("version", "1.0.0") not in ("1.0.0", "0.0.1"):
            continue
        try:
            q = float(given.get("q", "1"))
        except ValueError:
            q = 0.0
        if q > best_q:
            best, best_q = kind.strip(), q
    return best == "application/openmetrics-text"


def _unavailable(why: str) -> ApiError:
    return ApiError(
        503, "service_unavailable_error", f"No metrics: {why}.", code="metrics_unavailable", retry_after_s=2.0
    )
