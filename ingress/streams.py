"""What comes out of the engine: pieces of one answer, in order, as an async iterator. No sockets, no decisions."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from bus.messages.requests import FinishReason, TokenLogprobs
from ingress.timing import Timing

AbortReason = Literal["client", "stop", "deadline", "shutdown", "discarded"]
BUDGET: Final = "budget"  # `stop_reason` of an answer that ended because its budget had nothing left for it
ContentKind = Literal["text", "reasoning", "tool", "refusal"]
EndReason = FinishReason | Literal["content_filter"]


class TokenText(msgspec.Struct, frozen=True, gc=False):
    """One token with its log probability.

    Attributes:
        text: its bytes; may be a part of a character.
        logprob: natural logarithm.
        top: the best alternatives as (token id, bytes, logprob), best first.
    """

    token: int
    text: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The account of one answer, in tokens. `completion_tokens` counts the token that stopped it; `reasoning_tokens`
    are those of them that were thought, the marks around it included. `estimated`: whoever generated it did not say, or
    what cannot be. `others`: tokens that were drawn for this answer and are in none; of beams, which share tokens, it
    may be below zero. `allowed`: tokens that all samples of its call may have; 0 where nobody counts."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    others: int = 0
    allowed: int = 0


class Finish(msgspec.Struct, frozen=True, gc=False):
    """How an answer ended.

    Attributes:
        stop_reason: the stop string that was found or the caller's stop token that was drawn; `BUDGET` or `POOL`
            where `reason` is "length" and that was the limit; `None` at the end of sequence and for every other reason.
        error: what to tell the client where `reason` is "error" or "abort"; `code` is the error's, empty the usual one.
        timing: where its time went, where that was asked for.
        guards: what was found in it and what followed, by guard.
    """

    reason: EndReason
    usage: Usage
    stop_reason: str | int | None = None
    error: str = ""
    timing: Timing | None = None
    guards: tuple[tuple[str, str], ...] = ()
    code: str = ""


def cut_short(finish: Finish) -> bool:
    """Whether it would have gone on for somebody with a larger budget."""
    return finish.reason == "length" and finish.stop_reason == BUDGET


class Part(msgspec.Struct, frozen=True, gc=False):
    """Consecutive text of one kind: of the answer, of the thought before it, the arguments of a tool call, or a
    refusal to answer.

    Attributes:
        call: which of the answer's calls it belongs to, from 0; -1 where it is of none. A call may begin with a part
            that has no text.
        name: of the tool that is called.
    """

    kind: ContentKind
    text: str
    call: int = -1
    name: str = ""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """What is new since the last piece.

    Attributes:
        text: of the answer proper; whole characters; never part of a stop string, never the text of the token that
            stopped.
        tokens: ids drawn since the last piece, the one that stopped included.
        logprobs: for each token whose text begins in the text delivered so far, so the joined `text` bytes are
            the answer's; empty unless asked for.
        finish: set on the last piece only.
        raw: of each of `tokens`, as the scheduler sent it; empty unless asked for. With it the answer can be taken up
            after this piece, where `logprobs` still lacks those of tokens whose text is held back.
        cached_tokens: of the prompt, as known by now.
        timing: where the answer's time went so far, where that was asked for. It goes on changing.
        parts: everything in order, by kind, `text` included; empty where there is nothing but `text`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenText, ...] = ()
    finish: Finish | None = None
    raw: tuple[TokenLogprobs | None, ...] = ()
    cached_tokens: int = 0
    timing: Timing | None = None
    parts: tuple[Part, ...] = ()


def merge(pieces: list[Piece]) -> Piece:
    """Consecutive pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.tokens),
        tuple(entry for piece in pieces for entry in piece.logprobs),
        pieces[-1].finish,
        tuple(entry for piece in pieces for entry in piece.raw),
        pieces[-1].cached_tokens,
        pieces[-1].timing,
        joined([part for piece in pieces for part in parts_of(piece)]) if any(piece.parts for piece in pieces) else (),
    )


def parts_of(piece: Piece) -> tuple[Part, ...]:
    """All of a piece's content in order, by kind."""
    return piece.parts or ((Part("text", piece.text),) if piece.text else ())


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Neighbours of one kind, and of one call, as one. What is empty parts nothing, but for a call that begins: a
    detector sees the text on both its sides as one."""
    kept = (part for part in parts if part.text or part.call >= 0)
    groups = itertools.groupby(kept, key=lambda part: (part.kind, part.call, part.name))
    return tuple(Part(kind, "".join(part.text for part in group), call, name) for (kind, call, name), group in groups)


class Stream:
    """One answer: iterate it once, or `listen`. Pieces that arrive while the consumer is away come out as one.

    Attributes:
        request: 63-bit id, the same in timelines and in the scheduler.
        prompt_tokens: how many there were.
        prompt_logprobs: per prompt token, `None` for the first; complete when the first piece arrives, empty unless
            asked for.
        touched: see `touch`; `on_touched` is called then.
    """

    def __init__(self, request: int, prompt_tokens: int, on_abort: Callable[[AbortReason], None]) -> None:
        self.request = request
        self.prompt_tokens = prompt_tokens
        self.prompt_logprobs: list[TokenText | None] = []
        self.touched = False
        self.on_touched: Callable[[], object] | None = None
        self._on_abort = on_abort
        self._waiting: list[Piece] = []
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[Piece], None] | None = None
        self._taps: list[Callable[[Piece], None]] = []
        self._due = False  # the listener will be called
        self._finished = False  # the last piece has been pushed
        self._exhausted = False  # ... and taken

    def push(self, piece: Piece) -> None:
        """Append; the producer's side. Ignored after the last piece."""
        if self._finished:
            return
        self._waiting.append(piece)
        self._finished = piece.finish is not None
        for tap in self._taps:
            tap(piece)
        if self._listener is not None:
            self._hand_over_soon()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def touch(self) -> None:
        """Somebody on its way to the client has changed or judged the answer: it is not one to be kept for others."""
        if not self.touched:
            self.touched = True
            if self.on_touched is not None:
                self.on_touched()

    def tap(self, tap: Callable[[Piece], None]) -> None:
        """Have `tap` see every piece as it is pushed, apart from whoever reads the stream and from other taps: those
        that wait at once. Call it before the stream is read."""
        self._taps.append(tap)
        for piece in tuple(self._waiting):
            tap(piece)

    def listen(self, listener: Callable[[Piece], None]) -> None:
        """Have `listener` called with what came, a turn of the loop later: a task that wakes up for each piece costs
        several times as much."""
        self._listener, self._loop = listener, asyncio.get_running_loop()
        if self._waiting:
            self._hand_over_soon()

    def abort(self, reason: AbortReason = "client") -> None:
        """The answer is not wanted any more; its work ends within a step. Idempotent. Iteration then ends with a
        piece whose finish is "abort"."""
        if not self._finished:
            self._on_abort(reason)

    @property
    def finished(self) -> bool:
        """Whether the last piece is here (taken or not)."""
        return self._finished

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Piece:
        if self._exhausted:
            raise StopAsyncIteration
        while not self._waiting:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def _take(self) -> Piece:
        pieces, self._waiting = self._waiting, []
        piece = merge(pieces)
        self._exhausted = piece.finish is not None
        return piece

    def _hand_over_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._due = False
        if self._listener is not None and self._waiting:
            self._listener(self._take())
