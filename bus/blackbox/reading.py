"""Recordings as they are read: of the dead and of the living, from a file or from bytes. Nothing here ever writes.

Whatever the bytes, nothing is raised: what does not decode is shown as what it is, a record of so many bytes.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bus.blackbox import form
from bus.blackbox.form import CUT, EVENTS, HIDDEN, META, REFUSED, Head
from bus.blackbox.ring import records
from bus.messages import clients, control, observe, pages, requests, steps, telemetry
from bus.wire import CHANNELS, Header

_UNIONS: Final[dict[str, tuple[object, ...]]] = {
    "clients": (clients.ToIngressFromClient, clients.ToClient),
    "requests": (requests.ToScheduler, requests.ToIngress),
    "steps": (steps.ToWorker, steps.ToSchedulerFromWorker),
    "pages": (pages.ToKv, pages.FromKv),
    "telemetry": (telemetry.ToMetrics,),
    "observe": (observe.ToObserver, observe.FromObserver, observe.Update),
    "control": (control.ToProcess, control.FromProcess),
}
_NAMES: Final = {number: name for name, number in CHANNELS.items()}
_KINDS: Final = {
    form.RECEIVED: "received",
    form.SENT: "sent",
    form.STATE: "state",
    form.LOG: "log",
    form.END: "end",
    form.REFUSED: "refused",
}


def _types() -> dict[tuple[int, int], msgspec.msgpack.Decoder[Any]]:
    """How a message is decoded, by channel and tag, which are unique together."""
    found: dict[tuple[int, int], msgspec.msgpack.Decoder[Any]] = {}
    for channel, unions in _UNIONS.items():
        for union in unions:
            for member in typing.get_args(union) or (union,):
                tag = member.__struct_config__.tag
                found[CHANNELS[channel], tag] = msgspec.msgpack.Decoder(member, strict=True)
    return found


class Moment(NamedTuple):
    """One record, decoded.

    Attributes:
        number: counts the records of its ring from 1; where one is missing, it was damaged.
        at_ns: CLOCK_MONOTONIC of the host.
        kind: "received", "sent", "refused", "state", "log" or "end".
        peer, channel: of messages.
        size: bytes of the whole message.
        head: of messages over ZeroMQ.
        type: of the message; empty where it is not known.
        message: the struct; None where it cannot be decoded.
        hidden, cut: content was taken out; not all of it was kept.
        text: of everything else.
    """

    number: int
    at_ns: int
    kind: str
    peer: str = ""
    channel: str = ""
    size: int = 0
    head: Header | None = None
    type: str = ""
    message: Any = None
    hidden: bool = False
    cut: bool = False
    text: str = ""


class Recording(NamedTuple):
    """What one incarnation recorded.

    Attributes:
        moments: in order of time.
        fatal: stacks at a fatal signal, where there was one.
        same_boot: of this run of the kernel, so that its clock and its pid mean something.
    """

    head: Head
    moments: list[Moment]
    fatal: str = ""
    same_boot: bool = True

    def wall_ns(self, at_ns: int) -> int:
        """A moment by the clock on the wall, as it was when the process started."""
        return self.head.wall_ns + at_ns - self.head.monotonic_ns


class Decoder:
    """Makes moments of records; keep one."""

    def __init__(self) -> None:
        self._types = _types()
        self._header = msgspec.msgpack.Decoder(Header, strict=True)

    def read(self, path: Path, fatal: Path | None = None) -> Recording | None:
        """The recording in a file; None where there is none."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        text = ""
        if fatal is not None:
            try:
                text = fatal.read_text(errors="replace")
            except OSError:
                text = ""
        return self.parse(data, text)

    def parse(self, data: bytes, fatal: str = "") -> Recording | None:
        """The recording in these bytes, which may be cut off anywhere; None where they are not one."""
        head = form.decode_head(data)
        if head is None:
            return None
        moments: list[Moment] = []
        for start, end in head.rings:
            for record in records(data[start:end], head.key):
                if len(record.payload) >= META.size:
                    moments.append(self._moment(record.number, record.payload))
        moments.sort(key=lambda moment: moment.at_ns)
        return Recording(head, moments, fatal, head.boot == form.boot_id())

    def _moment(self, number: int, payload: bytes) -> Moment:
        at_ns, kind, channel, flags, peers, size, heads = META.unpack_from(payload)
        rest = payload[META.size :]
        if kind in EVENTS or kind not in _KINDS:
            return Moment(number, at_ns, _KINDS.get(kind, f"kind {kind}"), text=rest.decode("utf-8", "replace"))
        peer, rest = rest[:peers].decode("utf-8", "replace"), rest[peers:]
        name = _NAMES.get(channel, f"channel {channel}")
        if kind == REFUSED:
            return Moment(number, at_ns, "refused", peer, name, size, text=rest.decode("utf-8", "replace"))
        header, frame = self._decode_header(rest[:heads]), rest[heads:]
        tag = _tag(frame)
        decoder = self._types.get((channel, tag))
        message = None
        if decoder is not None and not flags & CUT:
            try:
                message = decoder.decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                message = None
        kind_name = decoder.type.__name__ if decoder is not None else f"tag {tag}"
        return Moment(
            number, at_ns, _KINDS[kind], peer, name, size, header, kind_name, message,
            bool(flags & HIDDEN), bool(flags & CUT),
        )  # fmt: skip

    def _decode_header(self, data: bytes) -> Header | None:
        try:
            return self._header.decode(data) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def _tag(frame: bytes) -> int:
    """The first element of a MessagePack array of at least one; -1 where there is none such."""
    if not frame:
        return -1
    first = frame[0]
    at = 1 if 0x91 <= first <= 0x9F else 3 if first == 0xDC else 5 if first == 0xDD else 0
    return frame[at] if at and at < len(frame) and frame[at] < 0x80 else -1
