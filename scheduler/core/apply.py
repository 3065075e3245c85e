"""What a step's result means for the columns of a replica. No requests are ended here; who ends is said.

Rows of requests that left while the step ran are dropped: a speculative row of one that turned out finished, or of
one that was aborted or preempted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bus.messages.steps import StepResult
from bus.packed import unpack_u32
from scheduler.core.replica import Bools, Flight, Ints, Replica


class BadResult(ValueError):
    """The result does not answer the plan: the worker is not to be trusted."""


class Outcome(NamedTuple):
    """What came of a step. Columns have one element per row that drew, `tokens` and `rows` one per token that counts.

    Attributes:
        live: whether each row of the step still belongs to the request it was planned for.
        counts: tokens of each row that count.
        rows: index into the result's `tokens` of each token that counts.
        indexes: which generated token of its request the row's first is, from 0.
        stopped: the row's last token is a stop id, and stop ids count.
        full: the request may not have more tokens.
        crossed: slots in which a block became full and final.
        drafted: draft tokens that all rows had together, those of rows that are not live included.
    """

    live: Bools
    slots: Ints
    counts: Ints
    rows: Ints
    tokens: npt.NDArray[np.uint32]
    indexes: Ints
    stopped: Bools
    full: Bools
    crossed: Ints
    drafted: int = 0


def apply_result(replica: Replica, flight: Flight, result: StepResult) -> Outcome:
    """Enter a result into the columns, and what it says of drafts into the flight.

    Raises:
        BadResult: its rows are not those of the plan.
    """
    sampled = flight.slots[flight.sampled]
    drawn = unpack_u32(result.tokens)
    if not np.array_equal(unpack_u32(result.slots), sampled):
        raise BadResult(f"step {result.step} drew for other slots than planned")
    counts, drafted = _drafts_of(flight, result, len(drawn))
    live = replica.active[flight.slots]  # a slot is not reused while a step with it is in flight
    all_live = bool(live.all())
    rows = np.arange(len(sampled)) if all_live else np.flatnonzero(live[flight.sampled])
    picked = flight.sampled[rows]
    drawers = flight.slots[picked]
    first = replica.known[drawers]  # results come in order: so many it had before this one
    if not result.drawn:
        at, tokens, several = rows, drawn[rows], counts[rows]
        stopped, full = _over(replica, drawers, first, tokens)
    else:
        at, tokens, several, stopped, full = _along(replica, drawers, first, drawn, counts, rows)
    owners = np.repeat(drawers, several)
    places = np.repeat(first - (several.cumsum() - several), several) + np.arange(len(tokens))
    replica.tokens[owners, places] = tokens
    replica.known[drawers] = known = first + several
    replica.planned[drawers] += counts[rows] - 1
    flight.ends[picked] = known - 1  # what was valid of the row, and no wrong draft

    slots, ends = flight.slots, flight.ends
    if not all_live:
        slots, ends = slots[live], ends[live]
    size = replica.page_tokens
    before = replica.computed[slots]
    replica.computed[slots] = ends
    crossed = slots[(ends // size > before // size) & replica.keyed[slots]]
    if len(flight.drafts):
        replica.speculation.ahead[drawers] -= flight.drafts[picked]
        replica.speculation.landed(drawers, drafted[rows], counts[rows] - 1)
        flight.counts[flight.sampled] += drafted
    return Outcome(
        live, drawers, several, at, tokens, first - replica.prompt_len[drawers], stopped, full, crossed,
        int(drafted.sum()),
    )  # fmt: skip


def _drafts_of(flight: Flight, result: StepResult, drawn: int) -> tuple[Ints, Ints]:
    """Tokens of each row that drew, and drafts that it had.

    Raises:
        BadResult: more than were planned, or not as many as were drawn.
    """
    rows = len(flight.sampled)
    counts, drafted = np.ones(rows, np.int64), np.zeros(rows, np.int64)
    if result.drawn:
        allowed = flight.drafts[flight.sampled] if len(flight.drafts) else drafted
        if len(result.drawn) != rows or len(result.drafted) != rows:
            raise BadResult(f"step {result.step} counts tokens of other rows than planned")
        counts = np.frombuffer(result.drawn, np.uint8).astype(np.int64)
        drafted = np.frombuffer(result.drafted, np.uint8).astype(np.int64)
        if (counts < 1).any() or (counts - 1 > drafted).any() or (drafted > allowed).any():
            raise BadResult(f"step {result.step} drew more tokens than were drafted, or drafted more than it might")
    if int(counts.sum()) != drawn:
        raise BadResult(f"step {result.step} drew for other slots than planned")
    return counts, drafted


def _over(replica: Replica, slots: Ints, places: Ints, tokens: npt.NDArray[np.uint32]) -> tuple[Bools, Bools]:
    """Which of these tokens are stops, and which the last that may be; all [n]."""
    stopped = (replica.stops[slots] == tokens[:, None]).any(axis=1) & (places + 1 >= replica.stop_from[slots])
    return stopped, places + 1 >= replica.limit[slots]


def _along(
    replica: Replica, slots: Ints, first: Ints, drawn: npt.NDArray[np.uint32], counts: Ints, rows: Ints
) -> tuple[Ints, npt.NDArray[np.uint32], Ints, Bools, Bools]:
    """Several tokens for some rows: those up to the first that ends its request, and whether one does.

    Args:
        slots, first, rows: [n], the rows that are live: slot, place of the first token, which row of the result.
        drawn, counts: of the result.
    """
    several = counts[rows]
    within = np.arange(int(several.sum())) - np.repeat(several.cumsum() - several, several)
    owner = np.repeat(np.arange(len(rows)), several)
    at = np.repeat((counts.cumsum() - counts)[rows], several) + within
    stopped, full = _over(replica, slots[owner], first[owner] + within, drawn[at])
    over = stopped | full
    kept = several.copy()
    np.minimum.at(kept, owner[over], within[over] + 1)
    last = several.cumsum() - several + kept - 1
    at = at[within < kept[owner]]
    return at, drawn[at], kept, stopped[last], full[last]
