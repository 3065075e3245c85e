"""The next step of a replica. Decodes first, then prefill chunks out of what budget, pages and the target leave.

One subtraction for all (vLLM's): a request wants its known tokens computed, and has `planned` of them. Whoever decodes
wants one more. Chunk sizes are bounded by the cost model, so that those who decode feel prompts of others little.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np

from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import pack_u32
from scheduler.core.pages import PagePool
from scheduler.core.replica import NO_DRAFTS, Bools, Flight, Ints, Replica
from scheduler.core.windows import plan_folds

MIN_CHUNK: Final = 16  # prefill makes at least so much progress in a step, whatever the target


class Chunk(NamedTuple):
    """A prefill chunk of one request."""

    slot: int
    start: int
    length: int
    sample: bool


Cut = Literal["token_budget", "inter_token_target"]


class Planned(NamedTuple):
    """A step, or none, and what it could not have.

    Attributes:
        starved: pages that rows of this step wanted and did not get.
        cut: the first limit that kept tokens out of it; None where none did.
    """

    plan: StepPlan | None
    chunks: list[Chunk]
    starved: int
    cut: Cut | None = None


class _PageDiff:
    """Pages appended to block tables in this step."""

    __slots__ = ("pages", "slots")

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.pages: list[int] = []


def plan_step(replica: Replica, pool: PagePool, target_ns: float) -> Planned:
    """Plan a replica's next step and take it as sent.

    Args:
        target_ns: a step with decodes in it should not take longer; 0 is no target.
    """
    if not replica.tried:
        return _plan(replica, pool, target_ns, replica.decoding, replica.prefilling)
    # Those on trial and the others take turns: whose step fails is then known.
    starved = 0
    for tried in (not replica.tried_last, replica.tried_last):
        who = np.zeros(replica.slots, np.bool_)
        who[list(replica.tried)] = True
        if not tried:
            who = ~who
        prefilling = [slot for slot in replica.prefilling if who[slot]]
        planned = _plan(replica, pool, target_ns, replica.decoding & who, prefilling)
        starved += planned.starved
        if planned.plan is not None:
            replica.tried_last = tried
            return planned._replace(starved=starved)
    return Planned(None, [], starved)


def _plan(replica: Replica, pool: PagePool, target_ns: float, decoding: Bools, prefilling: list[int]) -> Planned:
    """A step of some slots: `decoding` is [slots]."""
    diff = _PageDiff()
    replica.crowded = 0
    # Whoever may have all its tokens when the steps in flight are done is waited for.
    decodes = np.flatnonzero(decoding & (replica.planned + replica.speculation.ahead < replica.last_start))
    most = replica.step_budget - (min(MIN_CHUNK, replica.step_budget // 2) if prefilling else 0)
    cut: Cut | None = None
    if len(decodes) > most:  # more slots than budget: whoever waits longest
        cut = "token_budget"
        decodes = decodes[np.argsort(replica.last_step[decodes], kind="stable")[:most]]
    decodes, starved = _page_decodes(replica, pool, decodes, diff)
    drafts = _drafts(replica, pool, decodes, most - len(decodes), target_ns, diff)
    starts = replica.planned[decodes]
    pairs = float(starts.sum())
    chunks: list[Chunk] = []
    if prefilling:
        if replica.batch:  # the budget is for the others first
            prefilling = sorted(prefilling, key=replica.batch.__contains__)
        tokens = len(decodes) + int(drafts.sum())
        chunks, short, pairs, short_of = _chunks(replica, pool, tuple(prefilling), tokens, pairs, target_ns, diff)
        starved += short
        cut = cut or short_of
    if not chunks and not len(decodes):
        return Planned(None, chunks, starved, cut)
    return Planned(_build(replica, pool, decodes, starts, drafts, chunks, pairs, diff), chunks, starved, cut)


def plan_barrier(replica: Replica) -> StepPlan:
    """A step without rows: slots are closed, and when its result is there, everything sent before has been done."""
    none = np.zeros(0, np.int64)
    step = replica.next_step
    replica.next_step += 1
    replica.flights.append(Flight(step, none, none, none, none, 0, 0.0, 0.0))
    closes = pack_u32(replica.closing)
    replica.closing.clear()
    return StepPlan(step, closes, (), b"", b"", b"", b"", b"", b"", b"", forgets=_forgets(replica))


def _page_decodes(replica: Replica, pool: PagePool, decodes: Ints, diff: _PageDiff) -> tuple[Ints, int]:
    """Give a page to each decode that crosses into a new block; those for whom there is none sit this step out."""
    crossing = decodes[(replica.planned + replica.speculation.ahead)[decodes] >= replica.room[decodes]]
    wanted = len(crossing)
    if not wanted:
        return decodes, 0
    room = min(wanted, replica.spare_pages)
    pages = pool.take(room)
    replica.crowded += wanted - room
    if len(pages) < wanted:
        crossing = crossing[np.argsort(replica.order[crossing], kind="stable")]
        decodes = np.setdiff1d(decodes, crossing[len(pages) :], assume_unique=True)
        crossing = crossing[: len(pages)]
    _append(replica, crossing, pages, diff)
    return decodes, room - len(pages)


def _append(replica: Replica, slots: Ints, pages: list[int], diff: _PageDiff) -> None:
    """A page to the block table of each of these slots."""
    for slot, page in zip(slots.tolist(), pages, strict=True):
        request = replica.requests[slot]
        assert request is not None
        request.table.append(page)
    replica.room[slots] += replica.page_tokens
    diff.slots += slots.tolist()
    diff.pages += pages


def _drafts(replica: Replica, pool: PagePool, decodes: Ints, budget: int, target_ns: float, diff: _PageDiff) -> Ints:
    """Most draft tokens of each decode, and pages for them where there are plenty: nobody gives way for drafts."""
    speculation = replica.speculation
    if not speculation.most or not len(decodes) or replica.tried:
        return np.zeros(len(decodes), np.int64)
    behind = replica.planned[decodes] + speculation.ahead[decodes] + 1  # where a row ends at most, without drafts
    drafts = speculation.choose(decodes, replica.last_start[decodes] - behind, budget, target_ns)
    short = decodes[behind + drafts > replica.room[decodes]]
    if len(short) and pool.free >= len(short) + len(decodes) and replica.spare_pages >= len(short):
        _append(replica, short, pool.take(len(short)), diff)
    kept: Ints = np.minimum(drafts, replica.room[decodes] - behind).clip(0)
    return kept


def _chunks(
    replica: Replica,
    pool: PagePool,
    prefilling: tuple[int, ...],
    decodes: int,
    pairs: float,
    target_ns: float,
    diff: _PageDiff,
) -> tuple[list[Chunk], int, float, Cut | None]:
    """Prefill chunks in order of admission; also pages missed, the step's pairs with the chunks', and what cut them."""
    chunks: list[Chunk] = []
    cut: Cut | None = None
    tokens, starved = decodes, 0
    for slot in prefilling:
        budget = replica.step_budget - tokens
        start, end = int(replica.planned[slot]), int(replica.prefill_end[slot])
        limit: Cut = "token_budget"
        if decodes and target_ns:
            bound = replica.cost.chunk_within(target_ns, tokens, pairs, start)
            if bound is not None and (bound := bound if chunks else max(bound, MIN_CHUNK)) < budget:
                budget, limit = bound, "inter_token_target"
        if budget < end - start:
            cut = cut or limit
        if replica.dimensions:  # an encoder's sequence is one row, and the first one goes however long it is
            if chunks and budget < end - start:
                break
            budget = end - start
        if budget <= 0:
            break
        count, short = _page_chunk(replica, pool, slot, start, min(end - start, budget), diff)
        starved += short
        if count <= 0:
            continue
        done = start + count == end
        draws = slot not in replica.scoring and slot not in replica.handing
        chunks.append(Chunk(slot, start, count, done and draws))
        tokens += count
        pairs += count * (start + 0.5 * count)
        replica.backlog -= count
        if done:
            replica.prefilling.remove(slot)
            replica.decoding[slot] = draws
    return chunks, starved, pairs, cut


def _page_chunk(
    replica: Replica, pool: PagePool, slot: int, start: int, count: int, diff: _PageDiff
) -> tuple[int, int]:
    """Pages for a chunk; it is cut to what they hold. Also returns how many pages were missing."""
    size, room = replica.page_tokens, int(replica.room[slot])
    wanted = -(-max(0, start + count - room) // size)
    if not wanted:
        return count, 0
    spare = min(wanted, replica.spare_pages)
    pages = pool.take(spare)
    replica.crowded += wanted - spare
    request = replica.requests[slot]
    assert request is not None
    request.table += pages
    replica.room[slot] = room = room + len(pages) * size
    diff.slots += [slot] * len(pages)
    diff.pages += pages
    return min(count, room - start), spare - len(pages)


def _build(
    replica: Replica,
    pool: PagePool,
    decodes: Ints,
    starts: Ints,
    drafts: Ints,
    chunks: list[Chunk],
    pairs: float,
    diff: _PageDiff,
) -> StepPlan:
    """The plan on the wire, and its record in flight."""
    rows = len(decodes)
    slots, counts, samples = decodes, np.ones(rows, np.int64), np.ones(rows, np.uint8)
    if chunks:
        chunks = sorted(chunks, key=lambda chunk: chunk.length == 1)  # rows with more than one token come first
        columns = np.array(chunks, np.int64).T
        slots = np.concatenate((columns[0], slots))
        starts = np.concatenate((columns[1], starts))
        counts = np.concatenate((columns[2], counts))
        samples = np.concatenate((columns[3].astype(np.uint8), samples))
        drafts = np.concatenate((np.zeros(len(chunks), np.int64), drafts))
    ends = starts + counts
    step = replica.next_step
    tokens = int(counts.sum()) if chunks else rows
    replica.next_step += 1
    replica.planned[slots] = ends
    ahead = replica.speculation.ahead
    drafted = bool(drafts.any())
    exact = not drafted and not ahead[slots].any()
    ahead[slots] += drafts
    extra = int(drafts.sum())
    replica.last_step[slots] = step
    opens = _opens(replica, int(slots[0]))
    replica.flights.append(
        Flight(
            step,
            slots,
            ends,
            counts,
            np.flatnonzero(samples),
            tokens,
            pairs,
            replica.cost.predict_ns(tokens + extra, pairs + float((drafts * ends).sum()) if drafted else pairs),
            tuple(opens),
            drafts=drafts if drafted else NO_DRAFTS,
        )
    )
    pages, generations = pool.pack(diff.pages)
    fold_slots, folds = plan_folds(replica, pool, slots, step)
    plan = StepPlan(
        step, pack_u32(replica.closing), tuple(opens.values()), pack_u32(slots), pack_u32(starts), pack_u32(counts),
        samples.tobytes(), pack_u32(diff.slots), pages, generations,
        b"" if exact else drafts.astype(np.uint8).tobytes(), _forgets(replica),
        pack_u32(fold_slots), *pool.pack(folds),
    )  # fmt: skip
    replica.closing.clear()
    return plan


def _forgets(replica: Replica) -> bytes:
    forgets = pack_u32(replica.forgetting)
    replica.forgetting.clear()
    return forgets


def _opens(replica: Replica, row: int) -> dict[int, SlotOpen]:
    """The slots to open, taken off the list: a malformed one fails the step, so they are of the rows' side."""
    opens, replica.opening = replica.opening, {}
    if replica.tried and opens:
        side = row in replica.tried
        replica.opening = {slot: opened for slot, opened in opens.items() if (slot in replica.tried) != side}
        opens = {slot: opened for slot, opened in opens.items() if (slot in replica.tried) == side}
    return opens
