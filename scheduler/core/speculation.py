"""How many draft tokens the rows of a step may have: by measured acceptance and measured cost. No tokens here.

A draft is worth its place while it is expected to bring more tokens per second than the step brings without it. With
a rate of acceptance r, the i-th draft of a row is right (with all before it) with probability r^i; it adds what a draft
was measured to add to a step. So

    (tokens of the step) / (time of the step)        is made as large as it gets, by Dinkelbach's iteration,

and where not even a first draft is worth it, none is made: a full batch leaves no idle arithmetic to draft with, and a
request whose drafts are wrong gets none. One such request at a time is given one draft now and then, so that a change
is seen; that takes at most a hundredth of the time.

What steps cost is fitted to steps without prefill (`cost`): time = a + b * rows + c * drafts. What it took to
propose the drafts is measured apart, and belongs to each of them. As nothing is known at first, a step has at most
twice as many drafts as any before it, and the first one two.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scheduler.core.cost import CostModel

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MARGIN: Final = 1.1  # what a draft must be better by: estimates are noisy, and a draft that brings nothing costs
PROBE_AFTER: Final = 64  # steps without a draft, after which a row may have one to see how it does
PROBE_SHARE: Final = 0.01  # of the time
TOGETHER: Final = 64  # drafts of a step: each holds a row of logits, a vocabulary of floats
REMEMBERS: Final = 0.9  # of a row's acceptance, from one step with drafts to the next
OVERALL_REMEMBERS: Final = 0.99
PRIOR: Final = 3.0  # trials that the replica's acceptance counts for in a row's
HOPEFUL: Final = 16  # of so many requests
_AS_PAIRS: Final = 1e3  # brings drafts to the scale of the cost model's second feature


class Speculation:
    """Drafts of one replica. Columns are [slots].

    Args:
        slots: rows of state.
        most: drafts of a row at most; 0 is none, ever.

    Attributes:
        ahead: drafts that steps in flight may bring beyond the one token that each brings.
        drafted, accepted: of who is in a slot, since it entered.
    """

    def __init__(self, slots: int, most: int) -> None:
        self.most = most
        self.ahead, self.drafted, self.accepted, self._idle = (np.zeros(slots, np.int64) for _ in range(4))
        self._hits, self._tries = np.zeros(slots), np.zeros(slots)
        self._all_hits, self._all_tries = 0.0, 0.0
        self._cost = CostModel()
        self._proposing_ns = 0.0  # of a draft
        self._largest = 0  # drafts of a step so far
        self._spare_ns = 0.0  # that may be spent to see how rows do
        self._opened = 0

    def inherit(self, other: Speculation) -> None:
        """What an incarnation of the same replica has learnt."""
        self._all_hits, self._all_tries, self._cost = other._all_hits, other._all_tries, other._cost
        self._proposing_ns, self._largest = other._proposing_ns, other._largest

    def open(self, slot: int) -> None:
        """A request enters a slot."""
        self.ahead[slot] = self.drafted[slot] = self.accepted[slot] = self._idle[slot] = 0
        # Others may be unlike those before: now and then one is expected to do well, until it is known.
        self._opened += 1
        self._hits[slot] = self._tries[slot] = 0.0 if self._opened % HOPEFUL else 2 * PRIOR

    def rates(self, slots: Ints) -> Floats:
        """Acceptance of a draft whose predecessors were accepted, [n], as it is expected."""
        overall = (self._all_hits + 1) / (self._all_tries + 2)
        rates: Floats = (self._hits[slots] + PRIOR * overall) / (self._tries[slots] + PRIOR)
        return rates.clip(0.02, 0.98)

    def choose(self, slots: Ints, room: Ints, budget: int, target_ns: float) -> Ints:
        """How many drafts the rows of a step may have.

        Args:
            slots: [n], all that decode in it.
            room: [n], how many each could have.
            budget: how many all together could have.
            target_ns: what the step may take; 0 is no target.
        """
        none = np.zeros(len(slots), np.int64)
        if not self.most or not self._cost.trusted or budget <= 0 or not len(slots):
            return none
        always, row, draft = self._rates()
        plain_ns = always + row * len(slots)
        budget = min(budget, TOGETHER, 2 * max(1, self._largest))
        if target_ns and draft > 0:
            budget = min(budget, int(max(0.0, target_ns - plain_ns) / draft))
        limit = np.minimum(room, self.most).clip(0)
        wanted = best_drafts(self.rates(slots), limit, plain_ns, draft)
        if (total := int(wanted.sum())) > budget:
            wanted = _within(wanted, budget, np.argsort(-self._idle[slots], kind="stable"))
        elif budget > total:
            self._probe(slots, wanted, limit, plain_ns, draft)
        self._idle[slots] = np.where(wanted > 0, 0, self._idle[slots] + 1)
        return wanted

    def _probe(self, slots: Ints, wanted: Ints, limit: Ints, plain_ns: float, draft_ns: float) -> None:
        """Give one draft to the row that had none for the longest, if there is time for it."""
        self._spare_ns = min(self._spare_ns + PROBE_SHARE * plain_ns, draft_ns)
        row = int(np.argmax(np.where((wanted == 0) & (limit > 0), self._idle[slots], -1)))
        if self._idle[slots[row]] >= PROBE_AFTER and wanted[row] == 0 < limit[row] and self._spare_ns >= draft_ns:
            wanted[row] = 1
            self._spare_ns = 0.0

    def landed(self, slots: Ints, drafted: Ints, accepted: Ints) -> None:
        """What came of drafts; all [n], one element for each row that drew."""
        had = drafted > 0
        slots, drafted, accepted = slots[had], drafted[had], accepted[had]
        tries = np.minimum(accepted + 1, drafted)  # what is behind a wrong one was not tried
        self._hits[slots] = REMEMBERS * self._hits[slots] + accepted
        self._tries[slots] = REMEMBERS * self._tries[slots] + tries
        self._all_hits = OVERALL_REMEMBERS * self._all_hits + float(accepted.sum())
        self._all_tries = OVERALL_REMEMBERS * self._all_tries + float(tries.sum())
        self.drafted[slots] += drafted
        self.accepted[slots] += accepted

    def observe(self, rows: int, drafted: int, ns: int, drafting_ns: int, behind_ns: int = 0) -> None:
        """Learn from a step of `rows` rows that decode, and nothing else in it. See `StepResult` for its times."""
        if not self.most:
            return
        self._cost.observe(rows, drafted * _AS_PAIRS, max(0, ns - drafting_ns))
        self._largest = max(self._largest, drafted)
        if drafted:
            each = max(0, drafting_ns - behind_ns) / drafted
            self._proposing_ns += (each - self._proposing_ns) * (0.1 if self._proposing_ns else 1)

    def _rates(self) -> tuple[float, float, float]:
        always, row, draft = self._cost.rates()
        return always, row, draft * _AS_PAIRS + self._proposing_ns


def _within(wanted: Ints, budget: int, order: Ints) -> Ints:
    """As many of what is wanted as there may be, [n]: all of it for the first in `order`, and nothing for the last."""
    kept = np.zeros_like(wanted)
    kept[order] = np.diff(wanted[order].cumsum().clip(max=budget), prepend=0)
    return kept


def best_drafts(rates: Floats, limit: Ints, plain_ns: float, draft_ns: float) -> Ints:
    """Drafts for each row that make expected tokens per time the largest. Pure.

    Args:
        rates: [rows], acceptance, between 0 and 1 without both.
        limit: [rows], most of each.
        plain_ns: what the step takes without drafts.
        draft_ns: what a draft adds.
    """
    rows, plain_ns = len(rates), max(plain_ns, 1.0)
    drafts, per_ns = limit, rows / plain_ns
    for _ in range(3):  # converges in two or three
        least = MARGIN * draft_ns * per_ns
        if least >= 1:
            return np.zeros(rows, np.int64)
        if least > 0:
            drafts = np.minimum(limit, (np.log(least) / np.log(rates)).astype(np.int64))
        gained = (rates * (1 - rates**drafts) / (1 - rates)).sum()
        per_ns = float(rows + gained) / (plain_ns + draft_ns * float(drafts.sum()))
    return drafts
