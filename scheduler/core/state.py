"""All that the scheduler knows, in one place, and what it is about to say. No decisions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from bus.messages.requests import (
    Accepted,
    Deltas,
    Encoded,
    Finished,
    FinishReason,
    PromptLogprobs,
    RefusalCode,
    Refused,
    Spent,
)
from bus.messages.telemetry import HeldFor, TimelineEvent, TimelineKind
from scheduler.core.adapters import Adapters
from scheduler.core.budget import Budget
from scheduler.core.events import Action, Home, LookUp, Note, Reply
from scheduler.core.gate import DrainRate
from scheduler.core.hot import HotPrefixes
from scheduler.core.ledger import Ledger
from scheduler.core.pageless import NoPages
from scheduler.core.pages import PagePool
from scheduler.core.prefix import PrefixIndex
from scheduler.core.queue import WaitingQueue
from scheduler.core.replica import Replica
from scheduler.core.request import Phase, Request, Standing
from scheduler.core.suspects import Suspects

QUARANTINE_REMEMBERED: Final = 1024
OTHERS: Final = 4  # of those whom a request waits for, so many are named
STRAIGHT: Final = 64  # about what a decode replica computes within its inter-token target anyway


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is configured. Units as named; see `bus.config.ModelConfig`.

    Attributes:
        replicas: all of them.
        first_prefill: those from this number on prefill for the others; none where it is not below `replicas`.
        slots, step_tokens: of each replica, as far as its workers have room; 0 tokens is all that they have.
        drafts: draft tokens of a row at most, as far as its worker can propose them; 0 is none.
        adapters: that a replica has in memory at once.
        straight: tokens; a request with no more left to compute is not prefilled by another replica than decodes it.
    """

    model: str
    replicas: int = 1
    first_prefill: int = 64
    straight: int = STRAIGHT
    drafts: int = 0
    slots: int = 64
    step_tokens: int = 0
    queue_requests: int = 256
    queue_tokens: int = 262_144
    inter_token_target_ns: float = 0.0
    prefix_cache: bool = True
    adapters: int = 0
    hang_ns: float = 30e9
    grace_ns: int = 30_000_000_000
    extent: int = 64


class Geometry(msgspec.Struct, frozen=True):
    """What the model's workers said of it. `dimensions`: of an encoder's answers; 0 of a model that generates."""

    context_tokens: int
    page_tokens: int
    dimensions: int = 0


class Asked(msgspec.Struct):
    """A look-up that kv has not answered. `from_disk`: it may take a while."""

    request: Request
    first_block: int
    blocks: int
    from_disk: bool = False
    expired: bool = False


@dataclass(slots=True)
class Tally:
    """What happened since the last time somebody looked. Counters are taken and set back to nothing.

    `gaps_s` holds arrays: one per step, of the times between tokens.
    """

    finished: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    output_tokens: int = 0
    hit_tokens: int = 0
    lookup_tokens: int = 0
    disk_tokens: int = 0
    preemptions: int = 0
    overrun_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    computed_ns: int = 0
    unclaimed_ns: int = 0
    adapters_failed: int = 0
    adapters_evicted: int = 0
    adapters_loaded_s: list[float] = field(default_factory=list)
    queue_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    e2e_s: list[float] = field(default_factory=list)
    gaps_s: list[npt.NDArray[np.float64]] = field(default_factory=list)


class State:
    """Everything. Functions of this package take it, change it, and append to `out` what is to be done.

    Attributes:
        questions: look-ups to be sent after all else: a pin that is being given back must not be asked for before.
        adapters: that requests may be computed with.
        lookups: by number.
        holders: waiting requests that hold references on pages, by id.
        orphaned: when an ingress was lost.
        budgets: what each replica that was ever up has spent on failures.
        quarantined: ids that were found to take their worker down, oldest first.
        untold: live requests that want no timeline.
        looked_ns: when it was last looked whether steps hang.
        stuck, stuck_ns: what the work in hand waits for that does not come, and since when.
        reserve: the share of its remaining output that is kept free for each running request (SGLang's new-token
            ratio): up when that proves too little, slowly down again while it does not.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0
        self.out: list[Action] = []
        self.questions: list[LookUp] = []
        self.geometry: Geometry | None = None
        self._hold_pages(PagePool(limits.extent))
        self.queue = WaitingQueue()
        self.rate = DrainRate()
        self.hot = HotPrefixes()
        self.requests: dict[int, Request] = {}
        self.replicas: dict[int, Replica] = {}
        self.budgets: dict[int, Budget] = {}
        self.suspects = Suspects()
        self.adapters = Adapters()
        self.homes: list[Home] = []
        self._home_numbers: dict[Home, int] = {}
        self.lookups: dict[int, Asked] = {}
        self.next_lookup = 1
        self.holders: dict[int, Request] = {}
        self.orphaned: dict[Home, int] = {}
        self.deadlines: list[tuple[int, int]] = []
        self.quarantined: OrderedDict[int, str] = OrderedDict()
        self.untold: set[int] = set()
        self.draining = False
        self.reserve = 0.5
        self.starved_since = 0
        self.looked_ns = 0
        self.stuck, self.stuck_ns = "", 0
        self.blocked_version = -1
        self.tally = Tally()

    def settle(self, geometry: Geometry) -> None:
        """The first replica says what the model is."""
        if self.geometry is None:
            self.geometry = geometry
            if geometry.dimensions:
                self._hold_pages(NoPages())

    def _hold_pages(self, pool: PagePool) -> None:
        self.pool = pool
        self.index = PrefixIndex(pool)
        self.ledger = Ledger(pool, self.index)

    # --- what is derived -------------------------------------------------------------------------------------------

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus output that can be served: the model's, or what the page pool holds."""
        assert self.geometry is not None
        context = self.geometry.context_tokens
        if not self.pool.capacity:
            return context
        on_devices = [replica.device_pages for replica in self.replicas.values() if replica.device_pages]
        # The last token's KV is never computed.
        return min(context, min([self.pool.capacity, *on_devices]) * self.geometry.page_tokens + 1)

    @property
    def running(self) -> int:
        """Requests with a slot."""
        return sum(replica.running for replica in self.replicas.values())

    @property
    def starved(self) -> int:
        """Pages that rows of the last plans wanted and did not get."""
        return sum(replica.starved for replica in self.replicas.values())

    @property
    def given_up(self) -> str:
        """Why nobody will compute anything for a while; empty where somebody may."""
        budgets = (self.budgets.get(number) for number in range(self.limits.replicas))
        next_ns = min(budget.barred_until_ns if budget is not None else 0 for budget in budgets)
        if next_ns <= self.now:
            return ""
        return f"its workers fail whatever they are given; the next try is in {(next_ns - self.now) / 1e9:.0f} s"

    def limit(self, replica: Replica) -> None:
        """Let a replica do what the limits allow."""
        replica.slot_cap = min(replica.slots, self.limits.slots)
        replica.step_cap = min(replica.step_tokens, self.limits.step_tokens or replica.step_tokens)

    def budget(self, replica: int) -> Budget:
        """What a replica has spent on failures."""
        return self.budgets.setdefault(replica, Budget())

    def forget(self, request: Request) -> None:
        """The request has ended, and is nowhere any more."""
        request.phase = Phase.ENDED
        if request.standing is not Standing.CLEAR:
            self.suspects.clear(request)
        self.queue.leave(request)
        if request.adapter:
            self.adapters.leave(request)
        del self.requests[request.id]
        self.untold.discard(request.id)

    def home_number(self, home: Home) -> int:
        """A small number for an incarnation of an ingress, for the columns."""
        number = self._home_numbers.get(home)
        if number is None:
            number = self._home_numbers[home] = len(self.homes)
            self.homes.append(home)
        return number

    # --- what is said ----------------------------------------------------------------------------------------------

    def reply(self, home: Home, body: Accepted | Refused | Deltas | Encoded | PromptLogprobs | Spent) -> None:
        """Send to an ingress."""
        self.out.append(Reply(home, body))

    def refuse(self, home: Home, request: int, code: RefusalCode, message: str, retry_after_s: float = 0.0) -> None:
        """Do not take a request."""
        self.tally.refused[code] = self.tally.refused.get(code, 0) + 1
        self.note(request, "refused", detail=code)
        self.reply(home, Refused(request, code, message, retry_after_s))

    def note(
        self,
        request: int,
        kind: TimelineKind,
        value: int = 0,
        step: int = 0,
        detail: str = "",
        replica: int = -1,
        others: tuple[int, ...] = (),
    ) -> None:
        """Something happened to a request."""
        if request in self.untold:
            return
        self.out.append(Note(TimelineEvent(request, self.now, kind, value, step, detail, replica, others)))

    def note_held(self, request: Request, why: HeldFor, value: int = 0, others: Iterable[int] = ()) -> None:
        """It was not admitted, and why; said once per reason. `others` is looked at only then."""
        if request.book.waiting_for != why:
            request.book.held(why, self.now)
            self.note(request.id, "held", value, detail=why, others=tuple(islice(others, OTHERS)))

    def holders_of_slots(self) -> Iterator[int]:
        """Who runs, those that hold most pages first. Nothing is done before the first is asked for."""
        running = [request for replica in self.replicas.values() for request in replica.requests if request is not None]
        yield from (request.id for request in nlargest(OTHERS, running, key=lambda request: request.pages))

    def account(self, request: Request, reason: FinishReason, generated: int, error: str = "") -> Finished:
        """The request ends: count it, and make its account."""
        tally = self.tally
        tally.finished[reason] = tally.finished.get(reason, 0) + 1
        tally.e2e_s.append((self.now - (request.submit.submitted_ns or request.arrival_ns)) / 1e9)
        self.note(request.id, "finished", generated, detail=reason)
        queued_ns = (request.admitted_ns or self.now) - request.arrival_ns
        return Finished(
            request.id, reason, generated, request.cached_tokens, queued_ns, request.preemptions, error,
            *self.spent_ns(request),
        )  # fmt: skip

    def drafts(self, request: Request) -> tuple[int, int]:
        """Draft tokens that it had, and what of them was right."""
        if request.phase is not Phase.RUNNING:
            return request.drafted, request.accepted
        its, slot = self.replicas[request.replica].speculation, request.slot
        return request.drafted + int(its.drafted[slot]), request.accepted + int(its.accepted[slot])

    def spent_ns(self, request: Request) -> tuple[int, int]:
        """Computing that it has cost, and what of it was prefill."""
        if request.phase is not Phase.RUNNING:
            return request.spent_ns, request.prefill_ns
        replica, slot = self.replicas[request.replica], request.slot
        return request.spent_ns + int(replica.spent_ns[slot]), request.prefill_ns + int(replica.prefill_ns[slot])
