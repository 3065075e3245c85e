"""What is written of a stream while it is told, and how it is read back. Pure: bytes in and out; files are `journal`'s.

A journal is MAGIC and then records, each its body's length and CRC-32 (u32, little-endian) and the body (MessagePack).
A record stands there before anybody can see the events in it, so that whoever takes the stream over goes on after them.
Fields are appended with defaults, as on the wire; what an older release would read wrongly changes MAGIC.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

import msgspec

from bus.messages.clients import Operation
from bus.messages.requests import TokenLogprobs
from ingress.drawing import Drawing
from ingress.streams import Finish, Part
from ingress.timing import Timing

MAGIC: Final = b"headrace stream 1\n"
_PREFIX: Final = struct.Struct("<II")


class Opening(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """The first record: all that the same plan needs again.

    Attributes:
        operation, body: the call.
        tenant, owner, received_ns: its caller.
        response: the id under which it is resumed.
        created, fingerprint: of the head that all its events have.
        requests: ids of its jobs at the scheduler.
        prompts: ids of each prompt, packed u32: a template may say another thing on another day.
        seed: that choice 0 draws with.
        key, traceparent, batch, weight, earlier, partition: of the caller too.
        cached: the stored answer (`cache.entry`) that it is told from; empty where it is generated.
        target: the model that answers, where the call names a route; empty where it names the model.
        grammar: that the answer follows, which was tried; empty where there is none.
        drawing: what the model recommended to draw with.
    """

    operation: Operation
    body: bytes
    tenant: str
    owner: str
    received_ns: int
    response: str
    created: int
    fingerprint: str | None
    requests: tuple[int, ...]
    prompts: tuple[bytes, ...]
    seed: int
    key: str = ""
    traceparent: str = ""
    batch: bool = False
    weight: float = 1.0
    earlier: bytes = b""
    cached: bytes = b""
    partition: str | None = None
    target: str = ""
    grammar: str = ""
    drawing: Drawing = Drawing()


class Drawn(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A piece of choice `choice`, and the events that tell it. The fields between are `streams.Piece`'s; `parts` are
    there only where no tokens say the same."""

    choice: int
    tokens: tuple[int, ...]
    events: tuple[bytes, ...]
    cached_tokens: int = 0
    raw: tuple[TokenLogprobs | None, ...] = ()
    finish: Finish | None = None
    timing: Timing | None = None
    parts: tuple[Part, ...] = ()


class Said(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Events that belong to no piece: how a stream begins and ends. `last`: no other follows."""

    events: tuple[bytes, ...]
    last: bool = False


class Adopted(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """An ingress has taken it over."""

    by: str
    epoch: int


Record = Drawn | Said | Adopted


class Foreign(ValueError):
    """Not a journal, damaged, or of a release that writes another kind."""


class Told(NamedTuple):
    """A journal that was read.

    Attributes:
        length: of what is whole. A last record that is not was never seen by anybody.
    """

    opening: Opening
    records: list[Record]
    length: int

    @property
    def events(self) -> list[bytes]:
        """All of them, from number 1."""
        return [event for record in self.records if not isinstance(record, Adopted) for event in record.events]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return any(isinstance(record, Said) and record.last for record in self.records)

    @property
    def adopted(self) -> int:
        """How often it has been taken over."""
        return sum(isinstance(record, Adopted) for record in self.records)

    @property
    def strikes(self) -> int:
        """... and how often since it last came forward."""
        count = 0
        for record in reversed(self.records):
            if not isinstance(record, Adopted):
                break
            count += 1
        return count


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Opening | Drawn | Said | Adopted)


def frame(record: Opening | Record) -> bytes:
    """A record as it is written; the first with what comes before it."""
    body = _encoder.encode(record)
    prefix = _PREFIX.pack(len(body), zlib.crc32(body))
    return b"".join((MAGIC, prefix, body)) if isinstance(record, Opening) else prefix + body


def read(data: bytes) -> Told | None:
    """A journal; None where its writer died before anybody could have seen anything of it.

    Raises:
        Foreign: see there.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):
            return None
        raise Foreign("it does not begin as a journal of this release does")
    at = len(MAGIC)
    found: list[Opening | Record] = []
    while at + _PREFIX.size <= len(data):
        length, checksum = _PREFIX.unpack_from(data, at)
        body = data[at + _PREFIX.size : at + _PREFIX.size + length]
        if len(body) < length:
            break  # its writer died as it wrote
        if zlib.crc32(body) != checksum:
            raise Foreign(f"the record at byte {at} is damaged")
        try:
            found.append(_decoder.decode(body))
        except msgspec.DecodeError as error:
            raise Foreign(f"the record at byte {at} cannot be read: {error}") from None
        at += _PREFIX.size + length
    if not found:
        return None
    opening, *records = found
    if not isinstance(opening, Opening) or any(isinstance(record, Opening) for record in records):
        raise Foreign("its records are not in order")
    return Told(opening, [record for record in records if not isinstance(record, Opening)], at)
