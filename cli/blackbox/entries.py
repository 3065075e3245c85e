"""Recorded moments as plain data, with the arrays of a message as lists. Pure, but for reading files."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bus.blackbox import files
from bus.blackbox.privacy import CONTENT, length_of
from bus.blackbox.reading import Decoder, Moment, Recording
from cli.blackbox.following import Follower

# Fields of bytes: what they are. All others are packed u32.
_U64: Final = frozenset({"requests"})
_BYTES: Final = frozenset({"samples", "drafts", "drawn", "drafted"})
_HEX: Final = frozenset({"root", "digests", "parents", "evicted", "weights_digest"})
_TEXT: Final = frozenset({"body", "text"})
_MARKED: Final = frozenset(
    {"prompt", "emitted", "root", "digests", "parents", "evicted", "stop_token_ids", "suppress", "tokens", "body"}
)  # what `bus.blackbox.privacy` takes out


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A moment of a process: a line of `headrace blackbox --json`.

    Attributes:
        at: by the clock on the wall, ISO 8601, UTC. `at_ns` is CLOCK_MONOTONIC of the host.
        number: counts what the process recorded, messages apart from events; a gap is damage.
        kind: "received", "sent", "refused", "state", "log" or "end".
        size: bytes of the message. `hidden`: not all of it was recorded on purpose; `cut`: it was too long.
        requests: that it concerns.
    """

    at: str
    at_ns: int
    process: str
    epoch: int
    number: int
    kind: str
    peer: str = ""
    channel: str = ""
    message: str = ""
    size: int = 0
    seq: int = 0
    hidden: bool = False
    cut: bool = False
    requests: list[int] = []
    fields: dict[str, Any] = {}
    text: str = ""


class Told(msgspec.Struct):
    """What one incarnation recorded, in order of time."""

    process: str
    epoch: int
    pid: int
    build: str
    entries: list[Entry]
    fatal: str = ""
    same_boot: bool = True


def told(
    recording: Recording, *, since_ns: int = 0, last: int = 0, requests: Iterable[int] = (), content: bool = True
) -> Told:
    """A recording as plain data.

    Args:
        since_ns: leave out what was before.
        last: at most so many; 0 takes all.
        requests: only what concerns one of these; empty takes all.
        content: with prompts and tokens, where they were recorded.
    """
    head, wanted = recording.head, frozenset(requests)
    follower = Follower()
    chosen: list[tuple[Moment, frozenset[int]]] = []
    for moment in recording.moments:
        concerned = follower.concerned(moment)  # of every moment: slots are opened long before they are of interest
        if moment.at_ns >= since_ns and (not wanted or wanted & concerned):
            chosen.append((moment, concerned))
    if not content:
        chosen = [(_without_content(moment), concerned) for moment, concerned in chosen]
    entries = [_entry(recording, moment, concerned) for moment, concerned in chosen[-last if last else 0 :]]
    return Told(head.name, head.epoch, head.pid, head.build, entries, recording.fatal, recording.same_boot)


def load(run: Path, name: str = "") -> list[Recording]:
    """All recordings of a run directory, or those of one process; oldest first by start."""
    decoder = Decoder()
    found = (decoder.read(each.path, files.fatal_path(each.path)) for each in files.found(files.directory(run), name))
    return sorted(
        (each for each in found if each is not None), key=lambda each: (each.same_boot, each.head.monotonic_ns)
    )


def merged(recordings: Iterable[Told]) -> list[Entry]:
    """In order of time, over all of them. Clocks of another run of the kernel say nothing about this one's."""
    entries = [entry for each in recordings if each.same_boot for entry in each.entries]
    return sorted(entries, key=lambda entry: entry.at_ns)


def _without_content(moment: Moment) -> Moment:
    hide = CONTENT.get(type(moment.message))
    return moment if moment.hidden or hide is None else moment._replace(message=hide(moment.message), hidden=True)


def _entry(recording: Recording, moment: Moment, concerned: frozenset[int]) -> Entry:
    at = datetime.datetime.fromtimestamp(recording.wall_ns(moment.at_ns) / 1e9, datetime.UTC)
    return Entry(
        at=at.isoformat(timespec="microseconds"),
        at_ns=moment.at_ns,
        process=recording.head.name,
        epoch=recording.head.epoch,
        number=moment.number,
        kind=moment.kind,
        peer=moment.peer,
        channel=moment.channel,
        message=moment.type,
        size=moment.size,
        seq=moment.head.seq if moment.head is not None else 0,
        hidden=moment.hidden,
        cut=moment.cut,
        requests=sorted(concerned),
        fields=_fields(moment.message, hidden=moment.hidden) if moment.message is not None else {},
        text=moment.text,
    )


def _fields(message: Any, *, hidden: bool) -> dict[str, Any]:
    return {name: _plain(name, getattr(message, name), hidden) for name in message.__struct_fields__}


def _plain(name: str, value: Any, hidden: bool) -> Any:
    if isinstance(value, msgspec.Struct):
        return _fields(value, hidden=hidden)
    if isinstance(value, tuple | list):
        return [_plain(name, item, hidden) for item in value]
    if isinstance(value, bytes):
        return {"hidden_bytes": length_of(value)} if hidden and name in _MARKED else _unpacked(name, value)
    return value


def _unpacked(name: str, value: bytes) -> Any:
    if name in _TEXT:
        return value.decode("utf-8", "replace")
    if name in _BYTES:
        return list(value)
    width = 8 if name in _U64 else 4
    if name in _HEX or len(value) % width:
        return value.hex()
    return np.frombuffer(value, dtype=f"<u{width}").tolist()
