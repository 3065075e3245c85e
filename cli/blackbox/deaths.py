"""Who died, how, and when: what recordings tell of an end. A process that was killed could say nothing of it; when it
died is then known from its last heartbeat, to half a second."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from bus.blackbox.reading import Recording
from bus.names import SUPERVISOR


class Death(NamedTuple):
    """The end of an incarnation. `how` is one line; `asked`: it ended because it was told to."""

    recording: Recording
    at_ns: int
    how: str
    asked: bool


def deaths(recordings: Collection[Recording], living: Iterable[tuple[str, int]]) -> list[Death]:
    """All ends that are recorded, in order of time.

    Args:
        living: names and pids of the processes that run.
    """
    alive = frozenset(living)
    found = [
        _death(each, recordings)
        for each in recordings
        if each.moments and not (each.same_boot and (each.head.name, each.head.pid) in alive)
    ]
    return sorted(found, key=lambda death: (death.recording.same_boot, death.at_ns))


def _death(recording: Recording, all_of_them: Iterable[Recording]) -> Death:
    last = recording.moments[-1]
    ends = [moment for moment in recording.moments if moment.kind == "end"]
    if ends:
        return Death(recording, ends[-1].at_ns, ends[-1].text, ends[-1].text == "exit 0")
    if recording.fatal:
        return Death(recording, last.at_ns, recording.fatal.splitlines()[0], False)
    seen = _seen_by_supervisor(recording, all_of_them)
    return Death(recording, last.at_ns, seen or "killed: it could say nothing of its end", False)


def _seen_by_supervisor(dead: Recording, recordings: Iterable[Recording]) -> str:
    """The supervisor logs each death with its cause, after the death itself."""
    words = f"{dead.head.name}: ended unexpectedly: "
    for recording in recordings:
        if recording.head.name == SUPERVISOR and recording.same_boot and dead.same_boot:
            for moment in recording.moments:
                if moment.kind == "log" and moment.at_ns >= dead.moments[-1].at_ns and words in moment.text:
                    return moment.text.partition(words)[2].partition(" unit=")[0]
    return ""
