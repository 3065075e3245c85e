"""What happens to a call, whichever door it came in by: checked, planned, opened, rendered.

A call that streams, or that carries a key (`once`), becomes a `Replay`, so that its listeners may go and come back;
`streaming` keeps it. When nobody is
left to listen, the front says so, or the store does after the grace time, and the work is aborted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from bus.config import ModelConfig
from bus.config.routes import RouteConfig
from bus.messages.clients import Operation
from bus.packed import pack_u32
from bus.prices import PriceBook
from ingress.accounts import NoLedger
from ingress.api import from_messages, validate
from ingress.api.adapters import AdapterCalls
from ingress.api.admission import Admission
from ingress.api.answer import Head, Renderer, encode, model_card
from ingress.api.attempts import Attempts
from ingress.api.batches import Batches
from ingress.api.encoders import Encoders, require_generates
from ingress.api.events import Events
from ingress.api.jobs import Caller, chat_ids, ids_of
from ingress.api.once import Kept, checked, once
from ingress.api.operations import KINDS
from ingress.api.schema_common import Generation
from ingress.api.schema_messages import TokenCount
from ingress.api.schema_other import (
    DetokenizeReply,
    ModelCard,
    ModelList,
    ModelProgress,
    ModelReadiness,
    Progress,
    Readiness,
    TokenizeReply,
)
from ingress.api.schema_responses import ResponsesRequest
from ingress.api.stored import Ask, Stored
from ingress.api.streaming import Find, Host, Streaming
from ingress.api.telling import Telling, Whole
from ingress.api.validate import EVERYTHING
from ingress.cache.front import AnswerCache
from ingress.engine import Engine, Stream
from ingress.errors import ApiError, invalid_request, not_found, not_ready
from ingress.guards.look import Whose
from ingress.guards.stage import Guards, tell_found
from ingress.health import ModelHealth
from ingress.journal import Journals
from ingress.mirror import Mirror
from ingress.overhead import Overhead
from ingress.quota import Quota
from ingress.records import Opening
from ingress.replay import QUOTA, Replay
from ingress.routing import Routing
from ingress.samples.asked import Most
from ingress.samples.choosing import Choosing
from ingress.samples.scorers import check_scorer
from ingress.samples.scorers import choosing as choosing_of
from ingress.timing import Marks
from ingress.upstreams.upstreams import Upstreams

READY_RETRY_S: Final = 2.0

OPEN: Final[frozenset[str]] = frozenset({"ready", "progress"})  # to everybody, with or without a key

Answer = bytes | Replay | Kept


class _Open(NamedTuple):
    """A call whose choices are open."""

    opening: Opening
    renderer: Renderer
    streams: list[Stream]
    choosing: Choosing
    streams_events: bool
    kept: bool
    read: Callable[[Events], Coroutine[Any, Any, bytes]]

    @property
    def telling(self) -> Telling | Whole:
        """For an answer that is kept."""
        if self.kept:
            return Telling(self.renderer, dict(enumerate(self.streams)), samples=self.choosing.samples)
        return Whole(self.renderer, self.streams, self.choosing)


class Pipeline:
    """All operations of the API, on bodies of bytes.

    Args:
        engine: does the work.
        host: its loop is the clock.
        journals, grace_s, stored_s, quota, find: see `Streaming`.
        ask: see `Stored`.
        cache: answers calls that were answered before.
        guards: look at what goes in and out.
        admission: stands before every call.
        routes: names that stand for several models.
        upstreams: models elsewhere.
        prices: of models, which routes compare.
        mirror: has other models asked too.
        batches: the way to files and batches.
        most: samples that a prompt may have.
        models: as configured.

    Attributes:
        batches: the same.
    """

    def __init__(
        self,
        engine: Engine,
        host: Host,
        journals: Journals,
        *,
        grace_s: float,
        stored_s: float,
        quota: Quota = QUOTA,
        find: Find,
        ask: Ask,
        cache: AnswerCache | None = None,
        guards: Guards | None = None,
        admission: Admission | None = None,
        routes: Sequence[RouteConfig] = (),
        upstreams: Upstreams | None = None,
        prices: PriceBook | None = None,
        mirror: Mirror | None = None,
        batches: Batches | None = None,
        most: Most | None = None,
        models: Sequence[ModelConfig] = (),
    ) -> None:
        self._most = most or Most()
        telemetry = host.telemetry
        self.batches = batches or Batches(None)
        self._admission = admission or Admission(None, NoLedger())
        self._engine, self._loop = engine, host.loop
        self._overhead = Overhead(telemetry)
        self._guards = guards or Guards((), telemetry)
        self._routing = Routing(engine, upstreams, routes, prices or PriceBook(()), telemetry)
        self._attempts = Attempts(engine, self._routing, upstreams, self._admission, cache, telemetry, mirror)
        self._streaming = Streaming(
            engine, host, journals, grace_s=grace_s, stored_s=stored_s, quota=quota, find=find, guards=self._guards,
            routing=self._routing, upstreams=upstreams,
        )  # fmt: skip
        self._stored = Stored(self._streaming, ask)
        encoders = Encoders(engine, self._admission)
        adapters = AdapterCalls(engine, self._admission, {model.name: model for model in models})
        self._operations: dict[Operation, Callable[[bytes, Caller], Awaitable[Answer]]] = {
            **{operation: partial(self._generate, operation) for operation in KINDS},
            **{operation: partial(self._stored.act, operation) for operation in self._stored.operations},
            **self.batches.operations,
            "messages.count_tokens": self._count_tokens,
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "models": self._models,
            "ready": self._ready,
            "progress": self._progress,
            "embeddings": encoders.embeddings,
            "adapters.load": adapters.load,
            "adapters.unload": adapters.unload,
            "rerank": encoders.rerank,
        }

    async def identify(self, caller: Caller, authorization: str, address: str | None) -> Caller:
        """The caller, told apart by its credentials where keys are asked for.

        Raises:
            ApiError: 401, 403, 429 or 503; see `Admission`.
        """
        return await self._admission.identify(caller, authorization, address)

    async def on_behalf(self, caller: Caller, key: str) -> Caller:
        """The caller of a line of a batch: whoever showed the key when the batch was made, as that key is now.

        Raises:
            ApiError: 401, it is good no more; 503; see `Admission`.
        """
        return await self._admission.on_behalf(caller, key)

    async def answer(self, operation: Operation, body: bytes, caller: Caller) -> Answer:
        """Do it: one body, or the events of a stream. Cancelling aborts the work of a call that does not stream.

        Raises:
            ApiError: it cannot be done, or failed.
        """
        return await self._operations[operation](body, caller)

    async def answer_once(self, operation: Operation, body: bytes, caller: Caller, key: str) -> bytes | Events | Kept:
        """The same for a call with an `Idempotency-Key`: what it was answered before, or is being answered.

        Raises:
            ApiError: see `answer`; 400, not such a key; 503, whoever has the answer does not say so.
        """
        if (kind := KINDS.get(operation)) is None:
            return await self.answer(operation, body, caller._replace(once=checked(key)))
        known = once(key, caller.owner, operation, body)
        response = f"{kind.prefix}{known.number:016x}"
        try:
            if caller.batch and not self._streaming.known(response, caller.owner):
                raise not_found(response, code="stream_not_found")  # a new line: the siblings need not be asked
            events = await self.resume(response, caller.authorization, 0)
        except ApiError as error:
            if error.code != "stream_not_found":
                raise
            opening = self._open(operation, body, caller._replace(seed=known.seed), known.number)
            call = await self._overhead.of_call(opening)
            events = self._streaming.begin(call.opening, call.telling)
        request = kind.decode(body, EVERYTHING)
        return events if request.streams else Kept(events, partial(kind.read, request))

    def model_card(self, name: str, caller: Caller) -> bytes:
        """One model.

        Raises:
            ApiError: 404; 403, it is not for this caller.
        """
        self._routing.models_of(name)
        self._admission.check_model(caller, name)
        return encode(self._card(name))

    async def resume(self, response: str, authorization: str, after: int, *, ask_siblings: bool = True) -> Events:
        """A stream that was opened before, to be followed after event `after`.

        Raises:
            ApiError: 404, it is not (or no longer) kept, or not the caller's; 400, no such event.
        """
        return await self._streaming.resume(response, authorization, after, ask_siblings=ask_siblings)

    def forget(self, events: Events) -> None:
        """They are wanted by nobody any more; what fills them ends."""
        if isinstance(events, Replay):
            self._streaming.forget(events)
        else:
            events.abandon()

    def forget_all(self, responses: Sequence[str], owner: str) -> None:
        """The same for those of an owner that are here, by their ids."""
        for response in responses:
            if (events := self._streaming.here(response, owner)) is not None:
                self._streaming.forget(events)

    @property
    def leavable(self) -> int:
        """Answers under way that nobody is kept waiting by, and that whoever comes next goes on with."""
        return self._streaming.leavable

    def delivered(self, events: Events, waited_ns: int) -> None:
        """All events were written to their client, which was waited for so long."""
        if isinstance(events, Replay):
            self._engine.delivered(events.requests, waited_ns)

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return self._loop.now_ns()

    def close(self) -> None:
        """Leave every stream to others."""
        self._streaming.close()

    # --- generation ------------------------------------------------------------------------------------------------

    async def _generate(self, operation: Operation, body: bytes, caller: Caller) -> Answer:
        call = await self._overhead.of_call(self._open(operation, body, caller, None))
        if call.kept:
            events = self._streaming.begin(call.opening, call.telling)
            return events if call.streams_events else Kept(events, call.read)
        try:
            answers = await call.choosing.answers(call.streams)
            tell_found(caller.headers, [answer.finish for answer in answers])
            return call.renderer.whole(
                answers, [stream.prompt_logprobs for stream in call.streams[:: call.choosing.samples]]
            )
        finally:
            self._engine.abort(call.opening.requests)  # nothing happens to those that have ended

    async def _open(self, operation: Operation, body: bytes, caller: Caller, number: int | None) -> _Open:
        """Plan a call and open its choices. `number`: of the response's id; None is that of the first request."""
        kind = KINDS[operation]
        marks = Marks(self._loop.now_ns)
        request = kind.decode(body, self._routing.offers(body))
        marks.parsed()
        names = {request.model, *self._routing.models_of(request.model)}
        model = self._engine.served(request.model)
        if model is not None:
            require_generates(model)
        self._admission.check_model(caller, request.model)
        if isinstance(request, Generation):
            self._most.check(request)
            check_scorer(request, self._engine, partial(self._admission.may_see, caller))
        if (guards := self._guards.of(names, model, Whose(caller.tenant, caller.key))) is not None:
            guards.refuse(request)
        earlier = await self._earlier(request, caller)
        if guards is not None:
            admitted, earlier = await guards.admit(body, earlier)
            if admitted is not body:  # it has masks in it
                body, request = admitted, kind.decode(admitted, self._routing.offers(admitted))
        caller = caller._replace(marks=marks, earlier=earlier)
        ask = guards.ask if guards is not None else None
        tried = await self._attempts.open(operation, kind, request, caller, ask)
        plan, opened = tried.plan, tried.opened
        streams = opened.streams
        if caller.headers is not None:
            caller.headers.extend(opened.headers)
        if guards is not None:
            guards.tell(caller.headers)
            streams = [guards.wrap(stream) for stream in streams]
        requests = tuple(stream.request for stream in streams)
        response = f"{kind.prefix}{requests[0] if number is None else number:016x}"
        self._engine.name(requests, response, caller.called)
        caller.named(response)
        head = Head(response, int(time.time()), tried.model, tried.fingerprint)
        opening = Opening(
            operation, body, caller.tenant, caller.owner, caller.received_ns, head.id, head.created,
            head.fingerprint, requests, tuple(pack_u32(prompt.ids) for prompt in plan.prompts), plan.seed,
            caller.key, caller.traceparent, caller.batch, caller.weight, caller.earlier, opened.stored,
            caller.partition, tried.model if tried.model != request.model else "", plan.grammar,
            plan.recommended,
        )  # fmt: skip
        renderer = kind.render(head, request, plan, tried.tokenizer)
        read = partial(kind.read, request)
        choosing = choosing_of(request, plan, tried.tokenizer, self._engine, caller)
        return _Open(opening, renderer, streams, choosing, request.streams, plan.streams, read)

    async def _earlier(self, request: object, caller: Caller) -> bytes:
        """The stored conversation that a call goes on with."""
        if not isinstance(request, ResponsesRequest) or request.previous_response_id is None:
            return b""
        return await self._stored.conversation(request.previous_response_id, caller)

    # --- the rest --------------------------------------------------------------------------------------------------

    async def _tokenize(self, body: bytes, caller: Caller) -> bytes:
        request = validate.tokenize_request(body)
        model = self._engine.model(request.model)
        self._admission.check_model(caller, model.name)
        if request.messages is not None:
            ids = await chat_ids(
                model,
                request.messages,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                extra=request.chat_template_kwargs,
                allow_special_tokens=request.allow_special_tokens,
            )
        else:
            ids = await model.encode(request.prompt or "", special=request.add_special_tokens is not False)
        reply = TokenizeReply(count=len(ids), max_model_len=model.context_tokens, tokens=ids)
        if request.return_token_strs:
            texts = [model.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
            reply = TokenizeReply(count=len(ids), max_model_len=model.context_tokens, tokens=ids, token_strs=texts)
        return encode(reply)

    async def _count_tokens(self, body: bytes, caller: Caller) -> bytes:
        request = from_messages.count_request(body)
        model = self._engine.model(request.model)
        self._admission.check_model(caller, model.name)
        return encode(TokenCount(len(await ids_of(from_messages.as_chat(request), model))))

    async def _detokenize(self, body: bytes, caller: Caller) -> bytes:
        request = validate.detokenize_request(body)
        model = self._engine.model(request.model)
        self._admission.check_model(caller, model.name)
        for index, token in enumerate(request.tokens):
            if token >= model.vocabulary:
                raise invalid_request(
                    f"Token id {token} is out of the vocabulary: ids are 0 to {model.vocabulary - 1}.",
                    param=f"tokens[{index}]",
                )
        return encode(DetokenizeReply(prompt=model.tokenizer.decode(request.tokens, skip_special=False)))

    async def _models(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002 (the same shape for all)
        names = (*self._engine.models, *self._engine.adapters, *self._routing.names)
        return encode(ModelList(data=[self._card(name) for name in names if self._admission.may_see(caller, name)]))

    def _card(self, name: str) -> ModelCard:
        if (model := self._engine.served(name)) is not None:
            return model_card(model)
        shown = self._routing.shown(name)
        return ModelCard(
            id=name, created=shown.created, owned_by=shown.owner, max_model_len=shown.context_tokens, ready=shown.ready
        )

    async def _ready(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002
        models = [_readiness(model.name, self._engine.health(model)) for model in self._engine.models.values()]
        if missing := [model for model in models if not model.ready]:
            raise not_ready("Not ready: " + "; ".join(map(_in_words, missing)), READY_RETRY_S)
        return encode(Readiness(models=models))

    async def _progress(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002
        models = [_progress(model.name, self._engine.health(model)) for model in self._engine.models.values()]
        if stuck := [model for model in models if not model.progressing]:
            told = "; ".join(f"{model.id}: {model.reason} (for {model.stuck_s:.0f} s)" for model in stuck)
            raise ApiError(
                503, "service_unavailable_error", f"Standing still: {told}", code="standing_still",
                retry_after_s=READY_RETRY_S,
            )  # fmt: skip
        return encode(Progress(models=models))


def _readiness(name: str, now: ModelHealth) -> ModelReadiness:
    return ModelReadiness(
        id=name, ready=now.ready, replicas_ready=now.replicas_ready, replicas=now.replicas, reason=now.trouble or None
    )


def _progress(name: str, now: ModelHealth) -> ModelProgress:
    return ModelProgress(id=name, progressing=now.progressing, stuck_s=round(now.stuck_s, 1), reason=now.stuck or None)


def _in_words(model: ModelReadiness) -> str:
    why = f": {model.reason}" if model.reason else ""
    return f"{model.id} ({model.replicas_ready} of {model.replicas} replicas){why}"
