"""How often a replica may fail, by class of error. Pure: a small table, and what one replica has spent of it.

| class     | what happened                                     | what is done                                        |
|-----------|---------------------------------------------------|-----------------------------------------------------|
| transient | a step raised; the process lives, slots closed    | everyone tries again at once                        |
| severe    | the process died, hung, or is out of memory again | it is killed if it lives, and started again         |
| fatal     | it fails whatever it is given                     | taken out for a while: requests go elsewhere or end |

Who is to blame, the replica or a request, is not decided here (`suspects`); a step that draws tokens is what shows
that a replica can work, and it forgives. So neither a request that kills its worker nor somebody who kills it from
outside, again and again, adds up to *fatal* as long as anybody gets on in between. Where several such requests come
first, each is set aside with its failures until somebody else was tried, but not more than five in a row: so many are
not all to blame.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

BAR_NS: Final = 30_000_000_000  # how long a replica is taken out; doubled each time that it has not worked in between
BAR_MOST_NS: Final = 600_000_000_000
MOST_ASIDE: Final = 5  # requests


class Severity(IntEnum):
    """Classes of errors, by what they take to mend."""

    TRANSIENT = 0
    SEVERE = 1
    FATAL = 2


class Allowance(NamedTuple):
    """When errors of a class are to be treated as the next class.

    Attributes:
        failures: this many, the present one included ...
        within_ns: ... in so much time ...
        in_a_row: ... without a step in between that drew a token.
    """

    severity: Severity
    failures: int
    within_ns: int
    in_a_row: bool


TABLE: Final = (
    Allowance(Severity.TRANSIENT, 5, 60_000_000_000, in_a_row=True),
    Allowance(Severity.TRANSIENT, 50, 60_000_000_000, in_a_row=False),
    Allowance(Severity.SEVERE, 16, 600_000_000_000, in_a_row=True),
)
_MOST_REMEMBERED: Final = 2 * max(allowance.failures for allowance in TABLE)


class _Spent(NamedTuple):
    severity: Severity
    now: int
    row: int


class Budget:
    """What a replica has spent, over all incarnations of its processes.

    Attributes:
        worked_ns: when a step of it last drew a token.
        barred_until_ns: it is taken out until then; 0 where it is not.
    """

    __slots__ = ("_aside", "_bars", "_row", "_spent", "barred_until_ns", "worked_ns")

    def __init__(self) -> None:
        self.worked_ns = 0
        self.barred_until_ns = 0
        self._spent: list[_Spent] = []
        self._row = 0
        self._aside = 0
        self._bars = 0

    @property
    def row(self) -> int:
        """Failures since a token was drawn, or a request was set aside."""
        return sum(1 for spent in self._spent if spent.row == self._row)

    def spend(self, severity: Severity, now: int) -> Severity:
        """An error of a class happened. Returns the class to treat it as."""
        self._spent = [*self._spent[-_MOST_REMEMBERED:], _Spent(severity, now, self._row)]
        for allowance in TABLE:
            if allowance.severity is severity and self._count(allowance, now) >= allowance.failures:
                following = Severity(severity + 1)
                return following if following is Severity.FATAL else self.spend(following, now)
        return severity

    def worked(self, now: int) -> None:
        """A step drew tokens."""
        self.worked_ns = now
        self._aside = self._bars = 0
        if self._spent and self._spent[-1].row == self._row:
            self._row += 1

    def set_aside(self) -> None:
        """The failures of this row are put down to a request that failed alone, unless that was said too often."""
        if self._aside < MOST_ASIDE:
            self._aside += 1
            self._row += 1

    def bar(self, now: int) -> int:
        """Take it out. Returns for how long. What was spent stays: until it works, one more failure is fatal again."""
        time_ns = min(BAR_MOST_NS, BAR_NS << min(self._bars, 8))
        self._bars += 1
        self.barred_until_ns = now + time_ns
        return time_ns

    def _count(self, allowance: Allowance, now: int) -> int:
        return sum(
            1
            for spent in self._spent
            if spent.severity is allowance.severity
            and now - spent.now <= allowance.within_ns
            and (spent.row == self._row or not allowance.in_a_row)
        )
