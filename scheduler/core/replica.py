"""One replica: its slots as struct of arrays, and its steps in flight. No policy.

Everything that every step touches for every request is a numpy column indexed by slot, so a step over 256 decodes
costs a few dozen array operations and no Python object per token. Positions:

    0 ........ computed ........ planned ........ known ........ limit
      KV is there     in flight         tokens known     prompt + max_tokens, or the context

`planned` runs ahead of `known` by at most the steps in flight: the worker has the tokens before we do. Where steps in
flight may have drafts, it is the least that they bring, and `speculation.ahead` says how many more it may be.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from bus.messages.steps import SlotOpen
from bus.packed import pack_u32, unpack_u32
from scheduler.core.cost import CostModel
from scheduler.core.prefix import Entry
from scheduler.core.request import Phase, Request, Standing
from scheduler.core.residency import Residency
from scheduler.core.speculation import Speculation
from scheduler.core.steplog import PlanRecord
from scheduler.core.watch import Watch

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STEPS_IN_FLIGHT: Final = 2
NO_STOP: Final = -1
SHRUNK_STEPS: Final = 64  # completed steps after which a step that was shrunk for lack of memory may grow again
SMALLEST_STEP: Final = 16
NO_DRAFTS: Final[Ints] = np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class Flight:
    """A step that was planned and not answered. Columns have one element per row.

    Attributes:
        ends: where each row ends; of one that draws, at least, until the result says how many drafts were right.
        sampled: indexes of the rows that draw a token.
        counts: tokens of each row, without drafts until the result is there.
        tokens, pairs: the step's features for the cost model.
        opened: slots that the plan opens; they need not have a row in it yet.
        record: for those who look on; a barrier has none.
        drafts: most draft tokens of each row; empty where none may have any.
    """

    step: int
    slots: Ints
    ends: Ints
    counts: Ints
    sampled: Ints
    tokens: int
    pairs: float
    predicted_ns: float
    opened: tuple[int, ...] = ()
    record: PlanRecord | None = None
    drafts: Ints = field(default_factory=lambda: NO_DRAFTS)

    @property
    def involved(self) -> set[int]:
        """Slots that can be the cause where the step fails."""
        return {*self.slots.tolist(), *self.opened}


@dataclass(slots=True, eq=False)
class Retired:
    """What a request held when it left its slot. It may be reused when step `after` is complete."""

    after: int
    slot: int
    pages: list[int]
    entries: list[Entry]


class Replica:
    """The state of one replica, as far as it can be known without its answers.

    Attributes:
        prefilling: slots whose tokens are not all planned yet, in order of admission.
        backlog: tokens that those still have to compute.
        scoring: slots that want their prompt's log probabilities and no token.
        handing: slots whose requests go to another replica when all but the last of their tokens are computed.
        batch: slots of batch requests.
        tried: slots of requests on trial (`suspects`): their steps have no other rows, and are in flight alone.
        barred: it is up, and taken out for failing too often.
        frozen: why its processes would not execute anything now (stopped, silent); empty where they would.
        lost_ns: when it was lost; 0 while it is up, and when its processes are known to be gone.
        step_limit: `step_tokens`, or less for a while after a step that ran out of memory.
        slot_cap, step_cap: what the operator allows of `slots` and `step_tokens`.
        leaving: its processes are about to end; no step is planned any more.
        cores: that its ranks compute with, in all: a second of a step is so many of computing.
        dimensions: of an encoder's answer to a row, which is a whole sequence in one step; 0 of a decoder.
        speculation: how many draft tokens its rows may have.
        spent_ns, prefill_ns: computing that who is in a slot has cost since it entered, and what of it was prefill.
        adapters: that its workers have in memory.
        device_pages: that its slots can hold at once, where KV is computed in device memory; 0 is any number.
        window, fold: see `windows`; 0 tokens is no window, 0 blocks that no layer sees more than it.
        crowded: pages that rows of the last plan wanted, and for which there was no room in device memory.
        forgetting: pages that left its block tables without a name, to be told with the next plan.
        retired: left by requests while steps that may write their pages are in flight.
        limbo: left by requests when the replica failed; reusable when it is fenced.
    """

    def __init__(
        self,
        number: int,
        slots: int,
        step_tokens: int,
        context_tokens: int,
        page_tokens: int,
        cores: int = 1,
        dimensions: int = 0,
        drafts: int = 0,
        adapters: int = 0,
        device_pages: int = 0,
        window: int = 0,
        fold: int = 0,
    ) -> None:
        self.number = number
        self.slots = slots
        self.step_tokens = step_tokens
        self.page_tokens = page_tokens
        self.cores = cores
        self.dimensions = dimensions
        self.device_pages = device_pages
        self.window, self.fold = window, fold
        self.crowded = 0
        self.forgetting: list[int] = []
        self.ready = False
        self.draining = False
        self.leaving = False
        self.killed = False
        self.barred = False
        self.frozen = ""
        self.lost_ns = 0
        self.next_step = 1
        self.completed_step = 0
        self.flights: deque[Flight] = deque()
        self.cost = CostModel()
        self.speculation = Speculation(slots, drafts)
        self.watch = Watch()
        self.step_limit = step_tokens
        self.slot_cap, self.step_cap = slots, step_tokens
        self._steps_to_grow = 0
        self.requests: list[Request | None] = [None] * slots
        self.free_slots = list(range(slots - 1, -1, -1))
        self.opening: dict[int, SlotOpen] = {}
        self.closing: list[int] = []
        self.prefilling: list[int] = []
        self.backlog = 0
        self.starved = 0
        self.sat_out = False  # nothing could be planned for want of pages, and nothing has been since
        self.running = 0
        self.scoring: set[int] = set()
        self.handing: set[int] = set()
        self.batch: set[int] = set()
        self.tried: set[int] = set()
        self.tried_last = False
        self.retired: list[Retired] = []
        self.limbo: list[Retired] = []
        self.limbo_until_step = 0
        self.gap_ns = 0.0
        self.adapters = Residency(adapters)

        def column() -> Ints:
            return np.zeros(slots, np.int64)

        self.home, self.client, self.order = column(), column(), column()
        self.known, self.planned, self.computed = column(), column(), column()
        self.prompt_len, self.prefill_end, self.limit = column(), column(), column()
        self.last_start = column()  # limit - 1: the position whose logits would draw a token too many
        self.room = column()  # tokens that the pages of the block table hold
        self.stop_from = column()  # known tokens from which stop ids count
        self.last_step, self.last_token_ns = column(), column()
        self.spent_ns, self.prefill_ns = column(), column()
        self.request_id = np.zeros(slots, np.uint64)
        # fresh: has drawn nothing since it was opened
        self.active, self.decoding, self.keyed, self.fresh = (np.zeros(slots, np.bool_) for _ in range(4))
        self.stops: Ints = np.full((slots, 1), NO_STOP, np.int64)
        # Virtual memory: rows cost what requests write of them.
        self.tokens = np.zeros((slots, context_tokens), np.uint32)

    @property
    def in_flight(self) -> int:
        """Steps planned and not answered."""
        return len(self.flights)

    @property
    def depth(self) -> int:
        """How many steps may be in flight."""
        return 1 if self.tried else STEPS_IN_FLIGHT

    @property
    def serving(self) -> bool:
        """Whether it takes what is new."""
        return self.ready and not self.draining and not self.leaving and not self.frozen

    @property
    def openings(self) -> int:
        """Slots that a request can enter now; none while more run than are allowed since a limit was lowered."""
        return max(0, min(len(self.free_slots), self.slot_cap - self.running))

    @property
    def step_budget(self) -> int:
        """Most tokens of a step."""
        return min(self.step_limit, self.step_cap)

    @property
    def urgent_backlog(self) -> int:
        """`backlog` without that of batch, which is computed after what enters now."""
        behind = [slot for slot in self.prefilling if slot in self.batch] if self.batch else ()
        return self.backlog - sum(int(self.prefill_end[slot] - self.planned[slot]) for slot in behind)

    @property
    def placeable(self) -> bool:
        """Whether a request can enter now."""
        return self.serving and self.openings > 0

    @property
    def spare_pages(self) -> int:
        """How many more pages its block tables can name."""
        if not self.device_pages:
            return sys.maxsize
        spare = self.device_pages - int(self.room[self.active].sum()) // self.page_tokens
        if spare >= self.slots:
            return spare
        # Requests share pages of prefixes. Counting them apart takes longer, and matters only where room is short.
        named: set[int] = set()
        for request in self.requests:
            if request is not None:
                named.update(request.table)
        return self.device_pages - len(named)

    def open(
        self,
        request: Request,
        home: int,
        limit: int,
        generations: list[int],
        *,
        computed: int = -1,
        handing: bool = False,
    ) -> int:
        """A request enters a free slot, with the pages of its table holding what is computed already.

        Args:
            computed: so many tokens; -1 is all that the pages hold.
            handing: it is to be prefilled here, but for its last token, and goes on elsewhere.
        """
        slot = self.free_slots.pop()
        tokens, table = request.tokens, request.table
        known, prompt_len = len(tokens) // 4, request.prompt_len
        room = len(table) * self.page_tokens
        computed = room if computed < 0 else computed
        submit = request.submit
        request.phase, request.replica, request.slot = Phase.RUNNING, self.number, slot
        request.found = computed
        self.requests[slot] = request
        self.running += 1
        self.active[slot] = self.fresh[slot] = True
        self.decoding[slot] = False
        self.keyed[slot] = request.reuse
        self.request_id[slot] = request.id
        self.home[slot] = home
        self.client[slot] = request.client
        self.order[slot] = request.key
        self.prompt_len[slot] = prompt_len
        self.known[slot] = known
        self.prefill_end[slot] = end = known - 1 if handing else known
        self.computed[slot] = self.planned[slot] = computed
        self.room[slot] = room
        self.limit[slot] = limit
        self.last_start[slot] = limit - 1
        self.stop_from[slot] = prompt_len + submit.sampling.unstopped
        self.last_step[slot] = self.completed_step
        self.last_token_ns[slot] = request.last_token_ns
        self.spent_ns[slot] = self.prefill_ns[slot] = 0
        self.speculation.open(slot)
        self.tokens[slot, :known] = unpack_u32(tokens)
        self._set_stops(slot, submit.stop_token_ids)
        self.prefilling.append(slot)
        if request.standing is Standing.ON_TRIAL:
            self.tried.add(slot)
        if submit.batch:
            self.batch.add(slot)
        self.backlog += end - computed
        if handing:
            self.handing.add(slot)
        if limit <= known:
            self.scoring.add(slot)
        self.opening[slot] = SlotOpen(
            slot, request.id, tokens, prompt_len, computed, pack_u32(table), pack_u32(generations), submit.sampling,
            submit.prompt_logprobs if request.wants_prompt_logprobs else -1, submit.segment, request.adapter,
        )  # fmt: skip
        if request.adapter:
            self.adapters.enter(request.adapter)
        return slot

    def keep(self, slot: int) -> None:
        """A request that was to go elsewhere stays, and computes its last token here."""
        self.handing.remove(slot)
        self.prefill_end[slot] = self.known[slot]
        self.prefilling.append(slot)
        self.backlog += int(self.prefill_end[slot] - self.planned[slot])

    def leave(self, slot: int) -> Request:
        """The request in a slot leaves it, with its tokens. Its pages and the slot are the caller's to give back."""
        request = self.requests[slot]
        assert request is not None
        prompt_len, known = int(self.prompt_len[slot]), int(self.known[slot])
        request.output = self.tokens[slot, prompt_len:known].astype("<u4").tobytes()
        request.last_token_ns = int(self.last_token_ns[slot])
        request.spent_ns += int(self.spent_ns[slot])
        request.prefill_ns += int(self.prefill_ns[slot])
        request.drafted += int(self.speculation.drafted[slot])
        request.accepted += int(self.speculation.accepted[slot])
        request.replica = request.slot = -1
        if request.adapter:  # plans that were sent may still open its slot
            self.adapters.leave(request.adapter, self.next_step - 1)
        self.requests[slot] = None
        self.running -= 1
        self.active[slot] = self.decoding[slot] = False
        self.scoring.discard(slot)
        self.handing.discard(slot)
        self.tried.discard(slot)
        self.batch.discard(slot)
        if slot in self.prefilling:
            self.prefilling.remove(slot)
            self.backlog -= int(self.prefill_end[slot] - self.planned[slot])
        if self.opening.pop(slot, None) is None:
            self.closing.append(slot)
        return request

    def complete(self, step: int) -> list[Retired]:
        """Step `step` is complete. Returns what may be reused because of it; its slots are free again."""
        self.completed_step = step
        due = [left for left in self.retired if left.after <= step]
        if due:
            self.retired = [left for left in self.retired if left.after > step]
            self.free_slots.extend(left.slot for left in due)
        if self.limbo and step >= self.limbo_until_step:
            due, self.limbo = due + self.limbo, []
        return due

    def shrink(self, tokens: int) -> bool:
        """A step of so many tokens ran out of memory: make smaller ones for a while. False where that was tried."""
        if self._steps_to_grow == SHRUNK_STEPS or tokens <= SMALLEST_STEP:
            return False
        self.step_limit = max(SMALLEST_STEP, min(self.step_limit, tokens) // 2)
        self._steps_to_grow = SHRUNK_STEPS
        return True

    def grow(self) -> None:
        """A step went well: perhaps larger ones fit again."""
        self._steps_to_grow -= 1
        if self._steps_to_grow <= 0:
            self.step_limit = min(self.step_tokens, 2 * self.step_limit)
            self._steps_to_grow = SHRUNK_STEPS - 1

    def fail(self) -> None:
        """Nothing in flight will be answered, and all slots are closed. What was retired waits for the fence."""
        assert not self.running
        self.starved = self.crowded = 0
        self.forgetting.clear()  # whoever closes all slots at once forgets all by itself
        self.flights.clear()
        self.adapters.settled()
        self.limbo += self.retired
        self.limbo_until_step = self.next_step
        self.retired = []
        self.opening.clear()
        self.closing.clear()
        self.free_slots = list(range(self.slots - 1, -1, -1))

    def output(self, slot: int, start: int) -> bytes:
        """Generated tokens from the `start`-th, packed u32."""
        prompt_len, known = int(self.prompt_len[slot]), int(self.known[slot])
        return self.tokens[slot, prompt_len + start : known].astype("<u4").tobytes()

    def _set_stops(self, slot: int, stop_ids: bytes) -> None:
        ids = unpack_u32(stop_ids)
        if len(ids) > self.stops.shape[1]:
            wider = np.full((self.slots, len(ids)), NO_STOP, np.int64)
            wider[:, : self.stops.shape[1]] = self.stops
            self.stops = wider
        self.stops[slot] = NO_STOP
        self.stops[slot, : len(ids)] = ids
