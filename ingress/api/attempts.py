"""A call tried at the models of its course, one after the other, until one has begun to answer.

Another is asked only as long as nobody has seen anything of an answer: where a model cannot be reached or refuses, and
where the answer of a cascade's first model does not pass its check, for which it is held back. Every attempt reserves,
and has a row in the ledger, of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, cast

from msgspec.structs import replace

from bus.config.routes import CascadeConfig
from bus.messages.clients import Operation
from bus.telemetry import Telemetry
from ingress.api.admission import Admission
from ingress.api.answer import fingerprint
from ingress.api.choices import open_all, opened_together
from ingress.api.encoders import require_generates
from ingress.api.jobs import Caller, Plan
from ingress.api.operations import Kind
from ingress.api.schema_chat import ChatRequest
from ingress.cache.front import AnswerCache, Opened
from ingress.engine import Engine, Job, Stream
from ingress.errors import ApiError
from ingress.mirror import Call, Mirror
from ingress.router.candidate import Surface
from ingress.router.cascade import Checking
from ingress.routing import Course, Routing
from ingress.streams import Piece
from ingress.text.tokenizer import Tokenizer
from ingress.upstreams.refusals import UpstreamError
from ingress.upstreams.upstreams import Elsewhere, Upstreams

PASSING: Final = frozenset({429, 500, 503})  # statuses of a model of this host that another one may not have
MARGINS: Final = 2  # alternatives per token for a comparison of the best with the second best

Ask = Callable[[], Awaitable[None]]


class Tried(NamedTuple):
    """A call that is being answered.

    Attributes:
        model: by which.
        fingerprint: of its weights; None where they are elsewhere.
        tokenizer: its own; None where it is elsewhere.
        margins: log probabilities of two alternatives come with its tokens.
    """

    model: str
    plan: Plan
    opened: Opened
    fingerprint: str | None
    tokenizer: Tokenizer | None
    course: Course
    margins: bool


class Attempts:
    """What calls are tried at."""

    def __init__(
        self,
        engine: Engine,
        routing: Routing,
        upstreams: Upstreams | None,
        admission: Admission,
        cache: AnswerCache | None,
        telemetry: Telemetry,
        mirror: Mirror | None = None,
    ) -> None:
        self._engine, self._routing, self._upstreams = engine, routing, upstreams
        self._admission, self._cache, self._telemetry = admission, cache, telemetry
        self._mirror = mirror

    async def open(self, operation: Operation, kind: Kind, request: Any, caller: Caller, ask: Ask | None) -> Tried:
        """Have a call answered.

        Args:
            ask: has models judge what is asked, once it is known that the call may run.

        Raises:
            ApiError: the last attempt's; or that no model can answer it, or that it is not let pass.
        """
        chat = _once(partial(kind.chat, request, caller)) if kind.chat is not None else lambda: None
        may_use = partial(self._admission.may_see, caller)
        course = self._routing.course(request, chat, cast("Surface", operation), caller, may_use)
        last = len(course.order) - 1
        for number, name in enumerate(course.order):
            cascade = course.cascade if number == 0 and number < last else None
            try:
                tried = await self._at(name, course, kind, request, chat, caller, ask, cascade)
            except ApiError as error:
                if number == last or not passes_on(error):
                    raise
                self._routing.failed(course, name, error)
                continue
            ask = None
            if cascade is not None and not await self._passes(tried, cascade):
                continue
            self._routing.answered(course, name, number, caller)
            if course.decision.mirror:
                self._mirrored(tried, kind, request, chat)
            return tried
        raise AssertionError("a course ends with an answer, or with an error")

    async def _at(
        self, name: str, course: Course, kind: Kind, request: Any, chat: Callable[[], ChatRequest | None],
        caller: Caller, ask: Ask | None, cascade: CascadeConfig | None,
    ) -> Tried:  # fmt: skip
        """One attempt."""
        elsewhere = self._routing.elsewhere(name)
        margins = MARGINS if cascade is not None and "margin" in cascade.checks else 0
        if elsewhere is None:
            model = self._engine.model(name)
            require_generates(model)
            plan = await kind.plan(request, model, caller, None)
            if margins:
                plan = plan._replace(jobs=[_with_margins(job) for job in plan.jobs])
            if model.is_adapter:
                plan = plan._replace(jobs=[replace(job, adapter=model.adapter) for job in plan.jobs])
            plan = plan._replace(jobs=list(await self._reserve(plan, model, caller)))
            if self._cache is None:
                opening = partial(_uncached, partial(open_all, self._engine), plan)
            else:
                opening = partial(self._cache.open, request, plan, model, caller, partial(open_all, self._engine))
            opened = await self._opened(opening, plan, name, caller, ask)
            model = self._engine.served(name) or model  # of an adapter more may be known by now
            return Tried(name, plan, opened, fingerprint(model), model.tokenizer, course, bool(margins))
        asked = chat()
        assert asked is not None  # `Candidate.surfaces`
        assert self._upstreams is not None
        plan = await self._upstreams.plan(asked, elsewhere, caller)
        plan = plan._replace(jobs=list(await self._reserve(plan, elsewhere, caller)))
        margins = margins if "logprobs" in elsewhere.config.capabilities and not asked.logprobs else 0
        answer = partial(self._elsewhere, asked, elsewhere, margins)
        opening = partial(_uncached, answer, plan)
        if self._cache is not None and elsewhere.config.cache and not margins:
            with contextlib.suppress(ApiError):  # what cannot be said is refused as it is asked
                words = self._upstreams.words(plan.jobs[0], asked, elsewhere)
                opening = partial(self._cache.open_elsewhere, request, plan, words, caller, answer)
        opened = await self._opened(opening, plan, name, caller, ask)
        return Tried(name, plan, opened, None, None, course, bool(margins))

    async def _reserve(self, plan: Plan, model: Any, caller: Caller) -> Sequence[Job]:
        """The caller's own limits: no other model has others, so a refusal is final."""
        try:
            return await self._admission.reserve(plan, model, caller)
        except ApiError as error:
            raise Conclusive(error) from None

    async def _opened(
        self, opening: Callable[[], Awaitable[Opened]], plan: Plan, name: str, caller: Caller, ask: Ask | None
    ) -> Opened:
        try:
            if ask is not None:
                await ask()
            return await opening()
        except BaseException as error:
            self._admission.not_opened(plan.jobs, caller, name, error)
            raise

    async def _elsewhere(self, chat: ChatRequest, model: Elsewhere, margins: int, jobs: Sequence[Job]) -> list[Stream]:
        assert self._upstreams is not None
        upstreams = self._upstreams
        return await opened_together([partial(upstreams.answer, job, chat, model, margins) for job in jobs])

    def _mirrored(self, tried: Tried, kind: Kind, request: Any, chat: Callable[[], ChatRequest | None]) -> None:
        """Ask another model too, on nobody's account and behind everybody. Calls with choices are left out."""
        course, name = tried.course, tried.course.decision.mirror
        if self._mirror is None or len(tried.opened.streams) != 1:
            return
        nobody = Caller("", "", time.monotonic_ns(), batch=True)

        async def opens() -> list[Stream]:
            if (elsewhere := self._routing.elsewhere(name)) is None:
                plan = await kind.plan(request, self._engine.model(name), nobody, None)
                return await open_all(self._engine, plan.jobs)
            asked = chat()
            assert asked is not None  # `Candidate.surfaces`
            assert self._upstreams is not None
            plan = await self._upstreams.plan(asked, elsewhere, nobody)
            return await self._elsewhere(asked, elsewhere, 0, plan.jobs)

        asked = course.asked
        call = Call(course.asked_for, tried.model, name, asked.text, asked.prompt_tokens, self._routing.cost)
        self._mirror.begin(call, tried.opened.streams[0], opens)

    # --- cascades --------------------------------------------------------------------------------------------------

    async def _passes(self, tried: Tried, cascade: CascadeConfig) -> bool:
        """Whether the answer may be shown. Nothing of it has been; what is to be thrown away has been aborted."""
        streams = tried.opened.streams
        fits = self._routing.fits(tried.course.asked_for)
        checks = [Checking(cascade, fits, margins=tried.margins) for _ in streams]
        try:
            passed = all(await asyncio.gather(*map(_sure, streams, checks)))
        except BaseException:
            self._engine.abort(stream.request for stream in streams)
            raise
        failed = next((check.failed for check in checks if check.failed), "")
        self._telemetry.counter(
            "headrace_route_cascade_total", "Answers of first models of cascades, by the check that they failed.",
            route=tried.course.asked_for, check=failed or "passed",
        ).add()  # fmt: skip
        if not passed:
            for stream in streams:
                stream.abort("discarded")
        return passed


class Conclusive(ApiError):
    """An error that no other model would not have."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(
            error.status, error.type, error.message, code=error.code, param=error.param,
            retry_after_s=error.retry_after_s, should_retry=error.should_retry,
        )  # fmt: skip


def passes_on(error: ApiError) -> bool:
    """Whether another model may do better."""
    if isinstance(error, Conclusive):
        return False
    if isinstance(error, UpstreamError):
        return error.elsewhere
    return error.status in PASSING or error.code == "context_length_exceeded"


async def _uncached(dispatch: Callable[[Sequence[Job]], Awaitable[list[Stream]]], plan: Plan) -> Opened:
    return Opened(await dispatch(plan.jobs), ())


async def _sure(stream: Stream, check: Checking) -> bool:
    """Wait until a check is sure of an answer, without taking anything of it."""
    verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def hear(piece: Piece) -> None:
        if not verdict.done() and (word := check.hear(piece)) != "wait":
            verdict.set_result(word == "pass")

    stream.tap(hear)
    return await verdict


def _with_margins(job: Job) -> Job:
    """The same answer, with the log probabilities that a margin is made of. Whoever asked for some has those."""
    if job.sampling.logprobs >= 0:
        return job
    return replace(job, sampling=replace(job.sampling, logprobs=MARGINS))


def _once(make: Callable[[], ChatRequest]) -> Callable[[], ChatRequest]:
    found: list[ChatRequest] = []

    def given() -> ChatRequest:
        if not found:
            found.append(make())
        return found[0]

    return given
