"""What operators said of findings: looked after, or silenced for a time. Pure; findings themselves are not changed.

An acknowledgement is over when its finding is; a silence when its time is. Keys are (code, subject), as of alarms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bus.messages.control import Acknowledge, FindingNote, Silence

MOST: Final = 256
LONGEST_SILENCE_S: Final = 7 * 86_400.0
LONGEST_COMMENT: Final = 500
PATIENCE_S: Final = 60.0  # after a start, until what is wrong has been noticed again

Key = tuple[str, str]


class NotNow(ValueError):
    """A note that cannot be made; the message says why."""


class Notes:
    """All notes.

    Args:
        kept: from a file.
        now_s: when this process started, seconds since 1970.
    """

    def __init__(self, kept: Iterable[FindingNote], now_s: float) -> None:
        self._notes: dict[tuple[Key, str], FindingNote] = {}
        self._since_s = now_s
        for note in list(kept)[:MOST]:
            self._put(note)

    def all(self) -> tuple[FindingNote, ...]:
        """The newest last."""
        return tuple(sorted(self._notes.values(), key=lambda note: note.at_s))

    def acknowledge(self, asked: Acknowledge, raised: Iterable[Key], now_s: float) -> FindingNote:
        """Somebody looks after a finding.

        Raises:
            NotNow: it is not there, or there are too many notes.
        """
        if (asked.code, asked.subject) not in set(raised):
            raise NotNow(f"{asked.code} of {asked.subject} is over, or never was")
        return self._make(asked, "acknowledged", 0.0, now_s)

    def silence(self, asked: Silence, now_s: float) -> FindingNote | None:
        """Nothing is said of a finding for a while, whether it is there or not; None where a silence was ended.

        Raises:
            NotNow: for too long, or there are too many notes.
        """
        if not 0 <= asked.seconds <= LONGEST_SILENCE_S:
            raise NotNow(f"a silence lasts at most {LONGEST_SILENCE_S / 86_400:.0f} days")
        if not asked.seconds:
            if self._notes.pop(((asked.code, asked.subject), "silenced"), None) is None:
                raise NotNow(f"{asked.code} of {asked.subject} is not silenced")
            return None
        return self._make(asked, "silenced", now_s + asked.seconds, now_s)

    def tick(self, raised: Iterable[Key], now_s: float) -> bool:
        """Forget what is over. True where something was."""
        there = set(raised)
        over = [
            key
            for key, note in self._notes.items()
            if (note.until_s and note.until_s <= now_s)
            or (note.kind == "acknowledged" and key[0] not in there and now_s - self._since_s > PATIENCE_S)
        ]
        for key in over:
            del self._notes[key]
        return bool(over)

    def _make(self, asked: Acknowledge | Silence, kind: str, until_s: float, now_s: float) -> FindingNote:
        if len(self._notes) >= MOST and ((asked.code, asked.subject), kind) not in self._notes:
            raise NotNow(f"there are {MOST} notes already: end a silence first")
        note = FindingNote(
            asked.code, asked.subject, kind, asked.user, asked.comment[:LONGEST_COMMENT], now_s, until_s,  # type: ignore[arg-type]
        )  # fmt: skip
        self._put(note)
        return note

    def _put(self, note: FindingNote) -> None:
        self._notes[(note.code, note.subject), note.kind] = note
