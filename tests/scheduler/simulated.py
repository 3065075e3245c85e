"""A world for the scheduler's core: workers, a page server and ingresses that check what they are told.

KV is simulated by content: position p of a page holds a hash of all tokens up to p. A worker that attends to a page
which holds anything else fails the test, so reuse of a wrong, stale or unwritten page is seen where it happens.
Nothing here moves by itself: every message waits until somebody delivers it.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import msgspec

from bus import blocks
from bus.messages.adapters import AdapterSource
from bus.messages.requests import (
    Abort,
    Accepted,
    Deltas,
    Finished,
    PromptLogprobs,
    Refused,
    Sampling,
    Spent,
    Submit,
    TokenLogprobs,
)
from bus.messages.steps import StepFailed, StepPlan, StepResult
from bus.packed import pack_u32, unpack_u32, unpack_u64
from scheduler.core import events as e
from scheduler.core.core import SchedulerCore
from scheduler.core.state import Limits

VOCABULARY = 40
STOP = 7
CORES = 3  # of a replica
ROOT = blocks.salted_root(blocks.root_digest(b"weights", "float32", "page-first", 4), b"tenant")


def extend(prefix: int, token: int) -> int:
    """The hash of a prefix and one more token: what KV at that token's position depends on."""
    return hash((prefix, token)) & 0xFFFFFFFFFFFF


def prefix_hash(tokens: list[int], value: int = 1) -> int:
    for token in tokens:
        value = extend(value, token)
    return value


def next_token(prefix: int) -> int:
    return (prefix >> 7) % VOCABULARY


def beginning(adapter: bytes) -> int:
    """The hash of nothing: KV depends on the adapter from the first token on."""
    return extend(1, int.from_bytes(adapter, "little")) if adapter else 1


def truth(
    prompt: list[int], max_tokens: int, stops: set[int], min_tokens: int, context: int, adapter: bytes = b""
) -> tuple[list[int], str]:
    """What any correct scheduler generates, and why it ends."""
    value, out = prefix_hash(prompt, beginning(adapter)), list[int]()
    while len(out) < max_tokens and len(prompt) + len(out) < context:
        token = next_token(value)
        out.append(token)
        if token in stops and len(out) >= min_tokens:
            return out, "stop"
        value = extend(value, token)
    return out, "length"


@dataclass
class Kv:
    """pages.py's semantics as dictionaries. One owner. A pin is a set membership, as kv promises no more."""

    capacity: int
    page_tokens: int
    generation: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    leased: set[int] = field(default_factory=set)
    pinned: set[int] = field(default_factory=set)
    cached: dict[int, None] = field(default_factory=dict)  # least recently used first
    digest: dict[int, bytes] = field(default_factory=dict)
    parent: dict[int, bytes] = field(default_factory=dict)
    index: dict[bytes, int] = field(default_factory=dict)
    inbox: deque[e.Action] = field(default_factory=deque)
    outbox: deque[e.Event] = field(default_factory=deque)
    up: bool = True
    hidden: int = 0  # pages that somebody else has at the moment
    memory: dict[int, list[int]] = field(default_factory=dict)
    disk: dict[bytes, tuple[bytes, list[int]]] | None = None  # where there is one: parent and content, by digest
    disk_us: int = 1000  # for a page, or so it says

    def __post_init__(self) -> None:
        self.free = list(range(self.capacity))
        self.generation = dict.fromkeys(range(self.capacity), 0)

    def process(self) -> None:
        """The next message."""
        action = self.inbox.popleft()
        if isinstance(action, e.LeasePages):
            self._lease(action)
        elif isinstance(action, e.SealPages):
            self._seal(action)
        elif isinstance(action, e.LookUp):
            self._look_up(action)
        elif isinstance(action, e.ReleasePages):
            for page, generation in self._handles(action.pages, action.generations):
                if self.generation[page] != generation:
                    continue
                if page in self.leased:
                    self.leased.discard(page)
                    self.free.append(page)
                elif page in self.pinned:
                    self.pinned.discard(page)
                    self.cached[page] = None
        elif isinstance(action, e.ReassertPages):
            self._reassert(action)
        self.check()

    def check(self) -> None:
        parts = [set(self.free), self.leased, self.pinned, set(self.cached)]
        assert sum(map(len, parts)) == self.capacity == len(set.union(*parts))

    def _handles(self, pages: bytes, generations: bytes) -> list[tuple[int, int]]:
        return list(zip(unpack_u32(pages).tolist(), unpack_u32(generations).tolist(), strict=True))

    def _lease(self, action: e.LeasePages) -> None:
        pages: list[int] = []
        while len(pages) < action.count and (page := self._take()) is not None:
            self.leased.add(page)
            pages.append(page)
        self.outbox.append(e.Leased(action.lease, pack_u32(pages), pack_u32([self.generation[page] for page in pages])))

    def _take(self) -> int | None:
        """A page that nobody has, of a new generation."""
        if len(self.leased) + len(self.pinned) >= self.capacity - self.hidden:
            return None
        if not self.free:
            if not self.cached:
                return None
            parents = {self.parent[page] for page in list(self.cached) + list(self.pinned)}
            self.evict(
                next((page for page in self.cached if self.digest[page] not in parents), next(iter(self.cached)))
            )
        page = self.free.pop(0)
        self.generation[page] += 1
        return page

    def evict(self, victim: int) -> None:
        """A cached page is free; its content is on disk, where there is one."""
        del self.cached[victim]
        digest = self.digest.pop(victim)
        del self.index[digest]
        if self.disk is not None:
            self.disk[digest] = self.parent[victim], list(self.memory[victim])
        self.memory[victim] = [-1] * self.page_tokens
        self.free.append(victim)

    def _seal(self, action: e.SealPages) -> None:
        codes, pages, generations = [], [], []
        for i, (page, generation) in enumerate(self._handles(action.pages, action.generations)):
            digest = action.digests[16 * i : 16 * i + 16]
            if page not in self.leased or self.generation[page] != generation:
                codes.append(2)
            elif digest in self.index:
                codes.append(1)
                page = self.index[digest]
                self.cached.pop(page, None)
                self.pinned.add(page)
            else:
                codes.append(0)
                self.leased.discard(page)
                self.pinned.add(page)
                self.index[digest], self.digest[page] = page, digest
                self.parent[page] = action.parents[16 * i : 16 * i + 16]
            pages.append(page)
            generations.append(self.generation[page])
        self.outbox.append(e.Sealed(action.seal, pack_u32(codes), pack_u32(pages), pack_u32(generations)))

    def _look_up(self, action: e.LookUp) -> None:
        pages = []
        for i in range(0, len(action.digests), 16):
            page = self.index.get(action.digests[i : i + 16])
            if page is None and action.wait_ms:
                page = self._read(action.digests[i : i + 16])
            if page is None:
                break
            assert page not in self.pinned, "asked for a page that is pinned already: two pins cannot be told apart"
            self.cached.pop(page, None)
            self.pinned.add(page)
            pages.append(page)
        ahead = 0
        for i in range(16 * len(pages), len(action.digests), 16):
            if action.digests[i : i + 16] not in (self.disk or ()):
                break
            ahead += 1
        generations = pack_u32([self.generation[page] for page in pages])
        self.outbox.append(e.Found(action.lookup, pack_u32(pages), generations, ahead, ahead * self.disk_us))

    def _read(self, digest: bytes) -> int | None:
        """A page comes back from disk."""
        if self.disk is None or digest not in self.disk or (page := self._take()) is None:
            return None
        self.parent[page], self.memory[page] = self.disk[digest]
        self.memory[page] = list(self.memory[page])
        self.index[digest], self.digest[page], self.cached[page] = page, digest, None
        return page

    def _reassert(self, action: e.ReassertPages) -> None:
        pins = self._handles(action.pins, action.pin_generations)
        leases = self._handles(action.leases, action.lease_generations)
        lost = [p for p, g in pins if self.generation[p] != g or (p not in self.pinned and p not in self.cached)]
        lost += [p for p, g in leases if self.generation[p] != g or p not in self.leased]
        kept_pins = {page for page, _ in pins} - set(lost)
        kept_leases = {page for page, _ in leases} - set(lost)
        for page in self.leased - kept_leases:
            self.free.append(page)
        self.leased = kept_leases
        for page in self.pinned - kept_pins:
            self.cached[page] = None
        for page in kept_pins:
            self.cached.pop(page, None)
        self.pinned = kept_pins
        self.outbox.append(e.Reasserted(pack_u32(lost)))

    def forget_cached(self) -> None:
        """A restart that could not trust what nobody held."""
        for page in list(self.cached):
            del self.index[self.digest.pop(page)]
            self.free.append(page)
        self.cached.clear()

    def lose_pinned(self, memory: dict[int, list[int]]) -> None:
        """A restart that could not trust sealed pages either; somebody else writes them at once."""
        for page in list(self.pinned):
            del self.index[self.digest.pop(page)]
            self.generation[page] += 1
            self.free.append(page)
            memory[page] = [-1] * self.page_tokens
        self.pinned.clear()


@dataclass
class Slot:
    request: int
    tokens: list[int]
    table: list[int]
    computed: int
    prompt_tokens: int
    prompt_logprobs: int
    logprobs: int
    hashes: list[int]
    beginning: int = 1
    folds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Poison:
    """What happens when a request's token at `position` is computed; at any position where it is None.

    `kind`: "named" and "unnamed" raise, "crash" ends the process, "hang" never returns, "open" raises before any row.
    """

    kind: str = "named"
    position: int | None = None

    def hit(self, start: int, count: int) -> bool:
        return self.position is None or start <= self.position < start + count


@dataclass
class DeviceMemory:
    """A worker's own copies of pages. Nothing is ever given up for room: what is kept too long is seen.

    Attributes:
        room: pages that block tables may name at once.
        copies: generation and content by page.
        whole: pages that are full; their copy is found again.
    """

    room: int
    copies: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)

    def enter(self, page: int, generation: int, arena: list[int] | None, size: int) -> None:
        """A page enters a block table; `arena` is what the arena holds of one that is named, None of one to write."""
        if arena is None:
            self.copies[page] = generation, [0] * size
            self.whole.discard(page)
        elif page not in self.whole or self.copies[page][0] != generation:
            self.copies[page] = generation, list(arena)
            self.whole.add(page)

    def leave(self, tables: list[list[int]]) -> None:
        """Block tables are only these any more: what is not full, is nothing."""
        held = {page for table in tables for page in table}
        for page in self.copies.keys() - held - self.whole:
            del self.copies[page]

    def forget(self, pages: list[int], tables: list[list[int]]) -> None:
        """The scheduler may hand them out again."""
        held = {page for table in tables for page in table}
        for page in pages:
            if page not in held:
                self.copies.pop(page, None)
                self.whole.discard(page)

    def check(self, tables: list[list[int]]) -> None:
        """Whether the tables fit."""
        assert len({page for table in tables for page in table}) <= self.room, "device memory has no room for this"


@dataclass
class Worker:
    """A replica that executes plans in order and checks every page that it reads or writes."""

    replica: int
    slots: int
    page_tokens: int
    kv: Kv
    pages: dict[int, list[int]]
    inbox: deque[StepPlan | e.ResetReplica] = field(default_factory=deque)
    outbox: deque[e.Event] = field(default_factory=deque)
    state: dict[int, Slot] = field(default_factory=dict)
    expected: int = -1
    alive: bool = False
    poison: dict[int, Poison] = field(default_factory=dict)  # by request
    memory: int = 1 << 30  # tokens of the largest step that fits
    crashed: bool = False
    hung: bool = False
    device: DeviceMemory | None = None
    window: int = 0  # tokens that layers see; 0 is all
    fold: int = 0  # blocks whose layers without one go into a page; 0 where all have one
    adapters: dict[int, bytes] = field(default_factory=dict)  # there, with their digests
    reading: list[AdapterSource] = field(default_factory=list)

    def keep(self, sources: tuple[AdapterSource, ...]) -> None:
        """What is not wanted goes at once, whatever plans still wait; what is not there is read later."""
        wanted = {source.number for source in sources}
        self.adapters = {number: digest for number, digest in self.adapters.items() if number in wanted}
        self.reading = [source for source in sources if source.number not in self.adapters]

    def read(self) -> None:
        """One of those is there."""
        source = self.reading.pop(0)
        self.adapters[source.number] = source.digest
        self.outbox.append(e.AdapterRead(self.replica, source.number, source.digest, 1000))

    def execute(self, fail: bool = False) -> None:
        """The next message: a plan, or a reset."""
        message = self.inbox.popleft()
        if isinstance(message, e.ResetReplica):
            self.clear()
            self.expected = message.next_step
            return
        plan = message
        if plan.step != self.expected:
            return  # of before a reset that this worker waits for
        self.expected += 1
        for slot in unpack_u32(plan.closes).tolist():
            del self.state[slot]
        self._forget(unpack_u32(plan.forgets).tolist())
        for o in plan.opens:
            assert o.slot not in self.state
            assert o.slot < self.slots
            assert not o.adapter or o.adapter in self.adapters, "a slot of an adapter that is not there"
            tokens = unpack_u32(o.tokens).tolist()
            self.state[o.slot] = Slot(
                o.request, tokens, unpack_u32(o.pages).tolist(), o.computed, o.prompt_tokens, o.prompt_logprobs,
                o.sampling.logprobs, [], beginning(self.adapters.get(o.adapter, b"")),
            )  # fmt: skip
            self._enter(o.slot, unpack_u32(o.generations).tolist(), 0, o.computed // self.page_tokens)
        diff = (plan.page_slots, plan.pages, plan.page_generations)
        for slot, page, generation in zip(*(unpack_u32(column).tolist() for column in diff), strict=True):
            self.state[slot].table.append(page)
            self._enter(slot, [generation], len(self.state[slot].table) - 1, 0)
        for slot, page in zip(unpack_u32(plan.fold_slots).tolist(), unpack_u32(plan.folds).tolist(), strict=True):
            self._fold(self.state[slot], page)
        if self.device is not None:
            self.device.check([s.table for s in self.state.values()])
        rows = list(zip(*(unpack_u32(x).tolist() for x in (plan.slots, plan.starts, plan.counts)), strict=True))
        if plan.drafts:
            rows = [self._begin(*row, sample) for row, sample in zip(rows, plan.samples, strict=True)]
        assert len({slot for slot, _, _ in rows}) == len(rows), "one row per slot"
        counts = [count for _, _, count in rows]
        assert sorted(counts, key=lambda count: count == 1) == counts, "chunks come first"
        bad = [
            (slot, poison.kind)
            for slot, start, count in rows
            if (poison := self.poison.get(self.state[slot].request)) is not None
            and (poison.kind != "open" and poison.hit(start, count))
        ]
        bad += [(o.slot, "open") for o in plan.opens if self.poison.get(o.request) == Poison("open")]
        if bad and bad[0][1] in ("crash", "hang"):
            self.crashed, self.hung = bad[0][1] == "crash", bad[0][1] == "hang"
            return
        too_large = sum(counts) > self.memory
        if fail or bad or too_large:
            self.clear()
            self.expected = -1
            named = [slot for slot, kind in bad if kind == "named"]
            self.outbox.append(e.StepBroken(self.replica, StepFailed(plan.step, "raised", pack_u32(named), too_large)))
            return
        drawn: list[tuple[int, int]] = []
        drafted: list[int] = []
        several: list[int] = []
        logprobs = []
        prompt = []
        for (slot, start, count), sample, allowed in zip(
            rows, plan.samples, plan.drafts or bytes(len(rows)), strict=True
        ):
            s = self.state[slot]
            assert start == s.computed, "positions are computed in order"
            self._attend(s, start, count)
            s.computed = start + count
            if s.prompt_logprobs >= 0 and start < s.prompt_tokens:
                values = tuple(TokenLogprobs(-float(p)) for p in range(max(1, start), start + count))
                prompt.append((slot, max(1, start), values))
            if sample:
                assert start + count == len(s.tokens), "only the newest token's logits are drawn from"
                token = next_token(s.hashes[-1])
                s.tokens.append(token)
                if s.logprobs >= 0:
                    logprobs.append((len(drawn), TokenLogprobs(float(token))))
                drawn.append((slot, token))
                several.append(1)
                drafted.append(0)
                if allowed:
                    drafted[-1] = random.Random(plan.step * 64 + slot).randint(0, self._room(s, allowed))
                    right = random.Random(plan.step * 64 + slot + 7).randint(0, drafted[-1])
                    self._scribble(s, drafted[-1])
                for _ in range(right if allowed else 0):
                    self._attend(s, s.computed, 1)
                    s.computed += 1
                    s.tokens.append(token := next_token(s.hashes[-1]))
                    if s.logprobs >= 0:
                        logprobs.append((len(drawn), TokenLogprobs(float(token))))
                    drawn.append((slot, token))
                    several[-1] += 1
        self.outbox.append(
            e.StepDone(
                self.replica,
                StepResult(
                    plan.step, pack_u32(list(dict.fromkeys(s for s, _ in drawn))), pack_u32([t for _, t in drawn]), 0,
                    1_000_000 + 10_000 * (sum(counts) + sum(drafted)), tuple(logprobs), tuple(prompt),
                    drawn=bytes(several) if any(drafted) else b"", drafted=bytes(drafted) if any(drafted) else b"",
                ),
            )
        )  # fmt: skip

    def _begin(self, slot: int, start: int, count: int, sample: int) -> tuple[int, int, int]:
        """Where a row begins, of a plan with drafts."""
        if not sample or count > 1:
            return slot, start, count
        newest = len(self.state[slot].tokens) - 1
        assert start <= newest
        return slot, newest, 1

    def _room(self, s: Slot, allowed: int) -> int:
        """Drafts behind the newest token but one: all that were allowed fit, whatever came of those before."""
        assert len(s.table) * self.page_tokens >= len(s.tokens) - 1 + allowed, "drafts without pages"
        return allowed

    def _scribble(self, s: Slot, drafts: int) -> None:
        """Wrong drafts leave rubbish behind the sequence."""
        for position in range(s.computed, s.computed + drafts):
            page = s.table[position // self.page_tokens]
            assert page in self.kv.leased, f"page {page} is not writable"
            self.pages.setdefault(page, [0] * self.page_tokens)[position % self.page_tokens] = -1

    def clear(self) -> None:
        """All slots are closed, and nothing is known of pages any more."""
        self.state.clear()
        if self.device is not None:
            self.device = DeviceMemory(self.device.room)

    def _forget(self, pages: list[int]) -> None:
        if self.device is None:
            assert not pages, "told to forget what it never keeps"
            return
        tables = [s.table for s in self.state.values()]
        self.device.leave(tables)
        self.device.forget(pages, tables)

    def _enter(self, slot: int, generations: list[int], first: int, known: int) -> None:
        if self.device is None:
            return
        for index, generation in enumerate(generations):
            page = self.state[slot].table[first + index]
            self.device.enter(page, generation, self.pages[page] if index < known else None, self.page_tokens)

    def _held(self, page: int) -> list[int]:
        """What attention reads and writes of a page."""
        if self.device is not None:
            return self.device.copies[page][1]
        return self.pages.setdefault(page, [0] * self.page_tokens)

    def _fold(self, s: Slot, page: int) -> None:
        """The next blocks of a slot are brought together in a page."""
        assert page in self.kv.leased, f"page {page} is not writable"
        first = len(s.folds) * self.fold
        blocks = s.table[first : first + self.fold]
        assert len(blocks) == self.fold
        self.pages[page] = [value for block in blocks for value in self.pages[block]]
        s.folds.append(page)

    def _attend(self, s: Slot, start: int, count: int) -> None:
        size = self.page_tokens
        assert len(s.tokens) >= start + count, "a position whose token nobody knows"
        value = s.hashes[-1] if s.hashes else s.beginning
        for position in range(len(s.hashes), start + count):
            value = extend(value, s.tokens[position])
            s.hashes.append(value)
        for position in range(start):
            block, at = divmod(position, size)
            places = [(s.table[block], at)] if not self.window or position > start - self.window else []
            if self.fold or not self.window:  # layers that see everything
                number, of = divmod(block, self.fold or 1)
                folded = self.fold and number < len(s.folds)
                places.append((s.folds[number], of * size + at) if folded else (s.table[block], at))
            for page, where in places:
                held = self._held(page)[where]
                assert held == s.hashes[position], f"position {position} of request {s.request} is not in its page"
        for position in range(start, start + count):
            page = s.table[position // size]
            assert page in self.kv.leased, f"page {page} is not writable"
            self._held(page)[position % size] = s.hashes[position]
            if self.device is not None and position % size == size - 1:
                self.pages[page] = list(self._held(page))
                self.device.whole.add(page)


@dataclass
class Client:
    """One request as its ingress sees it."""

    submit: Submit
    home: e.Home
    expected: list[int]
    reason: str
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    accepted: bool = False
    refused: Refused | None = None
    finished: Finished | None = None
    cached: int = 0  # as told with its first tokens
    aborted: bool = False

    @property
    def ended(self) -> bool:
        return self.aborted or self.finished is not None or self.refused is not None


@dataclass
class Written:
    """What a row in flight can write: `table`'s pages from position `start` on. Where earlier steps may have drafts,
    `start` is the least that it can be, as if each brought one token; it moves as their results come."""

    slot: int
    table: list[int]
    start: int
    end: int
    movable: bool

    def pages(self, size: int) -> set[int]:
        return {self.table[position // size] for position in range(self.start, self.end)}


class World:
    """The core among simulated others."""

    def __init__(
        self,
        *,
        replicas: int = 1,
        slots: int = 3,
        step_tokens: int = 16,
        capacity: int = 20,
        context: int = 48,
        page_tokens: int = 4,
        device_pages: int = 0,
        window: int = 0,
        fold: int = 0,
        **limits: object,
    ) -> None:
        self.now = 1_000_000_000
        self.device_pages = device_pages
        self.context, self.page_tokens, self.step_tokens, self.slots = context, page_tokens, step_tokens, slots
        settings: dict[str, object] = {"model": "m", "replicas": replicas, "slots": slots, "extent": 2} | limits
        self.core = SchedulerCore(Limits(**settings))  # type: ignore[arg-type]
        self.kv = Kv(capacity, page_tokens)
        self.memory = self.kv.memory
        self.workers = {n: Worker(n, slots, page_tokens, self.kv, self.memory) for n in range(replicas)}
        self.window, self.fold = (0, 0) if device_pages else (window, fold)
        for worker in self.workers.values():
            worker.window, worker.fold = self.window, self.fold
        self.clients: dict[int, Client] = {}
        self.homes = {name: e.Home(name, 1) for name in ("ingress@0", "ingress@1")}
        self.lookups: list[int] = []
        self.notes: list[tuple[int, str]] = []
        self.plans: list[StepPlan] = []
        self.sent: dict[int, list[StepPlan]] = {number: [] for number in range(replicas)}  # the same by replica
        self.actions: list[e.Action] = []
        self.acted = 0
        self.resets: list[e.ResetReplica] = []
        self.history: list[e.Action] = []  # all but plans and replies
        self.killed: list[int] = []
        self.ending: set[int] = set()  # of these, those that have not ended yet
        self.failures = 0
        self.talk = 0  # what kv did since a worker did anything, or time passed
        # What steps in flight can write, by (replica, step); and block tables as of the last plan sent.
        self.writes: dict[tuple[int, int], list[Written]] = {}
        self.tables: dict[tuple[int, int], list[int]] = {}
        self.drafts: dict[tuple[int, int], dict[int, int]] = {}  # the most of them, by slot
        self.drafted = 0
        self.next_request = 100
        self.computed_ns = self.told_ns = 0  # in steps that the core has taken in; of requests that have ended

    # --- messages --------------------------------------------------------------------------------------------------

    def do(self, event: e.Event) -> list[e.Action]:
        """Give the core an event, hand out what it asks for, and check what it knows."""
        if isinstance(event, e.StepDone):
            for key in [key for key in self.writes if key[0] == event.replica and key[1] <= event.result.step]:
                del self.writes[key]
            flights = self.core.state.replicas[event.replica].flights
            told = event.result if flights and flights[0].step == event.result.step else None
            more = dict(zip(unpack_u32(told.slots).tolist(), told.drawn, strict=False)) if told else {}
            for row in [row for key, rows in self.writes.items() if key[0] == event.replica for row in rows]:
                row.start += (more.get(row.slot, 1) - 1) if row.movable else 0
        if isinstance(event, e.ReplicaFenced | e.ReplicaUp):
            for key in [key for key in self.writes if key[0] == event.replica]:
                del self.writes[key]
        self.now += 1_000
        ran = {number: replica.running for number, replica in self.core.state.replicas.items()}
        flight = None
        if isinstance(event, e.StepDone):
            replica = self.core.state.replicas[event.replica]
            flight = replica.flights[0] if replica.flights else None
        actions = self.core.handle(event, self.now)
        self._check_limits(ran, actions)
        if flight is not None and flight.step == event.result.step == replica.completed_step and flight.tokens:
            self.computed_ns += event.result.ran_ns * CORES
        for page in self.core.state.pool.free_pages():  # whoever reads it is found out
            self.memory[page] = [-1] * self.page_tokens
        for action in actions:
            self._take(action)
        self.actions = actions
        self.acted += len(actions)
        self.check()
        return actions

    def _check_limits(self, ran: dict[int, int], actions: list[e.Action]) -> None:
        """Nothing enters beyond the slots that are allowed, and no step is larger than is allowed."""
        limits, replicas = self.core.state.limits, self.core.state.replicas
        for number, replica in replicas.items():
            assert replica.running <= max(min(limits.slots, replica.slots), ran.get(number, 0))
        for action in actions:
            if isinstance(action, e.SendPlan):
                replica = replicas[action.replica]
                tokens = int(unpack_u32(action.plan.counts).sum()) + sum(action.plan.drafts)
                assert tokens <= min(replica.step_tokens, limits.step_tokens or replica.step_tokens)

    def _take(self, action: e.Action) -> None:
        if isinstance(action, e.Reply):
            self._reply(action)
        elif isinstance(action, e.SendPlan):
            self.plans.append(action.plan)
            self.sent[action.replica].append(action.plan)
            self._follow(action.replica, action.plan)
            self.workers[action.replica].inbox.append(action.plan)
        elif isinstance(action, e.ResetReplica):
            self.resets.append(action)
            self.workers[action.replica].inbox.append(action)
        elif isinstance(action, e.Note):
            self.notes.append((action.event.request, action.event.kind))
        elif isinstance(action, e.KeepAdaptersOf):
            assert len(action.adapters) <= self.core.state.limits.adapters
            self.workers[action.replica].keep(action.adapters)
        elif isinstance(action, e.KillReplica):
            self.killed.append(action.replica)
            self.ending.add(action.replica)
            self.history.append(action)
        elif isinstance(action, e.ReplicaFailed):
            self.history.append(action)
        else:
            assert self.kv.up, f"{action} to a kv that is down"
            if isinstance(action, e.LookUp):
                self.lookups.append(action.lookup)
            self.kv.inbox.append(action)

    def _follow(self, replica: int, plan: StepPlan) -> None:
        for o in plan.opens:
            self.tables[replica, o.slot] = unpack_u32(o.pages).tolist()
        for slot, page in zip(unpack_u32(plan.page_slots).tolist(), unpack_u32(plan.pages).tolist(), strict=True):
            self.tables[replica, slot].append(page)
        slots = unpack_u32(plan.slots).tolist()
        drafts = self.drafts[replica, plan.step] = dict(zip(slots, plan.drafts or bytes(len(slots)), strict=True))
        written: list[Written] = []
        flying = [flight.step for flight in self.core.state.replicas[replica].flights if flight.step < plan.step]
        for slot, start, count in zip(slots, *(unpack_u32(x).tolist() for x in (plan.starts, plan.counts)),
                                      strict=True):  # fmt: skip
            # What may be written, whatever comes of the drafts of steps in flight.
            ahead = drafts[slot] + sum(self.drafts[replica, step].get(slot, 0) for step in flying)
            movable = bool(plan.drafts) and count == 1
            written.append(Written(slot, self.tables[replica, slot], start, start + count + ahead, movable))
        for slot, page in zip(unpack_u32(plan.fold_slots).tolist(), unpack_u32(plan.folds).tolist(), strict=True):
            written.append(Written(slot, [page], 0, self.page_tokens, False))
        self.writes[replica, plan.step] = written
        self.drafted += sum(plan.drafts)

    def _reply(self, action: e.Reply) -> None:
        body = action.body
        if self.homes.get(action.home.name) != action.home:  # to an incarnation that is gone
            ended = body.finished if isinstance(body, Deltas) else (body,) if isinstance(body, Spent) else ()
            self.told_ns += sum(each.spent_ns for each in ended)
            return
        if isinstance(body, Accepted):
            self.clients[body.request].accepted = True
        elif isinstance(body, Refused):
            client = self.clients[body.request]
            assert not client.tokens or body.code == "quarantined", "an accepted request was refused"
            client.refused = body
        elif isinstance(body, PromptLogprobs):
            client = self.clients[body.request]
            assert not client.tokens
            assert body.start == 1 + len(client.prompt_logprobs)
            client.prompt_logprobs += [value.chosen for value in body.values]
        elif isinstance(body, Spent):
            assert self.clients[body.request].aborted
            self.told_ns += body.spent_ns
        else:
            self._deltas(action.home, body)

    def _deltas(self, home: e.Home, body: Deltas) -> None:
        tokens = unpack_u32(body.tokens).tolist()
        logprobs = dict(body.logprobs)
        at = 0
        for request, start, count in zip(
            unpack_u64(body.requests).tolist(), unpack_u32(body.starts).tolist(), unpack_u32(body.counts).tolist(),
            strict=True,
        ):  # fmt: skip
            client = self.clients[request]
            assert client.home == home
            assert client.finished is None, "a token after the end"
            assert start == len(client.tokens), "a gap, or a repetition"
            client.tokens += tokens[at : at + count]
            if client.submit.sampling.logprobs >= 0:
                client.logprobs += [logprobs[i].chosen for i in range(at, at + count)]
            at += count
            assert client.tokens == client.expected[: len(client.tokens)], "wrong tokens"
        assert at == len(tokens)
        for request, cached in body.cached:
            assert self.clients[request].tokens, "told before the first tokens"
            self.clients[request].cached = cached
        for finished in body.finished:
            client = self.clients[finished.request]
            assert client.finished is None, "ended twice"
            assert finished.completion_tokens == len(client.tokens)
            client.finished = finished
            assert 0 <= finished.prefill_ns <= finished.spent_ns
            self.told_ns += finished.spent_ns

    # --- what others do --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """kv and all replicas come up."""
        self.do(e.KvUp(self.kv.capacity))
        for number in self.workers:
            self.revive(number)

    def submit(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        *,
        stops: tuple[int, ...] = (STOP,),
        sampling: Sampling | None = None,
        reuse: bool = True,
        home: str = "ingress@0",
        adapter: bytes = b"",
        **more: object,
    ) -> Client:
        """A new request."""
        root = blocks.salted_root(ROOT, b"", adapter) if adapter else ROOT
        packed = pack_u32(prompt)
        self.next_request += 1
        sampling = sampling or Sampling()
        message = Submit(
            self.next_request, packed, sampling, max_tokens, root=root if reuse else b"",
            digests=blocks.chain(root, packed, self.page_tokens) if reuse else b"", stop_token_ids=pack_u32(stops),
            submitted_ns=self.now, adapter=adapter, **more,
        )  # type: ignore[arg-type]  # fmt: skip
        context = min(self.context, min(self.kv.capacity, self.device_pages or 1 << 30) * self.page_tokens + 1)
        expected, reason = truth(prompt, max_tokens, set(stops), sampling.unstopped, context, adapter)
        client = self.clients[message.request] = Client(message, self.homes[home], expected, reason)
        self.do(e.Submitted(client.home, message))
        return client

    def resubmit(self, client: Client, *, adopter: str = "") -> None:
        """Its ingress says it again, with what it has; or the one that has adopted it."""
        client.home = self.homes[adopter or client.home.name]
        client.submit = msgspec.structs.replace(
            client.submit, emitted=pack_u32(client.tokens), adopted=client.submit.adopted + bool(adopter)
        )
        if not client.tokens:
            client.prompt_logprobs.clear()
        self.do(e.Submitted(client.home, client.submit))

    def abort(self, client: Client) -> None:
        client.aborted = True
        self.do(e.Aborted(Abort(client.submit.request, "client", len(client.tokens), client.submit.adopted)))

    def lose_ingress(self, name: str) -> None:
        home = self.homes[name]
        self.do(e.IngressLost(home))
        self.homes[name] = e.Home(name, home.epoch + 1)

    def kill(self, number: int, *, fenced: bool = True) -> None:
        """A worker dies."""
        worker = self.workers[number]
        self.ending.discard(number)
        worker.alive = worker.hung = worker.crashed = False
        worker.inbox.clear()
        worker.outbox.clear()
        worker.clear()
        worker.adapters.clear()
        worker.reading.clear()
        self.do(e.ReplicaLost(number, "died"))
        if fenced:
            self.do(e.ReplicaFenced(number))

    def revive(self, number: int) -> None:
        worker = self.workers[number]
        worker.alive = True
        worker.expected = -1
        worker.device = DeviceMemory(self.device_pages) if self.device_pages else None
        most = 0 if self.device_pages else self.core.state.limits.drafts
        self.do(
            e.ReplicaUp(
                number, self.slots, self.step_tokens, self.context, self.page_tokens, CORES,
                drafts=most, device_pages=self.device_pages, window=self.window, fold=self.fold,
            )
        )  # fmt: skip
        # As if enough steps were seen, in which drafts cost nothing: rows have as many as they may.
        self.core.state.replicas[number].speculation._cost._seen = 100

    def kv_down(self) -> None:
        self.kv.up = False
        self.kv.inbox.clear()
        self.kv.outbox.clear()
        self.lookups.clear()
        self.do(e.KvDown())

    def kv_up(self, *, forget: bool = False, lose: bool = False) -> None:
        if forget:
            self.kv.forget_cached()
        if lose:
            self.kv.lose_pinned(self.memory)
        self.kv.up = True
        self.do(e.KvUp(self.kv.capacity))

    def kv_turn(self) -> bool:
        """kv handles one message, or one of its answers arrives."""
        self.talk += 1
        assert self.talk < 2000, "scheduler and kv talk to each other and nobody computes"
        if self.kv.outbox:
            event = self.kv.outbox.popleft()
            if isinstance(event, e.Found) and event.lookup in self.lookups:
                self.lookups.remove(event.lookup)
            self.do(event)
            return True
        if self.kv.inbox:
            self.kv.process()
            return True
        return False

    def worker_turn(self, number: int, *, fail: bool = False) -> bool:
        """A worker runs one step, or one of its results arrives."""
        self.talk = 0
        worker = self.workers[number]
        if number in self.ending:
            self.failures += worker.hung
            self.restart(number)
            return True
        if worker.outbox:
            event = worker.outbox.popleft()
            self.failures += isinstance(event, e.StepBroken)
            self.do(event)
            return True
        if worker.reading and not worker.hung:
            worker.read()
            return True
        if worker.inbox and not worker.hung:
            worker.execute(fail)
            if worker.crashed:
                self.failures += 1
                self.restart(number)
            return True
        return False

    def restart(self, number: int) -> None:
        """A worker dies, and is back at once."""
        self.kill(number)
        self.revive(number)

    def turn(self, times: int) -> None:
        """The workers take so many turns, and kv as many as it needs."""
        for _ in range(times):
            while self.kv_turn():
                pass
            for number, worker in self.workers.items():
                if worker.alive:
                    self.worker_turn(number)

    def tick(self, seconds: float = 0.05) -> None:
        self.now += int(seconds * 1e9)
        self.talk = 0
        self.do(e.Tick())

    def settle(self, turns: int = 3000) -> None:
        """Everybody does what there is to do, until nothing is; fails if that takes too long."""
        for _ in range(turns):
            moved = False
            while self.kv_turn():
                moved = True
            for number in self.workers:
                moved |= self.worker_turn(number)
            if not moved:
                if self.core.idle and not any(worker.hung for worker in self.workers.values()):
                    return
                self.tick()
        waiting = [c.submit.request for c in self.clients.values() if not c.ended]
        raise AssertionError(f"starved: {waiting}; {self.core.state.queue.requests} waiting")

    # --- invariants ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold after every event."""
        state = self.core.state
        pool, replicas = state.pool, list(state.replicas.values())
        own: list[int] = []
        refs: dict[int, int] = {}
        holders = list(state.requests.values())
        for replica in replicas:
            for left in replica.retired + replica.limbo:
                own += left.pages
                for entry in left.entries:
                    refs[id(entry)] = refs.get(id(entry), 0) + 1
        for request in holders:
            behind, entries = request.behind, request.entries
            own += [p for b, p in enumerate(request.table)
                    if b >= behind.blocks and (b >= len(entries) or entries[b].page != p)]  # fmt: skip
            own += behind.folds
            assert not behind.blocks or not any(p in pool.generation for p in request.table[: behind.blocks])
            for entry in entries[behind.blocks :]:
                refs[id(entry)] = refs.get(id(entry), 0) + 1
        named = [entry.page for entry in state.index.entries()]
        held = pool.free_pages() + own + named + pool._giving
        assert len(held) == len(set(held)), "a page has two owners"
        assert set(held) == set(pool.generation), "a page is lost, or not ours"
        assert pool.coming == sum(len(left.pages) for r in replicas for left in r.retired + r.limbo)
        for entry in state.index.entries():
            assert entry.refs == refs.get(id(entry), 0), "references do not add up"
        loose = set(pool.free_pages()) | set(pool._giving)
        for rows in self.writes.values():
            written = {page for row in rows for page in row.pages(self.page_tokens)}
            assert not (written & loose), "a page is free while a step in flight can write it"
            assert not (written & set(named)), "a named page can be written"
        held_ns = sum(state.spent_ns(request)[0] for request in holders)
        assert self.computed_ns == self.told_ns + held_ns + state.tally.unclaimed_ns, (
            "computing that nobody accounts for"
        )
        waiting = [r for r in holders if r.phase.value in ("waiting", "parked")]
        assert state.queue.requests == len(waiting)
        assert state.queue.tokens == sum(r.known for r in waiting)
        assert state.queue.batch == sum(r.submit.batch for r in waiting)
        in_line = [r for r in waiting if r.phase.value == "waiting" and not r.front and r.standing.value != "on trial"]
        assert state.queue.urgent == sum(not r.submit.batch for r in in_line)
        first = state.queue.first(len(holders))
        assert len(set(first)) == len(first)
        assert all(not r.submit.batch or r not in in_line for r in first) or not state.queue.urgent
        for replica in replicas:
            assert replica.in_flight <= 2
            assert replica.running == sum(1 for r in replica.requests if r is not None) == int(replica.active.sum())
            assert replica.backlog == sum(int(replica.prefill_end[s] - replica.planned[s]) for s in replica.prefilling)
            busy = replica.running + len(replica.retired)
            assert len(set(replica.free_slots)) == len(replica.free_slots) == replica.slots - busy

    def check_done(self) -> None:
        """What must hold when everything is over."""
        for client in self.clients.values():
            if client.aborted or client.refused is not None:
                continue
            assert client.finished is not None, f"{client.submit.request} never ended"
            if client.finished.reason == "error":
                continue
            assert (client.tokens, client.finished.reason) == (client.expected, client.reason)
        state = self.core.state
        assert state.pool.used == 0, "pages leak"
        assert len(state.index) == 0
        assert not state.index.computing
        assert not state.holders
