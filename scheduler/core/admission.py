"""Who leaves the queue, and for which replica.

The head of the queue goes first. A request that waits for something of its own (kv's answer; pages that come from disk;
a sibling that computes the prefix both share) is parked out of the others' way. Where the head does not fit the pages,
a few behind it may pass, but only so often: then the pages gather for it.
"""

from __future__ import annotations

from enum import Enum
from math import ceil
from typing import Final

import numpy as np

from bus.blocks import DIGEST_BYTES
from bus.messages.telemetry import HeldFor
from scheduler.core.adapters import lacking, wait_for_adapter
from scheduler.core.events import LookUp
from scheduler.core.handover import candidates, hands_over, has_pools, sides
from scheduler.core.prefix import Entry
from scheduler.core.pressure import make_room, make_way
from scheduler.core.replica import Replica
from scheduler.core.request import Phase, Request, Standing
from scheduler.core.state import Asked, State
from scheduler.core.submit import finish, limit_of

LOOK_PAST: Final = 8
MAX_PASSED_OVER: Final = 16
MAX_LOOKUP_BLOCKS: Final = 4096
PATIENCE: Final = 4.0  # times what kv says
PATIENCE_MIN_MS: Final = 20.0
PATIENCE_UNTRIED_MS: Final = 2000.0
PATIENCE_KV: Final = 1.25  # times what kv was told: it looks at its own clock first
LOOKUP_MIN_MS: Final = 5.0  # kv answers in a tenth of a millisecond where it has a core
LOOKUP_MAX_MS: Final = 250.0
RESERVE_MIN: Final = 0.1
RESERVE_DECAY: Final = 0.995


class _Try(Enum):
    ADMITTED = "admitted"
    ENDED = "ended"
    PARKED = "parked"
    NO_ROOM = "no room"
    BUSY = "its pool is busy"


def admit(state: State) -> None:
    """Fill free slots from the queue."""
    if not len(state.queue) or state.pool.reasserting or not state.pool.capacity:
        return
    if state.blocked_version == state.pool.version:
        return  # the head did not fit, and nothing has changed since
    if not _any_openings(state):
        first = state.queue.head()
        if first is None or first.submit.batch or not make_way(state) or not _any_openings(state):
            if first is not None:
                state.note_held(first, "slots", state.running, state.holders_of_slots())
            return  # the usual case with a queue: nobody else in it need be looked at
    while True:
        window = state.queue.first(LOOK_PAST)
        head: Request | None = None
        moved = False
        for request in window:
            if request.adapter and (replicas := lacking(request, sides(state, request))):
                wait_for_adapter(state, request, replicas)
                moved = True
                continue
            replica = _choose(state, request)
            if replica is None:
                _note_no_place(state, request)
            if replica is None and (request.standing is Standing.ON_TRIAL or _others_may_pass(state, request)):
                continue  # its place is taken; others may go elsewhere
            if replica is None:
                return
            tried = _try(state, request, replica)
            moved |= tried not in (_Try.NO_ROOM, _Try.BUSY)
            if tried is _Try.NO_ROOM:
                head = head or request
                state.note_held(request, "pages", ceil(_need(state, request)), state.holders_of_slots())
                if head.passed_over >= MAX_PASSED_OVER:
                    break
            elif tried is _Try.ADMITTED and head is not None:
                head.passed_over += 1
        if head is not None:
            if not head.submit.batch and _batch_made_room(state, head):
                continue
            state.blocked_version = state.pool.version
            return
        if not moved:
            return


def _any_openings(state: State) -> bool:
    return any(replica.openings for replica in state.replicas.values())


def _choose(state: State, request: Request) -> Replica | None:
    """The replica with the least to do, less what it would save by knowing the prefix (its caches are warm)."""
    suspects, best = state.suspects, None
    if request.standing is Standing.ON_TRIAL:
        dock = state.replicas.get(suspects.trial.dock) if suspects.trial is not None else None
        fits = dock is not None and dock.placeable and (not request.adapter or dock.adapters.has(request.adapter))
        return dock if fits else None
    for replica in candidates(state, request):
        number = replica.number
        backlog = replica.backlog if request.submit.batch else replica.urgent_backlog
        if not replica.openings or backlog >= replica.step_budget:
            continue
        if number == suspects.dock and replica.openings <= suspects.seats:
            continue
        if request.adapter and not replica.adapters.has(request.adapter):
            continue
        warm = sum(1 for entry in request.entries if entry.replica == number) * request.page_tokens
        load = replica.running / replica.slot_cap + (backlog - warm) / replica.step_budget
        if best is None or (load, number) < best:
            best = (load, number)
    return state.replicas[best[1]] if best is not None else None


def _note_no_place(state: State, request: Request) -> None:
    serving = [replica for replica in state.replicas.values() if replica.serving]
    if not serving:
        state.note_held(request, "replica")
    elif not any(replica.free_slots for replica in serving):
        state.note_held(request, "slots", state.running, state.holders_of_slots())
    else:
        state.note_held(request, "backlog", sum(replica.backlog for replica in serving), state.holders_of_slots())


def _others_may_pass(state: State, request: Request) -> bool:
    """Whether it waits for its own pool, or for a replica that has its adapter."""
    return bool(request.adapter) or (has_pools(state) and bool(candidates(state, request)))


def _try(state: State, request: Request, replica: Replica) -> _Try:
    if request.known + (request.submit.max_tokens > 0) > state.context_tokens:
        finish(state, request, "error", "the request does not fit the page pool, which is smaller than it was")
        return _Try.ENDED
    state.ledger.forsake_beyond(request, request.reusable_blocks)
    state.ledger.match(request)
    if request.entries:
        state.holders[request.id] = request
    if len(request.entries) < request.reusable_blocks and _wait_for_prefix(state, request, replica):
        return _Try.PARKED
    if not _fits(state, request) or not _fits_on(state, replica, request):
        return _Try.NO_ROOM
    if has_pools(state):  # how much is left to compute, and so where it belongs, is known only now
        chosen = _choose(state, request)
        if chosen is None:
            return _Try.BUSY
        replica = chosen
    _place(state, request, replica)
    return _Try.ADMITTED


def _wait_for_prefix(state: State, request: Request, replica: Replica) -> bool:
    """Whether the first block that is not known here is worth waiting for; then the request is parked for it."""
    index = state.index
    first = len(request.entries)
    digest = request.digest(first)
    if digest in index.computing:
        last = first
        while last + 1 < request.reusable_blocks and request.digest(last + 1) in index.computing:
            last += 1
        _park(state, request, request.digest(last), "sibling", (index.computing[digest],))
        return True
    if (number := index.asked.get(digest)) is not None:
        if state.lookups[number].expired:
            return False  # kv is slow: that is a miss
        _park(state, request, digest, "disk" if state.lookups[number].from_disk else "lookup")
        return True
    if not state.pool.up:
        return False
    # What was known here behind the blocks that kv was asked about may have been given back to it since.
    if first >= request.looked_up:
        state.note_held(request, "lookup")
        due_ms = _lookup_due_ms(request, replica, first, request.reusable_blocks)
        request.looked_up = _look_up(state, request, first, request.reusable_blocks, due_ms)
        return True
    until, request.on_disk_until = min(request.on_disk_until, request.reusable_blocks), 0
    wait_ms = _worth_waiting_ms(request, replica, first, until) if until > first else 0
    if not wait_ms:
        return False
    state.note_held(request, "disk", (until - first) * request.page_tokens)
    _look_up(state, request, first, until, LOOKUP_MIN_MS + PATIENCE_KV * wait_ms, wait_ms)
    return True


def _worth_waiting_ms(request: Request, replica: Replica, first: int, until: int) -> int:
    """How long to wait for blocks that are on disk; 0 where computing them is faster.

    The disk gets some times what kv says that it takes, and no longer than computing would: whatever it does, the
    request waits no more than twice as long as it would without a disk.
    """
    disk_ms, compute_ms = request.on_disk_us / 1e3, _compute_ms(request, replica, first, until)
    patience_ms = PATIENCE * disk_ms + PATIENCE_MIN_MS
    if not compute_ms:  # nothing was computed yet: after a reboot, which is when the disk is wanted most
        return ceil(min(patience_ms, PATIENCE_UNTRIED_MS))
    return ceil(min(patience_ms, compute_ms)) if disk_ms < compute_ms else 0


def _lookup_due_ms(request: Request, replica: Replica, first: int, until: int) -> float:
    """How long an answer about blocks is waited for: not much longer than computing them takes.

    On a busy host kv may be without a core for longer than `LOOKUP_MIN_MS`, and a prefix that is computed again for
    that costs the same host a multiple. Where kv hangs, a request waits twice as long as it would without, at most.
    """
    compute_ms = _compute_ms(request, replica, first, until) or LOOKUP_MAX_MS  # nothing was computed yet
    return max(LOOKUP_MIN_MS, min(compute_ms, LOOKUP_MAX_MS))


def _compute_ms(request: Request, replica: Replica, first: int, until: int) -> float:
    """What computing blocks takes; 0 where that is not known yet."""
    start, tokens = first * request.page_tokens, (until - first) * request.page_tokens
    return replica.cost.predict_ns(tokens, tokens * (start + 0.5 * tokens)) / 1e6


def _park(state: State, request: Request, digest: bytes, why: HeldFor, others: tuple[int, ...] = ()) -> None:
    state.queue.park(request)
    state.index.wait(digest, request.id)
    state.note_held(request, why, others=others)


def _look_up(state: State, request: Request, first: int, until: int, due_ms: float, wait_ms: int = 0) -> int:
    """Ask kv about blocks from `first` on; returns up to which one."""
    index = state.index
    most = min(until - first, MAX_LOOKUP_BLOCKS)
    blocks = 1
    # Never ask for what is known or asked for: two pins on one page could not be told apart.
    while blocks < most and index.get(d := request.digest(first + blocks)) is None and d not in index.asked:
        blocks += 1
    number = state.next_lookup
    state.next_lookup += 1
    state.queue.park(request)
    state.lookups[number] = Asked(request, first, blocks, wait_ms > 0)
    for block in range(first, first + blocks):
        index.asked[request.digest(block)] = number
    digests = bytes(request.chain[first * DIGEST_BYTES : (first + blocks) * DIGEST_BYTES])
    state.questions.append(LookUp(number, digests, due_ms, wait_ms))
    return first + blocks


def found(
    state: State, number: int, pages: list[int], generations: list[int], ahead: int = 0, ahead_us: int = 0
) -> None:
    """kv's answer, perhaps after the deadline: what it pinned for us is ours to keep or to give back."""
    asked = state.lookups.pop(number, None)
    if asked is None:
        return  # asked of a kv that has died since; its pins died with it
    request = asked.request
    # What the disk did not bring when it was asked, it is not asked for again: kv may have no page to read it into.
    more = bool(ahead) and not asked.from_disk
    request.on_disk_until, request.on_disk_us = asked.first_block + len(pages) + ahead if more else 0, ahead_us
    if asked.from_disk:
        state.tally.disk_tokens += len(pages) * request.page_tokens
        request.from_disk += len(pages) * request.page_tokens
    entries: list[Entry] = []
    for offset in range(asked.blocks):
        block = asked.first_block + offset
        del state.index.asked[request.digest(block)]
        if offset < len(pages):
            parent = request.parent(block)
            entries.append(state.index.found(request.digest(block), parent, pages[offset], generations[offset]))
    if request.phase in (Phase.PARKED, Phase.WAITING):
        state.ledger.match(request)
        if request.entries:
            state.holders[request.id] = request
    if not asked.expired:
        unpark(state, request.id)
    for offset in range(asked.blocks):
        state.index.wake(request.digest(asked.first_block + offset))
    for entry in reversed(entries):
        state.index.settle(entry)


def expire(state: State, number: int) -> None:
    """The answer takes too long: go on without."""
    asked = state.lookups.get(number)
    if asked is None or asked.expired:
        return
    asked.expired = True
    unpark(state, asked.request.id)
    for offset in range(asked.blocks):
        state.index.wake(asked.request.digest(asked.first_block + offset))


def unpark(state: State, request_id: int) -> None:
    """What it waited for has come."""
    request = state.requests.get(request_id)
    if request is not None and request.phase is Phase.PARKED and request.standing is not Standing.DETAINED:
        state.queue.unpark(request)
        state.note_held(request, "turn")
        state.blocked_version = -1


def _batch_made_room(state: State, request: Request) -> bool:
    """Take batch out until the pages that are free, or come, are enough for a request. Whether it fits now, or, where
    it wants room in device memory, whether there is more of that."""
    if _fits(state, request):
        return make_room(state)
    while _shortage(state, request) > state.pool.coming and make_room(state):
        pass
    return _fits(state, request)


def _fits(state: State, request: Request) -> bool:
    """Whether its pages, and a share of what all may still generate, are within reach."""
    if not state.running and not state.pool.coming:
        return True  # it was refused at submission if it could not run alone
    return _shortage(state, request) <= 0


def _fits_on(state: State, replica: Replica, request: Request) -> bool:
    """The same for device memory; pages that it would share with those who run there count twice, which errs safely."""
    if not replica.device_pages or not replica.running:
        return True
    need = len(request.entries) + _need(state, request)
    return _owed(replica, state.reserve) + need <= replica.spare_pages


def _shortage(state: State, request: Request) -> float:
    """Pages that it lacks."""
    owed = sum(_owed(replica, state.reserve) for replica in state.replicas.values())
    return state.pool.used + owed + _need(state, request) - state.pool.reachable


def _need(state: State, request: Request) -> float:
    """Pages that it wants: those of what it knows, less those that are found, and a share of its output's."""
    size = request.page_tokens
    now_blocks = -(-(request.known + 1) // size)
    all_blocks = -(-limit_of(state, request) // size)
    return now_blocks - len(request.entries) + state.reserve * max(0, all_blocks - now_blocks)


def _owed(replica: Replica, reserve: float) -> float:
    """Pages that running requests are going to ask for: all of their prompts', a share of their outputs'."""
    if not replica.running:
        return 0.0
    size = replica.page_tokens
    active = replica.active
    have = replica.room[active] // size
    prompt = np.maximum(have, -(-replica.prefill_end[active] // size))
    total = np.maximum(prompt, -(-replica.limit[active] // size))
    return float((prompt - have).sum()) + reserve * float((total - prompt).sum())


def _place(state: State, request: Request, replica: Replica) -> None:
    state.queue.remove(request)
    state.holders.pop(request.id, None)
    state.rate.left(request.known, state.now)
    state.reserve = max(RESERVE_MIN, state.reserve * RESERVE_DECAY)
    ledger = state.ledger
    ledger.claim(request)
    request.table = [entry.page for entry in request.entries]
    for entry in request.entries:
        entry.replica = replica.number
    generations = [state.pool.generation[page] for page in request.table]
    slot = replica.open(
        request, state.home_number(request.home), limit_of(state, request), generations,
        handing=hands_over(state, replica, request),
    )  # fmt: skip
    hit = int(replica.computed[slot])
    tally = state.tally
    tally.lookup_tokens += request.known if request.reuse else 0
    tally.hit_tokens += hit
    if not request.admitted_ns:
        request.admitted_ns = state.now
        request.cached_tokens = min(hit, request.prompt_len)
        tally.prompt_tokens += request.prompt_len
        state.queue.counters.prefills(request.client, request.known - hit)  # computing it again is not its fault
        tally.queue_s.append((state.now - request.arrival_ns) / 1e9)
    if hit and request.entries:
        state.hot.hit(request.entries[-1].digest, hit, state.now)
    disk = min(request.from_disk, hit)
    request.book.placed(hit - disk, disk, state.now)
    state.note(request.id, "admitted", replica.number, replica=replica.number)
    for tier, tokens in (("memory", hit - disk), ("disk", disk)):
        if tokens:
            state.note(request.id, "hit", tokens, detail=tier)
    request.from_disk = 0
    request.front = False
    request.passed_over = 0
