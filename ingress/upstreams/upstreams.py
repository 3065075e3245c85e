"""All upstreams of an ingress, as the pipeline sees them: models by name, and an answer from one of them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from bus.config.upstreams import UpstreamConfig, UpstreamModelConfig
from bus.messages.telemetry import TimelineEvent, TimelineKind
from bus.messages.usage import Outcome
from bus.telemetry import Telemetry
from ingress.accounts import Ledger, Used, Whose
from ingress.api.jobs import Caller, Plan, plan_chat, plan_elsewhere
from ingress.api.schema_chat import ChatRequest
from ingress.engine import Engine, Job
from ingress.errors import invalid_request
from ingress.metering import Meter, NoMeter
from ingress.streams import Stream, Usage
from ingress.upstreams.answer import Answer, Order, following, in_words
from ingress.upstreams.door import Door
from ingress.upstreams.refusals import busy, unavailable
from ingress.upstreams.usage import Said, account, estimate

MESSAGE_TOKENS: Final = 4  # that a template adds to a message, about
CLOSE_S: Final = 1.0


class Elsewhere(NamedTuple):
    """A model of an upstream."""

    config: UpstreamModelConfig
    door: Door

    @property
    def name(self) -> str:
        """Under which clients ask for it."""
        return self.config.name

    @property
    def context_tokens(self) -> int:
        """Longest prompt and answer together."""
        return self.config.context_tokens


class Size(NamedTuple):
    """Of a prompt: bytes of its texts, how many messages, and whether there is more in it than text."""

    bytes: int
    messages: int
    opaque: bool

    @property
    def tokens(self) -> int:
        """Estimated."""
        return estimate(self.bytes) + MESSAGE_TOKENS * self.messages


class Upstreams:
    """All of them.

    Args:
        engine: its models count tokens, and go on with answers that are broken off.
        ledger: gets a row for every attempt.
        meter: says how far answers may go.

    Attributes:
        models: by name.
        doors: by name of the upstream.

    Raises:
        NoCredential: one has no readable credential.
    """

    def __init__(
        self,
        configs: Sequence[UpstreamConfig],
        engine: Engine,
        ledger: Ledger,
        telemetry: Telemetry,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or NoMeter()
        self._engine, self._ledger, self._telemetry = engine, ledger, telemetry
        self.doors = {config.name: Door(config) for config in configs}
        self.models: Mapping[str, Elsewhere] = {
            model.name: Elsewhere(model, self.doors[config.name]) for config in configs for model in config.model
        }
        self._answers: dict[int, Answer] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.created = int(time.time())

    @property
    def open(self) -> int:
        """Answers under way."""
        return len(self._answers)

    async def plan(self, chat: ChatRequest, model: Elsewhere, caller: Caller) -> Plan:
        """The jobs of a chat, as `jobs.plan_chat`, but without ids: those are the upstream's own."""
        size = size_of(chat)
        tokens = self._count_prompt(chat, model.config) or size.tokens
        if caller.marks is not None:
            caller.marks.tokenized()
        plan = plan_elsewhere(chat, model.name, caller, tokens)
        named = [msgspec.structs.replace(job, request=secrets.randbits(63) or 1) for job in plan.jobs]
        return plan._replace(jobs=named)

    async def answer(self, job: Job, chat: ChatRequest, model: Elsewhere, margins: int = 0) -> Stream:
        """An answer, once its first token is there.

        Args:
            margins: alternatives per token that are wanted here.

        Raises:
            UpstreamError: there will be none.
        """
        door, now_ns = model.door, self.now_ns()
        if (wait_ns := door.breaker.retry_ns(now_ns)) > 0:
            self._attempts(model, "unavailable")
            raise unavailable(model.name, wait_ns / 1e9)
        if door.in_flight >= door.config.max_in_flight:
            self._attempts(model, "busy")
            raise busy(model.name, door.config.max_in_flight)
        order = self._order(job, chat, model, margins)
        self._note(job, job.received_ns or now_ns, "received", detail=job.traceparent)
        self._note(job, now_ns, "tokenized", value=job.prompt_tokens)
        self._note(job, now_ns, "submitted", detail=door.config.name)
        go_on = self._go_on if model.config.continue_with else None
        answer = self._answers[job.request] = Answer(order, door, self, go_on, self._meter)

        def leave() -> bool:
            answer.abort("client")
            return True

        self._engine.lend(job.request, leave)
        answer.stream.tap(lambda piece: self._forget(job.request) if piece.finish is not None else None)
        try:
            return await answer.opened()
        except BaseException:
            self._forget(job.request)
            raise

    def words(self, job: Job, chat: ChatRequest, model: Elsewhere) -> bytes:
        """All that an answer depends on, as far as it is known here: who is asked, and what.

        Raises:
            ApiError: 400, it cannot be said in the upstream's language.
        """
        config = model.door.config
        said = in_words(chat, model.config, config.kind, job)
        return "\0".join((config.name, config.kind, config.base_url, "")).encode() + said

    def adopt(self, job: Job, model: Elsewhere) -> None:
        """An answer that another ingress has asked for is asked for here."""
        most = model.context_tokens if job.max_tokens is None else job.max_tokens
        self._meter.adopt(job.request, job.key, model.name, job.prompt_tokens, most)

    async def go_on_after(self, job: Job, chat: ChatRequest, model: Elsewhere, text: str) -> Stream:
        """The rest of an answer whose ingress has died, by a model of this host.

        Raises:
            ApiError: that cannot be.
        """
        order = self._order(job, chat, model, 0)
        inner = await self._go_on(order, text)
        told = msgspec.structs.replace(account(None, self._said(order, text)), allowed=order.allowed)
        stream = Stream(job.request, job.prompt_tokens, inner.abort)
        inner.listen(lambda piece: stream.push(following(piece, told)))
        self._engine.lend(job.request, lambda: _aborted(inner))
        stream.tap(lambda piece: self._engine.unlend(job.request) if piece.finish is not None else None)
        return stream

    def lost(self, job: Job, chat: ChatRequest, model: Elsewhere, text: str) -> None:
        """The row of an attempt whose ingress has died as it answered: by what its client was told."""
        order = self._order(job, chat, model, 0)
        self.ended(order, "error", account(None, self._said(order, text)), "lost")

    def tick(self) -> None:
        """About once a second."""
        now_ns = self.now_ns()
        for name, door in self.doors.items():
            self._telemetry.gauge("headrace_upstream_in_flight", "Calls to an upstream under way.", upstream=name).set(
                door.in_flight
            )
            self._telemetry.gauge(
                "headrace_upstream_circuit", "0 where an upstream is asked, 1 on trial, 2 where it is not.",
                upstream=name,
            ).set({"closed": 0, "half_open": 1, "open": 2}[door.breaker.state(now_ns)])  # fmt: skip

    def close(self) -> None:
        """Break off what is under way, and end the connections."""
        for answer in tuple(self._answers.values()):
            answer.abort("shutdown")
        for door in self.doors.values():
            task = asyncio.ensure_future(door.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- what answers tell -----------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def count(self, text: str, model: UpstreamModelConfig) -> int:
        """Tokens of a text, by the tokeniser that its model names; 0 without one."""
        return len(self._engine.model(model.tokenizer).tokenizer.encode(text, special=False)) if model.tokenizer else 0

    def first(self, order: Order) -> None:
        """The first token of an answer is there."""
        now_ns = self.now_ns()
        self._note(order.job, now_ns, "first_token")
        self._telemetry.histogram(
            "headrace_upstream_first_token_seconds", "From a call's arrival to an upstream's first token.",
            model=order.model.name,
        ).observe((now_ns - (order.job.received_ns or now_ns)) / 1e9)  # fmt: skip

    def ended(self, order: Order, outcome: Outcome, usage: Usage, what: str) -> None:
        """An attempt is over: its row in the ledger, and what is counted of it."""
        job, now_ns = order.job, self.now_ns()
        # Every choice is a call of its own there, which counts its prompt.
        whose = Whose(order.model.name, job.tenant, job.key, True, job.call, order.allowed)
        self._ledger.ended(
            Used(
                job.request, whose, outcome, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens,
                job.received_ns or now_ns, (0, 0), usage.reasoning_tokens,
            )
        )  # fmt: skip
        self._note(job, now_ns, "finished", value=usage.completion_tokens, detail=outcome)
        self._attempts(self.models[order.model.name], what)
        for kind, tokens in (
            ("prompt", usage.prompt_tokens), ("cached", usage.cached_tokens), ("generated", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):  # fmt: skip
            self._telemetry.counter(
                "headrace_upstream_tokens_total", "Tokens of upstreams' answers.", model=order.model.name, kind=kind
            ).add(tokens)
        if usage.estimated:
            self._telemetry.counter(
                "headrace_upstream_estimated_total",
                "Attempts whose tokens the upstream did not say, or said what cannot be.", model=order.model.name,
            ).add()  # fmt: skip

    # --- the rest --------------------------------------------------------------------------------------------------

    async def _go_on(self, order: Order, text: str) -> Stream:
        """A model of this host with the same weights, after what the upstream has said."""
        self._telemetry.counter(
            "headrace_upstream_continued_total", "Answers that a model of this host went on with.",
            model=order.model.name,
        ).add()  # fmt: skip
        local, job = self._engine.model(order.model.continue_with), order.job
        caller = Caller(
            job.tenant, "", job.received_ns, key=job.key, traceparent=job.traceparent, batch=job.batch,
            weight=job.weight, partition=job.partition,
        )  # fmt: skip
        plan = await plan_chat(order.chat, local, caller)
        told = await local.encode(text, special=False)
        rest = plan.jobs[0]
        sampling = msgspec.structs.replace(rest.sampling, seed=job.sampling.seed)
        rest = continuing(
            msgspec.structs.replace(
                rest, sampling=sampling, max_tokens=job.max_tokens, pool=None, call=job.call,
                request=secrets.randbits(63) or 1,
            ),
            told,
        )  # fmt: skip
        self._meter.adopt(
            rest.request, rest.key, local.name, rest.prompt_tokens, rest.max_tokens or local.context_tokens
        )
        return await self._engine.open(rest)

    def _order(self, job: Job, chat: ChatRequest, model: Elsewhere, margins: int) -> Order:
        size = size_of(chat)
        counted = self._count_prompt(chat, model.config)
        return Order(job, chat, model.config, margins, counted, size.bytes, size.opaque)

    def _said(self, order: Order, text: str) -> Said:
        """What is known of an answer of which nothing but its text is."""
        tokens = self.count(text, order.model)
        return Said(order.prompt_bytes, len(text.encode()), 0, order.counted, tokens, None, order.opaque)

    def _count_prompt(self, chat: ChatRequest, model: UpstreamModelConfig) -> int:
        if not model.tokenizer:
            return 0
        texts = "\n".join([*texts_of(chat), tools_of(chat)])
        return self.count(texts, model) + MESSAGE_TOKENS * len(chat.messages)

    def _forget(self, request: int) -> None:
        if self._answers.pop(request, None) is not None:
            self._engine.unlend(request)

    def _attempts(self, model: Elsewhere, outcome: str) -> None:
        self._telemetry.counter(
            "headrace_upstream_attempts_total", "Attempts at upstreams, by how they ended.",
            upstream=model.door.config.name, model=model.name, outcome=outcome,
        ).add()  # fmt: skip

    def _note(self, job: Job, at_ns: int, kind: TimelineKind, value: int = 0, detail: str = "") -> None:
        self._telemetry.event(TimelineEvent(job.request, at_ns, kind, value=value, detail=detail))


def _aborted(stream: Stream) -> bool:
    stream.abort("client")
    return True


def continuing(job: Job, told: Sequence[int]) -> Job:
    """The job that goes on after what was told.

    Raises:
        ApiError: there is nothing left to say.
    """
    left = None if job.max_tokens is None else job.max_tokens - len(told)
    if left is not None and left < 1:
        raise invalid_request("Nothing is left of max_tokens.")
    return msgspec.structs.replace(job, prompt=[*job.prompt, *told], max_tokens=left, min_tokens=0)


def texts_of(chat: ChatRequest) -> list[str]:
    """All that is said in a chat."""
    found: list[str] = []
    for message in chat.messages:
        content = message.content
        if isinstance(content, str):
            found.append(content)
        elif content is not None:
            found += [text for part in content if isinstance(text := getattr(part, "text", None), str)]
    return found


def tools_of(chat: ChatRequest) -> str:
    """The tools of a chat, as a text that is about as long as what a model reads of them."""
    return msgspec.json.encode(chat.tools).decode() if chat.tools else ""


def size_of(chat: ChatRequest) -> Size:
    """How much is said in a chat."""
    size = sum(len(text.encode()) for text in texts_of(chat)) + len(tools_of(chat))
    opaque = any(
        not hasattr(part, "text") for message in chat.messages if isinstance(message.content, list)
        for part in message.content
    ) or any(getattr(message, "tool_calls", None) for message in chat.messages) or bool(chat.tools)  # fmt: skip
    return Size(size, len(chat.messages), opaque)
