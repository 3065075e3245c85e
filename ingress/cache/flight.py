"""One generation for all calls that ask for the same at the same time.

The first is the leader: its stream is the engine's own. The others follow: each has a stream, a request id, a journal
and a row in the ledger of its own, fed by what the leader's generation brings, from its beginning. Nobody depends on
another client: a leader that leaves does not end what others listen to, and a follower whose leader's generation fails
goes on alone, after the tokens that it has told.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from bus.messages.usage import Outcome
from ingress.cache.entry import as_cached
from ingress.errors import ApiError
from ingress.job import Job
from ingress.models import ServedModel
from ingress.records import Drawn
from ingress.streams import AbortReason, Finish, Piece, Stream, Usage, cut_short

log = logging.getLogger(__name__)

MAX_FOLLOWERS: Final = 256  # of one flight; more ask for themselves
OPEN_PATIENCE_S: Final = 2.0  # for the leader to be taken by its scheduler; then a follower asks for itself


Account = Callable[[int, Job, Outcome, Usage, int], None]
"""Writes a request of a job into the ledger: how it ended, what it used, when it came."""


class Backend(Protocol):
    """What a flight needs of the engine."""

    async def open(self, job: Job) -> Stream: ...
    async def expect(self, model: ServedModel) -> None: ...
    def go_on(self, job: Job, request: int, adopted: int, drawn: Sequence[Drawn]) -> tuple[Stream, list[Piece]]: ...
    def lend(self, request: int, give_back: Callable[[], bool]) -> None: ...
    def unlend(self, request: int) -> None: ...
    def abort(self, requests: Iterable[int]) -> None: ...


class Flight:
    """A generation that others may join until it has ended.

    Args:
        account: for followers' rows in the ledger.
        landed: is called with how it ended, once it came to an end by itself.
        over: is called when nobody can join any more.
    """

    def __init__(
        self,
        backend: Backend,
        account: Account,
        landed: Callable[[Flight, Finish], None],
        over: Callable[[Flight], None],
    ) -> None:
        self._backend, self._account, self._landed, self._over = backend, account, landed, over
        self.pieces: list[Piece] = []
        self.request = 0
        self.stream: Stream | None = None
        self._opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._followers: dict[int, _Follower] = {}
        self._leader_left = False
        self._ended = False

    # --- the leader ------------------------------------------------------------------------------------------------

    def lead(self, stream: Stream) -> Stream:
        """The generation is open; its stream is the leader's."""
        self.stream, self.request = stream, stream.request
        self._backend.lend(stream.request, self._leader_leaves)
        self._opened.set_result(True)
        stream.tap(self._hear)  # some of it, or all, may be here already
        return stream

    def fail_to_open(self) -> None:
        """There will be no generation."""
        if not self._opened.done():
            self._opened.set_result(False)
        self._end()

    def _leader_leaves(self) -> bool:
        """The front wants the leader's request aborted; whether somebody else still wants it."""
        if self._ended or not self._followers:
            return False
        self._leader_left = True
        return True

    @property
    def touched(self) -> bool:
        """Whether somebody between here and the client has changed or judged the answer."""
        return self.stream is not None and self.stream.touched

    # --- followers -------------------------------------------------------------------------------------------------

    async def follow(self, job: Job, received_ns: int) -> Stream | None:
        """Join, with a stream that begins at the beginning; None where that cannot be: ask for yourself."""
        if len(self._followers) >= MAX_FOLLOWERS:
            return None
        try:
            async with asyncio.timeout(OPEN_PATIENCE_S):
                opened = await asyncio.shield(self._opened)
        except TimeoutError:
            return None
        if not opened or self._ended:
            return None
        follower = _Follower(job.request or secrets.randbits(63), job, self, received_ns)
        self._followers[follower.stream.request] = follower
        self._backend.lend(follower.stream.request, follower.leave)
        for piece in self.pieces:
            follower.take(piece)
        return follower.stream

    def left(self, follower: _Follower) -> None:
        """A follower listens no more."""
        self._followers.pop(follower.stream.request, None)
        self._backend.unlend(follower.stream.request)
        if not self._followers and self._leader_left and not self._ended:
            self._backend.unlend(self.request)
            self._backend.abort((self.request,))

    # --- what comes ------------------------------------------------------------------------------------------------

    def _hear(self, piece: Piece) -> None:
        finish = piece.finish
        if finish is not None and (finish.reason in ("error", "abort") or cut_short(finish)):
            self._fail()
            return
        self.pieces.append(piece)
        for follower in tuple(self._followers.values()):
            follower.take(piece)
        if finish is not None:
            self._end()
            self._landed(self, finish)

    def _fail(self) -> None:
        """What was told stays told; whoever follows goes on alone."""
        followers, self._followers = tuple(self._followers.values()), {}
        self._end()
        for follower in followers:
            follower.go_alone(self.pieces)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self.request:
                self._backend.unlend(self.request)
            self._over(self)

    # --- for followers ---------------------------------------------------------------------------------------------

    def account(self, follower: _Follower, outcome: Outcome, usage: Usage) -> None:
        """A follower's row in the ledger: nothing was computed for it."""
        self._account(follower.stream.request, follower.job, outcome, usage, follower.received_ns)

    def alone(self, follower: _Follower, told: Sequence[Piece]) -> Awaitable[Stream]:
        """A generation for one follower, after what it has told."""
        return _alone(self._backend, follower.job, follower.stream.request, told)


async def _alone(backend: Backend, job: Job, request: int, told: Sequence[Piece]) -> Stream:
    if not told:
        return await backend.open(job)
    drawn = [Drawn(0, piece.tokens, ()) for piece in told]
    return backend.go_on(job, request, 0, drawn)[0]


class _Follower:
    """One call that follows.

    Attributes:
        stream: its own.
    """

    def __init__(self, request: int, job: Job, flight: Flight, received_ns: int) -> None:
        self.job, self.received_ns = job, received_ns
        self._flight = flight
        self._tokens = 0
        self._own: Stream | None = None  # of a generation of its own
        self._over = False
        self.stream = Stream(request, len(job.prompt), self._aborted)

    def take(self, piece: Piece) -> None:
        """The next of the leader's pieces."""
        if self._over:
            return
        self._tokens += len(piece.tokens)
        if piece.finish is not None:
            self._over = True
            # In the ledger before anybody can see the end.
            self._flight.account(self, "cached", piece.finish.usage)
            self._flight.left(self)
        self.stream.push(as_cached(piece))

    def leave(self) -> bool:
        """Its client has gone. There is nothing of it at the engine to abort, unless it went on alone."""
        if self._own is not None:
            self._own.abort("client")
        elif not self._over:
            self._over = True
            usage = Usage(len(self.job.prompt), self._tokens)
            self._flight.account(self, "client", usage)
            self._flight.left(self)
            self.stream.push(Piece(finish=Finish("abort", usage)))
        return True

    def go_alone(self, told: Sequence[Piece]) -> None:
        """The leader's generation has failed."""
        task = asyncio.ensure_future(self._flight.alone(self, told))
        task.add_done_callback(self._alone)

    def _alone(self, task: asyncio.Future[Stream]) -> None:
        if task.cancelled() or (error := task.exception()) is not None:
            why = error.message if isinstance(error, ApiError) else "The answer could not be completed."
            if not isinstance(error, ApiError):
                log.error("a follower cannot go on alone: %r", error)
            self._flight.left(self)
            if not self._over:
                self._over = True
                usage = Usage(len(self.job.prompt), self._tokens)
                self._flight.account(self, "error", usage)
                self.stream.push(Piece(finish=Finish("error", usage, None, why)))
            return
        self._own = task.result()
        if self._over:
            self._own.abort("client")
        else:
            self._own.listen(self._relay)

    def _relay(self, piece: Piece) -> None:
        if piece.finish is not None:
            self._flight.left(self)
        self.stream.push(piece)

    def _aborted(self, reason: AbortReason) -> None:  # noqa: ARG002 (the stream's interface)
        self.leave()
