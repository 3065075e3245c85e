"""What each request used, from its end until the ledger has it.

A record is in the spool as soon as its request has ended. Of a request that this side ended, the scheduler says a
moment later what computing it took: its record waits for that, but not for long. Where keys are asked for, what a
request has cost goes to the accounts process too, which charges it to budgets; a record stays until both have it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from bus.messages.usage import Outcome, TakeUsage, UsageRecord, UsageTaken
from bus.telemetry import Telemetry
from ingress.lane import Lane
from ingress.spool import Spool

log = logging.getLogger(__name__)

SEND_S: Final = 0.25
PATIENCE_NS: Final = 2_000_000_000  # for the scheduler to say what computing a request took
ADOPT_NS: Final = 2_000_000_000
# Of calls that are turned away no more than this is written: a flood of them must not push out what was used.
REJECTED_A_SECOND: Final = 50
REJECTED_KEPT: Final = 5_000  # none is, where so many records wait


class Whose(NamedTuple):
    """Of which model and for whom a request was.

    Attributes:
        counts_prompt: not a further choice of a prompt that is counted already.
        call, allowed: see `UsageRecord`.
    """

    model: str
    tenant: str
    key: str
    counts_prompt: bool
    call: int = 0
    allowed: int = 0


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
    reasoning_tokens: int = 0


class Ledger(Protocol):
    """Where conversations tell what requests used."""

    def ended(self, used: Used) -> None:
        """A request has ended."""
        ...

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """What computing it took, told after its end."""
        ...

    def rejected(self, request: int, whose: Whose, received_ns: int) -> None:
        """A call was turned away."""
        ...


class NoLedger:
    """Nobody wants to know."""

    def ended(self, used: Used) -> None:
        """See `Ledger`."""

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """See `Ledger`."""

    def rejected(self, request: int, whose: Whose, received_ns: int) -> None:
        """See `Ledger`."""


class Accounts:
    """The records of one ingress.

    Args:
        spool: keeps them.
        send: to the metrics process; False where it is not there. None where no ledger is kept.
        charge: what a request has cost, in billionths; it is told once of each.
        settling: the way to the accounts process, where there is one.
    """

    def __init__(
        self,
        spool: Spool,
        send: Callable[[TakeUsage], bool] | None,
        telemetry: Telemetry,
        charge: Callable[[Used], int] = lambda _: 0,
        settling: Lane | None = None,
    ) -> None:
        self._spool, self._charge, self._telemetry = spool, charge, telemetry
        self._ledger = Lane(lambda rid, records: send(TakeUsage(rid, records))) if send is not None else None
        self._settling = settling
        self._lanes = [lane for lane in (self._ledger, settling) if lane is not None]
        self._waiting: dict[int, int] = {}  # for their computing: until when
        self._adopted_ns = 0
        self._rejects, self._rejects_ns = 0.0, 0
        self._kept = telemetry.gauge("headrace_usage_spool_records", "Records of usage that are not in the ledger yet")
        self._dropped = telemetry.counter("headrace_usage_dropped_total", "Records of usage that were too many to keep")

    def ended(self, used: Used) -> None:
        """A request has ended."""
        now_ns = time.monotonic_ns()
        whose, computed = used.whose, used.computed or (0, 0)
        counts = whose.counts_prompt
        counted = used if counts else used._replace(prompt_tokens=0, cached_tokens=0)
        self._add(
            UsageRecord(
                used.request, time.time_ns() // 1_000_000, whose.model, whose.tenant, whose.key, used.outcome,
                counted.prompt_tokens, counted.cached_tokens, used.generated_tokens, *computed,
                max(0, now_ns - used.received_ns), self._charge(counted), whose.call, whose.allowed,
                used.reasoning_tokens,
            )
        )  # fmt: skip
        if used.reasoning_tokens and used.outcome != "cached":
            self._telemetry.counter(
                "headrace_reasoning_tokens_total", "Tokens generated, here or elsewhere, that were thought.",
                model=whose.model,
            ).add(used.reasoning_tokens)  # fmt: skip
        if used.computed is None:
            self._waiting[used.request] = now_ns + PATIENCE_NS

    def rejected(self, request: int, whose: Whose, received_ns: int) -> None:
        """A call was turned away."""
        now_ns = time.monotonic_ns()
        self._rejects = max(0.0, self._rejects - (now_ns - self._rejects_ns) * REJECTED_A_SECOND / 1e9)
        self._rejects_ns = now_ns
        if self._ledger is None or self._rejects >= REJECTED_A_SECOND or len(self._spool.records) >= REJECTED_KEPT:
            return
        self._rejects += 1
        self._add(
            UsageRecord(
                request or secrets.randbits(63), time.time_ns() // 1_000_000, whose.model, whose.tenant, whose.key,
                "rejected", 0, 0, 0, 0, 0, max(0, now_ns - received_ns),
            )
        )  # fmt: skip

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
            if adopted := self._spool.adopt():
                log.info("took over %d records of usage of dead ingresses", len(adopted))
                for record in adopted:
                    for lane in self._lanes_of(record):
                        lane.add(record.request)
                self._delivered(tuple(adopted))  # those that nobody is to know of
        if self._ledger is not None:
            self._ledger.tick(self._spool.records, self._waiting, now_ns)
        if self._settling is not None:
            self._settling.tick(self._spool.records, (), now_ns)
        self._kept.set(len(self._spool.records))
        if (more := self._spool.dropped - int(self._dropped.value)) > 0:
            self._dropped.add(more)

    def link_up(self) -> None:
        """The metrics process is another one than before: it may not have heard what is on its way."""
        if self._ledger is not None:
            self._ledger.link_up()

    def delivering(self, now_ns: int) -> bool:
        """Whether records are about to reach the ledger: a process that ends now would leave them to its successor."""
        return any(lane.delivering(now_ns) for lane in self._lanes)

    def taken(self, message: UsageTaken) -> None:
        """A batch is in the ledger."""
        if self._ledger is not None:
            self._delivered(self._ledger.taken(message.rid))

    def settled(self, rid: int) -> tuple[UsageRecord, ...]:
        """A batch has been charged to budgets: which."""
        records = self._settling.taken(rid) if self._settling is not None else ()
        self._delivered(records)
        return records

    def close(self) -> None:
        """Leave what is not delivered to others."""
        self._spool.close()

    def _add(self, record: UsageRecord) -> None:
        lanes = self._lanes_of(record)
        if lanes and self._spool.add(record):
            for lane in lanes:
                lane.add(record.request)

    def _lanes_of(self, record: UsageRecord) -> list[Lane]:
        """Who is to know of it."""
        charged = bool(record.cost_nano and record.key)
        return [lane for lane in self._lanes if lane is not self._settling or charged]

    def _delivered(self, records: tuple[UsageRecord, ...]) -> None:
        """Of those that nobody waits for any more nothing is kept."""
        self._spool.delivered(
            tuple(each for each in records if not any(lane.wants(each.request) for lane in self._lanes))
        )
