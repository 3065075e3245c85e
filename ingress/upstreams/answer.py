"""One answer of an upstream while it comes: an attempt, from its request to its row in the ledger.

Until the first token nobody has seen anything of it: `opened` raises then, and another model is asked. After that it is
a stream like any other. It fails with what was told standing, unless a model of this host goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from bus.config.upstreams import UpstreamKind, UpstreamModelConfig
from bus.messages.usage import Outcome
from ingress.api.schema_chat import ChatRequest
from ingress.errors import ApiError
from ingress.job import Job
from ingress.metering import Meter
from ingress.samples.pool import POOL
from ingress.streams import BUDGET, AbortReason, ContentKind, EndReason, Finish, Part, Piece, Stream, Usage
from ingress.upstreams import anthropic, openai
from ingress.upstreams.asking import offer_of
from ingress.upstreams.door import Door, NoCredential
from ingress.upstreams.heard import Complaint, Counted, Garbage, Heard
from ingress.upstreams.refusals import UpstreamError, failed, from_complaint, late
from ingress.upstreams.sse import Event
from ingress.upstreams.usage import LONGEST_TOKEN, SLACK, Said, account, estimate

log = logging.getLogger(__name__)

ACCOUNT_S: Final = 2.0  # for the account after the end of an answer
MAX_ANSWER: Final = 8 << 20  # characters
_ANSWERED: Final[tuple[ContentKind, ...]] = ("text", "refusal", "tool")
CALL_BYTES: Final = 96  # that a model writes around the arguments of a call: the tool's name, marks


class Order(NamedTuple):
    """What is asked.

    Attributes:
        margins: alternatives per token that are wanted here.
        counted: tokens of the prompt by a tokeniser of this host; 0 where there is none for it.
        prompt_bytes: of its texts; `opaque`: there is more in it.
    """

    job: Job
    chat: ChatRequest
    model: UpstreamModelConfig
    margins: int = 0
    counted: int = 0
    prompt_bytes: int = 0
    opaque: bool = False

    @property
    def allowed(self) -> int:
        """Tokens that all samples of the call may have; 0 where nobody counts."""
        return self.chat.max_total_tokens or 0


class Watch(Protocol):
    """Who is told of an attempt."""

    def now_ns(self) -> int: ...
    def count(self, text: str, model: UpstreamModelConfig) -> int: ...
    def first(self, order: Order) -> None: ...
    def ended(self, order: Order, outcome: Outcome, usage: Usage, what: str) -> None: ...


class Reader(Protocol):
    """Of one language."""

    def read(self, event: Event) -> Heard: ...


GoOn = Callable[[Order, str], Awaitable[Stream]]
"""Has a model of this host go on after a text.

Raises:
    ApiError: it cannot.
"""


class Spent(Exception):
    """The budget has nothing left for more of an answer."""


class Answer:
    """One attempt. It is under way as soon as it is made.

    Args:
        go_on: None where no model of this host is the same.
        meter: says how far it may go. What has come is estimated for that: an upstream counts when it is at its end.

    Attributes:
        stream: of what comes.
    """

    def __init__(self, order: Order, door: Door, watch: Watch, go_on: GoOn | None, meter: Meter) -> None:
        self._order, self._door, self._watch, self._go_on, self._meter = order, door, watch, go_on, meter
        self._look_at = sys.maxsize if (look_at := meter.look_at(order.job.request)) is None else look_at
        self.stream = Stream(order.job.request, order.job.prompt_tokens, self.abort)
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        offer = offer_of(order.chat)
        self._must_call = offer is not None and offer.mode == "required"
        self._texts: dict[ContentKind, list[str]] = {}
        self._size = self._bytes = self._calls = 0
        self._counted: Counted | None = None
        self._reason: Heard | None = None
        self._continued: Stream | None = None
        self._over = False
        door.in_flight += 1
        self._era = door.breaker.begin(watch.now_ns())
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._done)  # also of one that was cancelled before it began

    async def opened(self) -> Stream:
        """The stream, once its first token is there.

        Raises:
            UpstreamError: there will be none.
        """
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self.abort("client")
            raise
        return self.stream

    def abort(self, reason: AbortReason) -> None:
        """It is not wanted any more: the connection is closed, which every server of the field understands."""
        if self._over:
            return
        if self._continued is not None:
            self._continued.abort(reason)  # its last piece ends this one
            return
        self._over = True
        self._task.cancel()
        self._door.breaker.neither(self._era)
        usage = self._usage()
        self._watch.ended(self._order, reason, usage, reason)
        self._push(Piece(finish=Finish("abort", usage)))
        if not self._opened.done():
            self._opened.cancel()

    # --- the call --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._call()
        except asyncio.CancelledError:
            return
        except Spent:
            self._end("length", BUDGET)
        except UpstreamError as error:
            await self._failed(error)
        except TimeoutError:
            await self._failed(self._silent())
        except Garbage as error:
            await self._failed(failed(self._name, str(error)))
        except Complaint as complaint:
            await self._failed(from_complaint(self._name, complaint.kind))
        except NoCredential as error:
            log.error("the credential of %s: %s", self._door.config.name, error)
            await self._failed(failed(self._name, "its credential cannot be read; the operator has to act"))
        except OSError as error:
            log.warning("%s: %s", self._door.config.name, error or type(error).__name__)
            await self._failed(failed(self._name, "it cannot be reached, or hung up"))
        except ApiError as error:  # the call cannot be said in its language
            await self._failed(_unsayable(error))
        except Exception:
            log.exception("while %s answers", self._name)
            await self._failed(failed(self._name, "an unexpected error; it has been logged"))

    def _done(self, _: object) -> None:
        self._door.in_flight -= 1

    async def _call(self) -> None:
        config, job = self._door.config, self._order.job
        body, reader = self._in_words()
        loop = asyncio.get_running_loop()
        async with (
            asyncio.timeout(config.first_token_s) as patience,
            self._door.post(self._name, body, job.traceparent) as events,
        ):
            async for event in events:
                heard = reader.read(event)
                self._hear(heard)
                if heard.over or (self._reason is not None and self._counted is not None):
                    break
                if heard.parts or heard.reason is not None:
                    wait_s = ACCOUNT_S if self._reason is not None else config.between_tokens_s
                    patience.reschedule(loop.time() + wait_s)
        if self._reason is None:
            raise Garbage("its stream has no end" if self._size else "its stream is empty")
        reason, pool = self._reason.reason, job.pool
        assert reason is not None
        if self._must_call and not self._calls and (reason == "stop" or "text" in self._texts):
            raise Garbage("it was told to call a tool, and calls none")
        spent = reason == "length" and pool is not None and pool.size == job.max_tokens
        self._end(reason, POOL if spent else self._reason.stop)

    def _in_words(self) -> tuple[bytes, Reader]:
        """The call in the upstream's language, and who reads the answer.

        Raises:
            ApiError: it cannot be said in it.
        """
        order, kind = self._order, self._door.config.kind
        offer = offer_of(order.chat)
        names = frozenset(tool.name for tool in offer.callable) if offer is not None else frozenset[str]()
        reader = anthropic.Reader(names) if kind == "anthropic" else openai.Reader(names)
        return in_words(order.chat, order.model, kind, order.job, order.margins), reader

    def _hear(self, heard: Heard) -> None:
        if heard.counted is not None:
            self._counted = heard.counted
        if heard.reason is not None and self._reason is None:
            self._reason = heard
        if not heard.parts and not heard.logprobs:
            return
        for part in heard.parts:
            self._texts.setdefault(part.kind, []).append(part.text)
            self._size += len(part.text)
            self._bytes += len(part.text.encode())
            self._calls = max(self._calls, part.call + 1)
        limit = self._order.job.max_tokens
        if self._size > MAX_ANSWER or (limit is not None and self._bytes > (limit + SLACK) * LONGEST_TOKEN):
            raise Garbage("its answer is longer than it may be")
        self._push(_piece(heard))
        # Where a tool has to be called, what comes before may be of an answer that is none.
        if heard.parts and not self._opened.done() and (self._calls or not self._must_call):
            self._watch.first(self._order)
            self._opened.set_result(None)
        if self._reason is None:
            self._may_go_on()

    def _may_go_on(self) -> None:
        """Look whether the budget has more for it.

        Raises:
            Spent: it has not.
        """
        drawn = estimate(self._bytes)
        if drawn < self._look_at:
            return
        look_at = self._meter.may_go_on(self._order.job.request, drawn)
        if look_at is None:
            raise Spent
        self._look_at = look_at

    # --- ends ------------------------------------------------------------------------------------------------------

    def _end(self, reason: EndReason, stop: str | None) -> None:
        usage = self._usage()
        self._over = True
        self._door.breaker.good(self._era)
        # In the ledger before anybody can see the end.
        outcome: Outcome = "length" if reason == "length" else "stop"
        self._watch.ended(self._order, outcome, usage, reason)
        if not self._opened.done():
            self._watch.first(self._order)
            self._opened.set_result(None)
        self._push(Piece(finish=Finish(reason, usage, stop)))

    async def _failed(self, error: UpstreamError) -> None:
        """It came to nothing, or broke off."""
        now_ns = self._watch.now_ns()
        if error.wait_s:
            self._door.breaker.wait(self._era, now_ns, int(error.wait_s * 1e9))
        elif error.blame == "upstream":
            self._door.breaker.bad(self._era, now_ns)
        else:
            self._door.breaker.neither(self._era)
        usage = self._usage() if self._size or self._counted is not None else Usage(0, 0)
        self._watch.ended(self._order, "error", usage, _word(error))
        if not self._opened.done():
            self._over = True
            error.recorded = True
            self._opened.set_exception(error)
            return
        if self._go_on is not None and not self._texts.keys() - {"text"}:
            try:
                self._continue(await self._go_on(self._order, self._said("text")), usage)
                return
            except ApiError as reason:
                log.warning("%s broke an answer off, and nobody goes on: %s", self._name, reason.message)
        self._over = True
        self._push(Piece(finish=Finish("error", usage, None, error.message, code=error.code or "")))

    def _continue(self, stream: Stream, told: Usage) -> None:
        """The rest comes from a model of this host."""
        self._continued = stream

        def relay(piece: Piece) -> None:
            self._over = self._over or piece.finish is not None
            self._push(following(piece, told))

        stream.listen(relay)

    def _silent(self) -> UpstreamError:
        config = self._door.config
        if not self._size:
            return late(self._name, "token", config.first_token_s)
        return late(self._name, "further token", config.between_tokens_s)

    # --- accounts --------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._order.model.name

    def _usage(self) -> Usage:
        order, text = self._order, "".join(map(self._said, _ANSWERED))
        thought = self._said("reasoning")
        usage = account(
            self._counted,
            Said(
                order.prompt_bytes, len(text.encode()) + CALL_BYTES * self._calls, len(thought.encode()), order.counted,
                self._watch.count(text, order.model), order.job.max_tokens, order.opaque,
            ),
        )  # fmt: skip
        return replace(usage, allowed=order.allowed)

    def _said(self, kind: ContentKind) -> str:
        return "".join(self._texts.get(kind, ()))

    def _push(self, piece: Piece) -> None:
        self.stream.push(piece)


def in_words(chat: ChatRequest, model: UpstreamModelConfig, kind: UpstreamKind, job: Job, margins: int = 0) -> bytes:
    """A call in a language.

    Raises:
        ApiError: it cannot be said in it.
    """
    if kind == "anthropic":
        return anthropic.body(chat, model.served_name, job.max_tokens)
    return openai.body(chat, model.served_name, job, margins)


def following(piece: Piece, told: Usage) -> Piece:
    """A piece of a model of this host that goes on after what an upstream has told. Its ids are left out: they are not
    those of the answer, whose beginning has none."""
    finish = piece.finish
    if finish is not None:
        tokens = told.completion_tokens + finish.usage.completion_tokens
        usage = Usage(told.prompt_tokens, tokens, told.cached_tokens, estimated=True, allowed=told.allowed)
        finish = Finish(finish.reason, usage, finish.stop_reason, finish.error)
    return Piece(piece.text, finish=finish, parts=piece.parts)


def _piece(heard: Heard) -> Piece:
    parts: tuple[Part, ...] = heard.parts
    text = "".join(part.text for part in parts if part.kind == "text")
    return Piece(text, logprobs=heard.logprobs, parts=parts if any(part.kind != "text" for part in parts) else ())


def _unsayable(error: ApiError) -> UpstreamError:
    return UpstreamError(
        error.status, error.type, error.message, code=error.code or "upstream_refused", param=error.param,
        blame="client",
    )  # fmt: skip


def _word(error: UpstreamError) -> str:
    """How an attempt ended, for metrics."""
    return {
        "upstream_timeout": "timeout", "upstream_overloaded": "overloaded", "upstream_failed": "failed",
    }.get(error.code or "", "refused")  # fmt: skip
