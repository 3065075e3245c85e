"""What each request used, from its end until the ledger has it.

A record is in the spool as soon as its request has ended. Of a request that this side ended, the scheduler says a
moment later what computing it took: its record waits for that, but not for long.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from bus.messages.usage import Outcome, TakeUsage, UsageRecord, UsageTaken
from bus.telemetry import Telemetry
from ingress.spool import Spool

log = logging.getLogger(__name__)

SEND_S: Final = 0.25
AT_ONCE: Final = 500  # records of one message
AGAIN_NS: Final = 10_000_000_000  # a batch that is not answered is told again
PATIENCE_NS: Final = 2_000_000_000  # for the scheduler to say what computing a request took
ADOPT_NS: Final = 2_000_000_000


class Whose(NamedTuple):
    """Of which model and for whom a request was.

    Attributes:
        counts_prompt: not a further choice of a prompt that is counted already.
    """

    model: str
    tenant: str
    key: str
    counts_prompt: bool


class Used(NamedTuple):
    """What one request used.

    Attributes:
        received_ns: CLOCK_MONOTONIC when it came.
        computed: what computing it took and what of that was prefill, in nanoseconds; None where that is told later.
    """

    request: int
    whose: Whose
    outcome: Outcome
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    received_ns: int
    computed: tuple[int, int] | None


class Ledger(Protocol):
    """Where conversations tell what requests used."""

    def ended(self, used: Used) -> None:
        """A request has ended."""
        ...

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """What computing it took, told after its end."""
        ...


class NoLedger:
    """Nobody wants to know."""

    def ended(self, used: Used) -> None:
        """See `Ledger`."""

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """See `Ledger`."""


class Accounts:
    """The records of one ingress.

    Args:
        spool: keeps them.
        send: to the metrics process; False where it is not there.
    """

    def __init__(self, spool: Spool, send: Callable[[TakeUsage], bool], telemetry: Telemetry) -> None:
        self._spool, self._send = spool, send
        self._waiting: dict[int, int] = {}  # for their computing: until when
        self._numbers = itertools.count(1)
        self._batch: TakeUsage | None = None  # on its way
        self._sent_ns = self._adopted_ns = 0
        self._there = False  # the metrics process
        self._kept = telemetry.gauge("headrace_usage_spool_records", "Records of usage that are not in the ledger yet")
        self._dropped = telemetry.counter("headrace_usage_dropped_total", "Records of usage that were too many to keep")

    def ended(self, used: Used) -> None:
        """A request has ended."""
        now_ns = time.monotonic_ns()
        whose, computed = used.whose, used.computed or (0, 0)
        counts = whose.counts_prompt
        self._spool.add(
            UsageRecord(
                used.request, time.time_ns() // 1_000_000, whose.model, whose.tenant, whose.key, used.outcome,
                used.prompt_tokens if counts else 0, used.cached_tokens if counts else 0, used.generated_tokens,
                *computed, max(0, now_ns - used.received_ns),
            )
        )  # fmt: skip
        if used.computed is None:
            self._waiting[used.request] = now_ns + PATIENCE_NS

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """What computing it took, told after its end."""
        if self._waiting.pop(request, None) is not None:
            self._spool.computed(request, compute_ns, prefill_ns)

    def tick(self, now_ns: int) -> None:
        """Tell what is to be told. Some four times a second."""
        for request, until_ns in tuple(self._waiting.items()):
            if now_ns < until_ns:
                break
            del self._waiting[request]
        if now_ns - self._adopted_ns >= ADOPT_NS:
            self._adopted_ns = now_ns
            if count := self._spool.adopt():
                log.info("took over %d records of usage of dead ingresses", count)
        if self._batch is None or now_ns - self._sent_ns >= AGAIN_NS:
            self._tell(now_ns)
        self._kept.set(len(self._spool.records))
        if (more := self._spool.dropped - int(self._dropped.value)) > 0:
            self._dropped.add(more)

    def link_up(self) -> None:
        """The metrics process is another one than before: it may not have heard what is on its way."""
        self._batch, self._there = None, True

    def delivering(self, now_ns: int) -> bool:
        """Whether records are about to reach the ledger: a process that ends now would leave them to its successor."""
        if not self._spool.records or not self._there:
            return False
        return self._batch is None or now_ns - self._sent_ns < PATIENCE_NS

    def taken(self, message: UsageTaken) -> None:
        """A batch is in the ledger."""
        if self._batch is not None and self._batch.rid == message.rid:
            self._spool.delivered(self._batch.records)
            self._batch = None

    def close(self) -> None:
        """Leave what is not delivered to others."""
        self._spool.close()

    def _tell(self, now_ns: int) -> None:
        ready = (record for request, record in self._spool.records.items() if request not in self._waiting)
        if not (records := tuple(itertools.islice(ready, AT_ONCE))):
            self._batch = None
            return
        batch = TakeUsage(next(self._numbers), records)
        self._there = self._send(batch)
        if self._there:
            self._batch, self._sent_ns = batch, now_ns
