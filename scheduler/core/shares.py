"""A step's time, split over the requests that were in it. Pure arithmetic; who is told what they cost is `results`'.

A row's part is what the cost model says that it took: tokens and token-context pairs by their rates, and of what every
step costs whatever is in it (weights are read once) the same for each row. Rows that nobody is there to pay for any
more, because their request left while the step ran, keep their part: it is counted as unclaimed, not put on others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.core.cost import CostModel
from scheduler.core.replica import Bools, Flight, Ints, Replica
from scheduler.core.state import State


def split(total: int, weights: npt.NDArray[np.float64]) -> Ints:
    """Whole parts of `total` in proportion to `weights`, which are not negative. Their sum is `total`, exactly.

    Each part is rounded where the running sum is: an error is carried on to the next part, never lost.
    """
    running = np.cumsum(weights)
    if not running[-1] > 0:
        running = np.arange(1.0, len(weights) + 1)
    ends = np.rint(running / running[-1] * total).astype(np.int64)
    ends[-1] = total
    parts: Ints = np.diff(np.minimum(ends, total), prepend=0)
    return parts


def weigh(cost: CostModel, counts: Ints, ends: Ints) -> npt.NDArray[np.float64]:
    """What each row of a step took, in any unit: row r computed `counts[r]` tokens up to position `ends[r]`."""
    if not cost.trusted:
        return counts.astype(np.float64)
    always, token, pair = cost.rates()
    parts: npt.NDArray[np.float64] = always / len(counts) + counts * (token + pair * (ends - 0.5 * counts))
    return parts


def bill(state: State, replica: Replica, flight: Flight, live: Bools, ran_ns: int) -> None:
    """Enter a completed step of some rows into the columns of those who were in it."""
    slots = flight.slots
    total = ran_ns * replica.cores
    parts = split(total, weigh(replica.cost, flight.counts, flight.ends))
    state.tally.computed_ns += total
    if not live.all():
        state.tally.unclaimed_ns += int(parts[~live].sum())
        slots, parts = slots[live], parts[live]
        prefills = flight.ends[live] <= replica.prefill_end[slots]
    else:
        prefills = flight.ends <= replica.prefill_end[slots]
    replica.spent_ns[slots] += parts
    replica.prefill_ns[slots] += np.where(prefills, parts, 0)
