"""An answer as it is stored, and as a stream again. Pure but for the loop that a stream lives on.

The pieces are kept as they came, so a cached answer has the chunks that the live one had. A reader that cannot keep up
gets them one by one all the same, a burst for each turn of the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bus.packed import pack_u32, unpack_u32
from ingress.job import Job
from ingress.records import Drawn
from ingress.streams import Finish, Part, Piece, Stream, Usage

BURST: Final = 64  # pieces for each turn of the loop


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer.

    Attributes:
        texts: of its pieces.
        counts, tokens: how many ids each piece has, and the ids of all (packed u32).
        reason, stop_reason: how it ended.
        compute_ns, prefill_ns: what computing it took, where that was told.
        parts: of its pieces; empty where none has any.
        reasoning_tokens: see `Usage`.
    """

    texts: tuple[str, ...]
    counts: bytes
    tokens: bytes
    reason: str
    stop_reason: str | int | None
    prompt_tokens: int
    completion_tokens: int
    compute_ns: int = 0
    prefill_ns: int = 0
    parts: tuple[tuple[Part, ...], ...] = ()
    reasoning_tokens: int = 0

    @property
    def text(self) -> str:
        """The whole."""
        return "".join(self.texts)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


class BadEntry(ValueError):
    """Bytes that are no entry of this release."""


def make(pieces: Sequence[Piece], finish: Finish, computed: tuple[int, int] | None) -> Entry:
    """Of an answer that came to its end."""
    ids = [token for piece in pieces for token in piece.tokens]
    return Entry(
        tuple(piece.text for piece in pieces),
        pack_u32([len(piece.tokens) for piece in pieces]),
        pack_u32(ids),
        finish.reason,
        finish.stop_reason,
        finish.usage.prompt_tokens,
        finish.usage.completion_tokens,
        *(computed or (0, 0)),
        tuple(piece.parts for piece in pieces) if any(piece.parts for piece in pieces) else (),
        finish.usage.reasoning_tokens,
    )


def encode(entry: Entry) -> bytes:
    """For the store, and for a stream's journal."""
    return _encoder.encode(entry)


def decode(data: bytes) -> Entry:
    """The entry in these bytes.

    Raises:
        BadEntry: see there.
    """
    try:
        entry = _decoder.decode(data)
        counts = unpack_u32(entry.counts)
        whole = (
            len(entry.parts) in (0, len(counts))
            and len(counts) == len(entry.texts) > 0
            and int(counts.sum()) * 4 == len(entry.tokens)
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise BadEntry(f"not an entry: {error}") from None
    if not whole or entry.reason not in ("stop", "length"):
        raise BadEntry("its parts contradict each other")
    return entry


def as_cached(piece: Piece) -> Piece:
    """The piece as it is told to who did not have it computed: all of its prompt was found instead."""
    finish = piece.finish
    if finish is None:
        return Piece(piece.text, piece.tokens, parts=piece.parts)
    usage = finish.usage
    told = Usage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens, usage.reasoning_tokens)
    return Piece(
        piece.text, piece.tokens, finish=Finish(finish.reason, told, finish.stop_reason, finish.error),
        cached_tokens=usage.prompt_tokens, parts=piece.parts,
    )  # fmt: skip


def pieces(entry: Entry) -> Iterator[Piece]:
    """As they came, marked as cached."""
    ids = tuple(unpack_u32(entry.tokens).tolist())
    usage = Usage(entry.prompt_tokens, entry.completion_tokens, reasoning_tokens=entry.reasoning_tokens)
    finish = Finish(entry.reason, usage, entry.stop_reason)  # type: ignore[arg-type]
    at, last = 0, len(entry.texts) - 1
    for index, (text, count) in enumerate(zip(entry.texts, unpack_u32(entry.counts).tolist(), strict=True)):
        parts = entry.parts[index] if entry.parts else ()
        yield as_cached(Piece(text, ids[at : at + count], finish=finish if index == last else None, parts=parts))
        at += count


class Replayed(Stream):
    """A stream of an entry: its pieces stay apart."""

    def __init__(self, request: int, entry: Entry, skip: int = 0) -> None:
        super().__init__(request, entry.prompt_tokens, lambda _: None)  # there is no work to end
        for index, piece in enumerate(pieces(entry)):
            if index >= skip:
                self.push(piece)

    def _hand_over(self) -> None:
        self._due = False
        for _ in range(BURST):
            if self._listener is None or not self._waiting:
                return
            piece = self._waiting.pop(0)
            self._exhausted = piece.finish is not None
            self._listener(piece)
        if self._waiting:
            self._hand_over_soon()


def go_on(stored: bytes, job: Job, request: int, adopted: int, drawn: Sequence[Drawn]) -> tuple[Stream, list[Piece]]:  # noqa: ARG001
    """Take up a cached answer that another ingress has begun to tell: `Engine.go_on`, without an engine.

    Raises:
        ValueError: what was told is not how this answer begins.
    """
    entry = decode(stored)
    told = list(pieces(entry))[: len(drawn)]
    if [piece.tokens for piece in told] != [record.tokens for record in drawn]:
        raise ValueError(f"what was told of request {request} is not how its cached answer begins")
    return Replayed(request, entry, len(drawn)), told
