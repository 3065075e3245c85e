"""Frames: how a message becomes bytes and back. Nothing here touches a socket.

A message is two frames, `[header][body]`, both MessagePack arrays (msgspec `array_like`).
The header is the same for every conversation; the body is one member of the tagged union of
its channel. New fields are appended with defaults, never reordered: an old decoder skips what
it does not know, a new one fills in what is missing.

Where that is not enough there is a new protocol: raise `PROTOCOLS.newest`, and keep speaking the older ones for at
least one release, since the processes of two releases work side by side while an upgrade goes on. Two processes speak
the newest protocol that both know; a hello says what one knows, the welcome what was agreed, every further message
carries it. What must be readable before that, or has no single reader, never changes but by appending and carries
`ANY_PROTOCOL`: hello, welcome, nack, and whatever is published.

A frame that does not decode is never an exception that ends a process: the codec raises
`BadFrame` with a closed set of reasons, endpoints count it and answer with `Nack`.
"""

from __future__ import annotations

from typing import Final, Generic, Literal, NamedTuple, TypeVar, get_args

import msgspec


class Protocols(NamedTuple):
    """All protocols from the oldest to the newest."""

    oldest: int
    newest: int

    def agree(self, others: Protocols) -> int | None:
        """The newest that both know; None where there is none."""
        newest = min(self.newest, others.newest)
        return newest if newest >= max(self.oldest, others.oldest) else None

    def __str__(self) -> str:
        return f"{self.oldest}" if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


PROTOCOLS: Final = Protocols(1, 1)
ANY_PROTOCOL: Final = 0
MAX_MESSAGE_BYTES: Final = 64 << 20  # a 1M-token prompt with digests is 4.3 MiB; logprobs are chunked below this

Channel = Literal["clients", "requests", "steps", "pages", "telemetry", "observe", "control", "accounts", "batches"]
CHANNELS: Final[dict[str, int]] = {name: number for number, name in enumerate(get_args(Channel), start=1)}

BadFrameReason = Literal["frames", "size", "header", "protocol", "channel", "body"]

Body = TypeVar("Body")


class BadFrame(Exception):
    """A frame that this codec refuses.

    Attributes:
        reason: which check failed, for counters.
        detail: one line for the log and for the sender's `Nack`.
    """

    def __init__(self, reason: BadFrameReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: BadFrameReason = reason
        self.detail = detail


class Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Who says it, and in which protocol. `(source, epoch)` is one incarnation of a process; `seq` counts its messages
    on one socket."""

    protocol: int
    channel: int
    source: str
    epoch: int
    seq: int


class Codec(Generic[Body]):
    """Encodes and decodes the messages of one channel. Not thread-safe; keep one per thread.

    Args:
        channel: the conversation.
        union: the tagged union (or single Struct type) of bodies that may arrive.
    """

    def __init__(self, channel: Channel, union: object) -> None:
        self.channel = channel
        self.number = CHANNELS[channel]
        self._encoder = msgspec.msgpack.Encoder()
        self._header = msgspec.msgpack.Decoder(Header, strict=True)
        self._body: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(union, strict=True)

    def encode(
        self, body: msgspec.Struct, source: str, epoch: int, seq: int, protocol: int = ANY_PROTOCOL
    ) -> list[bytes]:
        """`[header, body]` for the wire."""
        header = Header(protocol, self.number, source, epoch, seq)
        return [self._encoder.encode(header), self._encoder.encode(body)]

    def decode(self, frames: list[bytes]) -> tuple[Header, Body]:
        """The inverse of `encode`, for bytes from anyone. Whether the protocol was agreed on is for the caller to see.

        Raises:
            BadFrame: wrong number of frames, too large, undecodable, unknown protocol, other channel.
        """
        if len(frames) != 2:
            raise BadFrame("frames", f"expected 2 frames, got {len(frames)}")
        if len(frames[0]) + len(frames[1]) > MAX_MESSAGE_BYTES:
            raise BadFrame("size", f"message of {len(frames[0]) + len(frames[1])} bytes")
        try:
            header = self._header.decode(frames[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame("header", str(error)) from None
        if header.protocol != ANY_PROTOCOL and not PROTOCOLS.oldest <= header.protocol <= PROTOCOLS.newest:
            raise BadFrame("protocol", f"a message in protocol {header.protocol}; this process knows {PROTOCOLS}")
        if header.channel != self.number:
            raise BadFrame("channel", f"message of channel {header.channel} on channel {self.number} ({self.channel})")
        try:
            return header, self._body.decode(frames[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame("body", str(error)) from None
