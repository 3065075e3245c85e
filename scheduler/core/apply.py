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
    """What came of a step. Columns have one element per token that counts.

    Attributes:
        live: whether each row of the step still belongs to the request it was planned for.
        rows: index into the result's `tokens` of each token that counts.
        indexes: which generated token of its request it is, from 0.
        stopped: the token is a stop id, and stop ids count.
        full: the request may not have more tokens.
        crossed: slots in which a block became full and final.
    """

    live: Bools
    slots: Ints
    rows: Ints
    tokens: npt.NDArray[np.uint32]
    indexes: Ints
    stopped: Bools
    full: Bools
    crossed: Ints


def apply_result(replica: Replica, flight: Flight, result: StepResult) -> Outcome:
    """Enter a result into the columns.

    Raises:
        BadResult: its rows are not those of the plan.
    """
    sampled = flight.slots[flight.sampled]
    drawn = unpack_u32(result.tokens)
    if len(drawn) != len(sampled) or not np.array_equal(unpack_u32(result.slots), sampled):
        raise BadResult(f"step {result.step} drew for other slots than planned")
    live = replica.active[flight.slots]  # a slot is not reused while a step with it is in flight
    all_live = bool(live.all())
    slots, ends = flight.slots, flight.ends
    if not all_live:
        slots, ends = slots[live], ends[live]
    size = replica.page_tokens
    before = replica.computed[slots]
    replica.computed[slots] = ends
    crossed = slots[(ends // size > before // size) & replica.keyed[slots]]

    rows = np.arange(len(drawn)) if all_live else np.flatnonzero(live[flight.sampled])
    picked = flight.sampled[rows]
    slots, ends, tokens = flight.slots[picked], flight.ends[picked], drawn[rows]
    known = ends + 1
    replica.tokens[slots, ends] = tokens
    replica.known[slots] = known
    stopped = (replica.stops[slots] == tokens[:, None]).any(axis=1) & (known >= replica.stop_from[slots])
    full = known >= replica.limit[slots]
    return Outcome(live, slots, rows, tokens, ends - replica.prompt_len[slots], stopped, full, crossed)
