"""A beam search under way: beams live here, at the home of their request, and are extended by the scheduler.

Each step asks for one token of every running beam, with alternatives (`Extension`); an extension finds the pages of
what its beam has in common with others, and computes the rest of the last one. The first decides whether the search
is taken; what follows is promised with it, and survives workers and schedulers as every request does. To its ingress
and to the ledger all of it is one request.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from bus.messages.requests import Finished, TokenLogprobs
from bus.messages.usage import Outcome
from bus.packed import unpack_u32
from ingress.accounts import Ledger, Used, Whose
from ingress.conversation import Order
from ingress.generation import Generation
from ingress.job import Job
from ingress.metering import Meter
from ingress.samples.beams import Beam, BeamSearch
from ingress.samples.extending import Extension
from ingress.samples.pool import POOL
from ingress.streams import BUDGET, AbortReason, Finish, Piece, Stream, Usage

log = logging.getLogger(__name__)

AHEAD: Final = 100  # of priority: what goes on with an answer is before what begins one


class Opens(Protocol):
    """How an extension is handed to the scheduler."""

    def __call__(self, order: Order, extension: Extension, *, promised: bool) -> Awaitable[Stream]:
        """Raises ApiError where it is not taken; one that is `promised` always is."""
        ...


class Means(NamedTuple):
    """What a search works with.

    Attributes:
        generation: makes an answer of tokens, anew each time.
        ended: is told at the end how, and how many tokens were drawn.
    """

    opens: Opens
    ledger: Ledger
    meter: Meter
    generation: Callable[[], Generation]
    ended: Callable[[Outcome, int], None]


class Search:
    """One search.

    Args:
        job: whose `beams` say how.
        order: of the whole.

    Attributes:
        streams: of the answers that are wanted, best first. Each gets one piece, at the end.
    """

    def __init__(self, job: Job, order: Order, means: Means) -> None:
        assert job.beams is not None
        self._job, self._order, self._means = job, order, means
        self._beams = BeamSearch(job.beams, unpack_u32(order.stop_token_ids).tolist(), order.max_tokens)
        self._prompt_tokens = len(order.prompt) // 4
        self.streams = [Stream(order.request, self._prompt_tokens, self.abort) for _ in range(job.beams.returned)]
        self._sampling = replace(order.sampling, temperature=0.0, logprobs=self._beams.keep)
        self._under_way: list[Stream] = []
        self._drawn = self._cached = self._spent_ns = self._prefill_ns = 0
        self._look_at = means.meter.look_at(order.request)
        self._task: asyncio.Task[None] | None = None
        self._over = False

    async def begin(self, *, promised: bool) -> None:
        """Return when it is taken.

        Raises:
            ApiError: it is not.
        """
        first = self._extension(Beam())
        if self._may_draw(1) is None:
            self._under_way = [await self._means.opens(self._order_of(first), first, promised=promised)]
        self._task = asyncio.ensure_future(self._run(first))

    def abort(self, reason: AbortReason = "client", error: str = "") -> None:
        """Not wanted any more. Idempotent."""
        if self._over:
            return
        self._end(reason)
        for stream in self.streams:
            stream.push(Piece(finish=Finish("abort", self._usage(()), None, error)))

    def leave(self) -> None:
        """Another ingress begins it again: nothing more is heard or said of it here."""
        self._over = True
        self._stop()

    # --- the search ------------------------------------------------------------------------------------------------

    async def _run(self, first: Extension) -> None:
        try:
            cut = await self._search(first)
            answers = self._answers(cut)
        except _Failed as failed:
            self._fail(failed.finish)
            return
        except Exception:
            log.exception("while searching", extra={"request": f"{self._order.request:x}"})
            self._fail(Finish("error", self._usage(()), None, "The answer could not be completed."))
            return
        if self._over:
            return
        finish = answers[0].finish
        self._end("stop" if finish is not None and finish.reason == "stop" else "length")
        for stream, answer in zip(self.streams, answers, strict=True):
            stream.push(answer)

    async def _search(self, first: Extension) -> str | None:
        """To its end. Returns what cut it short: `stop_reason` of answers that would have gone on."""
        extensions = [first]
        while not self._beams.over:
            if (cut := self._may_draw(len(extensions))) is not None:
                self._beams.end()
                return cut
            for extension in extensions[len(self._under_way) :]:
                opened = await self._means.opens(self._order_of(extension), extension, promised=True)
                self._under_way.append(opened)
            for extension, stream in zip(extensions, self._under_way, strict=True):
                await _wait(stream)
                self._account(extension)
            self._under_way = []
            self._beams.advance([extension.candidates or [] for extension in extensions])
            extensions = [self._extension(beam) for beam in self._beams.running]
        return None

    def _may_draw(self, tokens: int) -> str | None:
        """Why so many tokens more may not be drawn; None where they may."""
        pool, request = self._job.pool, self._order.request
        if pool is not None and pool.left < tokens:
            return POOL
        if self._look_at is not None and self._drawn + tokens > self._look_at:
            self._look_at = self._means.meter.may_go_on(request, self._drawn + tokens)
            if self._look_at is None:
                return BUDGET
        return None

    def _extension(self, beam: Beam) -> Extension:
        return Extension(self._prompt_tokens, beam.tokens)

    def _order_of(self, extension: Extension) -> Order:
        return replace(
            self._order, request=secrets.randbits(63) or 1, sampling=self._sampling, part=True, timing=False,
            max_tokens=len(extension.emitted) + 1, priority=self._order.priority - AHEAD,
            submitted_ns=0 if extension.emitted else self._order.submitted_ns,
        )  # fmt: skip

    def _account(self, extension: Extension) -> None:
        if not self._drawn:
            self._cached = extension.cached_tokens
        self._drawn += 1
        if self._job.pool is not None:
            self._job.pool.take(1)
        self._spent_ns += extension.spent_ns
        self._prefill_ns += extension.prefill_ns

    # --- its end ---------------------------------------------------------------------------------------------------

    def _answers(self, cut: str | None) -> list[Piece]:
        """What was drawn for all of them and is in none stands with the first."""
        best = self._beams.best()
        others = self._drawn - sum(len(beam.tokens) for beam in best)
        return [self._answer(beam, cut, others if number == 0 else 0) for number, beam in enumerate(best)]

    def _answer(self, beam: Beam, cut: str | None, others: int) -> Piece:
        generation, tokens = self._means.generation(), list(beam.tokens)
        most = self._job.sampling.logprobs
        values = [_narrowed(value, most) for value in beam.values] if most >= 0 else []
        ended = Finished(self._order.request, beam.ended or "length", len(tokens), 0, 0)
        piece = generation.take(0, tokens, values, ended).piece
        assert piece is not None
        assert piece.finish is not None
        thought = piece.finish.usage.reasoning_tokens
        usage = replace(self._usage(beam.tokens), reasoning_tokens=thought, others=others)
        stop_reason = cut if piece.finish.reason == "length" and cut is not None else piece.finish.stop_reason
        return replace(piece, finish=replace(piece.finish, usage=usage, stop_reason=stop_reason))

    def _usage(self, tokens: Sequence[int]) -> Usage:
        return Usage(self._prompt_tokens, len(tokens), self._cached, allowed=self._order.allowed)

    def _fail(self, finish: Finish) -> None:
        if self._over:
            return
        self._end("deadline" if "deadline" in finish.error else "shutdown" if finish.reason == "abort" else "error")
        for stream in self.streams:
            stream.push(Piece(finish=finish))

    def _end(self, outcome: Outcome) -> None:
        """In the ledger before anybody can see the end."""
        self._over = True
        self._stop()
        order = self._order
        whose = Whose(self._job.model, order.tenant, order.key, order.counts_prompt, order.call, order.allowed)
        computed = (self._spent_ns, self._prefill_ns)
        used = (self._prompt_tokens, self._cached, self._drawn)
        self._means.ledger.ended(Used(order.request, whose, outcome, *used, order.submitted_ns, computed))
        self._means.ended(outcome, self._drawn)

    def _stop(self) -> None:
        for stream in self._under_way:
            stream.abort("client")  # nothing happens to those that have ended
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


class _Failed(Exception):
    """An extension did."""

    def __init__(self, finish: Finish) -> None:
        super().__init__(finish.error)
        self.finish = finish


async def _wait(stream: Stream) -> None:
    async for piece in stream:
        if piece.finish is not None and piece.finish.reason in ("error", "abort"):
            raise _Failed(piece.finish)


def _narrowed(value: TokenLogprobs, most: int) -> TokenLogprobs:
    """With as many alternatives as were asked for."""
    return TokenLogprobs(value.chosen, value.top_ids[: 4 * most], value.top[: 4 * most])
