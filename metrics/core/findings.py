"""What an operator should know: conditions over time. Rules say what is wrong now; `Alarms` since when, and whether
that was for long enough.

A condition becomes a finding when it has held for the alarm's `raise_s` and ends when it has been away for its
`clear_s`: one that flickers is one finding, not twenty. Its id stays the same, also when it comes again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from bus.messages.observe import Finding
from metrics.core.rules.catalogue import SECOND, alarm

BLINK_NS: Final = SECOND  # a condition may be away for so long and be the same, before it was ever said
MAX_ALARMS: Final = 512

Severity = Literal["warn", "crit"]


class Condition(NamedTuple):
    """Something is wrong now.

    Attributes:
        advice: where it is not the catalogue's.
        cause: why it is so, as far as that can be told.
    """

    code: str
    severity: Severity
    subject: str
    text: str
    advice: str = ""
    cause: str = ""


class _Alarm:
    __slots__ = ("condition", "last_ns", "raised", "since_ns")

    def __init__(self, condition: Condition, now_ns: int) -> None:
        self.condition = condition
        self.since_ns = self.last_ns = now_ns
        self.raised = False


class Alarms:
    """Conditions over time, by (code, subject)."""

    def __init__(self) -> None:
        self._alarms: dict[tuple[str, str], _Alarm] = {}

    def step(self, conditions: Iterator[Condition], now_ns: int) -> tuple[Finding, ...]:
        """The findings as of now, critical ones first, then the oldest first."""
        for condition in conditions:
            key = (condition.code, condition.subject)
            if key not in self._alarms and len(self._alarms) >= MAX_ALARMS:
                continue
            known = self._alarms.setdefault(key, _Alarm(condition, now_ns))
            known.condition, known.last_ns = condition, now_ns
            known.raised = known.raised or now_ns - known.since_ns >= alarm(condition.code).raise_ns
        for key, known in list(self._alarms.items()):
            patience_ns = alarm(known.condition.code).clear_ns if known.raised else BLINK_NS
            if now_ns - known.last_ns >= patience_ns and now_ns > known.last_ns:
                del self._alarms[key]
        raised = [known for known in self._alarms.values() if known.raised]
        raised.sort(key=lambda known: (known.condition.severity != "crit", known.since_ns, known.condition.subject))
        return tuple(_finding(known.condition, known.since_ns) for known in raised)


def _finding(condition: Condition, since_ns: int) -> Finding:
    known = alarm(condition.code)
    return Finding(
        condition.code, condition.severity, condition.subject, condition.text, since_ns,
        condition.advice or known.advice, condition.cause, known.action, known.key,
        f"{condition.code}:{condition.subject}",
    )  # fmt: skip
