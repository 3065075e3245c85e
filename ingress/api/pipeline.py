"""What happens to a call, whichever door it came in by: checked, planned, opened, rendered.

A call that streams becomes a `Replay`, filled by a task of its own, so that its listeners may go and come back. When
nobody is left to listen, the front says so, or the store does after the grace time, and the work is aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from bus.loop import Loop
from bus.messages.clients import Operation
from ingress.api import validate
from ingress.api.answer import Head, Renderer, encode, envelope, failure, fingerprint
from ingress.api.choices import broken, collect, interleave, open_all
from ingress.api.events import Events
from ingress.api.jobs import Caller, Plan, chat_ids, owner_of, plan_chat, plan_completion
from ingress.api.render_chat import ChatRenderer
from ingress.api.render_completion import CompletionRenderer
from ingress.api.schema_other import (
    DetokenizeReply,
    ModelCard,
    ModelList,
    ModelReadiness,
    Readiness,
    TokenizeReply,
)
from ingress.engine import Engine, Finish, ServedModel, Stream
from ingress.errors import ApiError, internal, invalid_request, not_found, not_ready
from ingress.replay import Replay, ReplayStore

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
READY_RETRY_S: Final = 2.0

Answer = bytes | Replay
Find = Callable[[str, str, int], Awaitable[Events | None]]


class Host(Protocol):
    """What the pipeline must know of the process that it is in."""

    @property
    def loop(self) -> Loop: ...


class Pipeline:
    """All operations of the API, on bodies of bytes.

    Args:
        engine: does the work.
        host: its loop is the clock.
        grace_s: how long a stream that nobody listens to, or that is complete, can be resumed.
        find: looks for a stream at the other ingresses of this host.
    """

    def __init__(self, engine: Engine, host: Host, *, grace_s: float, find: Find) -> None:
        self._engine = engine
        self._loop = host.loop
        self._find = find
        self._replays = ReplayStore(grace_s)
        self._pumps: set[asyncio.Task[None]] = set()
        self._stop_sweeping = host.loop.every(SWEEP_S, lambda: self._replays.sweep(self._loop.now_ns()))
        self._operations: dict[Operation, Callable[[bytes, Caller], Awaitable[Answer]]] = {
            "chat.completions": self._chat,
            "completions": self._complete,
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "models": self._models,
            "ready": self._ready,
        }

    async def answer(self, operation: Operation, body: bytes, caller: Caller) -> Answer:
        """Do it: one body, or the events of a stream. Cancelling aborts the work of a call that does not stream.

        Raises:
            ApiError: it cannot be done, or failed.
        """
        return await self._operations[operation](body, caller)

    def model_card(self, name: str) -> bytes:
        """One model.

        Raises:
            ApiError: 404.
        """
        return encode(_card(self._engine.model(name)))

    async def resume(self, response: str, authorization: str, after: int, *, ask_siblings: bool = True) -> Events:
        """A stream that was opened before, to be followed after event `after`.

        Raises:
            ApiError: 404, it is not (or no longer) kept, or not the caller's; 400, no such event.
        """
        replay = self._replays.get(response, owner_of(authorization))
        if replay is not None:
            if after > replay.last:
                raise invalid_request(f"The stream has no event {after} yet.", param="Last-Event-ID")
            return replay
        elsewhere = await self._find(response, authorization, after) if ask_siblings else None
        if elsewhere is None:
            raise not_found(f"There is no stream {response!r}: unknown, or kept no longer.", code="stream_not_found")
        return elsewhere

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return self._loop.now_ns()

    def close(self) -> None:
        """End every stream."""
        self._stop_sweeping()
        self._replays.abandon_all()

    # --- generation ------------------------------------------------------------------------------------------------

    async def _chat(self, body: bytes, caller: Caller) -> Answer:
        request = validate.chat_request(body)
        model = self._engine.model(request.model)
        plan = await plan_chat(request, model, caller)
        streams = await open_all(self._engine, plan.jobs)
        renderer = ChatRenderer(self._head("chatcmpl", model, streams), request, plan)
        return await self._generate(renderer, plan, streams, caller, request.streams)

    async def _complete(self, body: bytes, caller: Caller) -> Answer:
        request = validate.completion_request(body)
        model = self._engine.model(request.model)
        plan = await plan_completion(request, model, caller)
        streams = await open_all(self._engine, plan.jobs)
        renderer = CompletionRenderer(self._head("cmpl", model, streams), request, plan, model.tokenizer)
        return await self._generate(renderer, plan, streams, caller, request.streams)

    def _head(self, kind: str, model: ServedModel, streams: Sequence[Stream]) -> Head:
        return Head(f"{kind}-{streams[0].request:016x}", int(time.time()), model.name, fingerprint(model))

    async def _generate(
        self, renderer: Renderer, plan: Plan, streams: Sequence[Stream], caller: Caller, streaming: bool
    ) -> Answer:
        if streaming:
            return self._replay(renderer.id, _events(renderer, streams), caller)
        try:
            answers = await collect(streams)
            return renderer.whole(answers, [stream.prompt_logprobs for stream in streams[:: plan.n]])
        finally:
            _abort(streams)

    def _replay(self, response: str, events: AsyncGenerator[bytes, None], caller: Caller) -> Replay:
        def abandoned() -> None:
            # Whoever comes late all the same is told why the rest is missing.
            replay.append(envelope(ApiError(410, "invalid_request_error", _ABANDONED, code="abandoned")))
            pump.cancel()

        replay = self._replays.create(response, caller.owner, abandoned, self._loop.now_ns())
        pump = asyncio.ensure_future(self._fill(replay, events))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return replay

    async def _fill(self, replay: Replay, events: AsyncGenerator[bytes, None]) -> None:
        async with contextlib.aclosing(events):
            try:
                async for body in events:
                    replay.append(body)
            except Exception:
                log.exception("while generating %s", replay.response)
                replay.append(envelope(internal("The answer could not be completed.")))
            finally:
                replay.close(self._loop.now_ns())

    # --- the rest --------------------------------------------------------------------------------------------------

    async def _tokenize(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002 (the same shape for all)
        request = validate.tokenize_request(body)
        model = self._engine.model(request.model)
        if request.messages is not None:
            ids = await chat_ids(
                model,
                request.messages,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                extra=request.chat_template_kwargs,
            )
        else:
            ids = await model.encode(request.prompt or "", special=request.add_special_tokens is not False)
        reply = TokenizeReply(count=len(ids), max_model_len=model.context_tokens, tokens=ids)
        if request.return_token_strs:
            texts = [model.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
            reply = TokenizeReply(count=len(ids), max_model_len=model.context_tokens, tokens=ids, token_strs=texts)
        return encode(reply)

    async def _detokenize(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002
        request = validate.detokenize_request(body)
        model = self._engine.model(request.model)
        for index, token in enumerate(request.tokens):
            if token >= model.vocabulary:
                raise invalid_request(
                    f"Token id {token} is out of the vocabulary: ids are 0 to {model.vocabulary - 1}.",
                    param=f"tokens[{index}]",
                )
        return encode(DetokenizeReply(prompt=model.tokenizer.decode(request.tokens, skip_special=False)))

    async def _models(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002
        return encode(ModelList(data=[_card(model) for model in self._engine.models.values()]))

    async def _ready(self, body: bytes, caller: Caller) -> bytes:  # noqa: ARG002
        models = [_readiness(model) for model in self._engine.models.values()]
        if missing := [model for model in models if not model.ready]:
            raise not_ready(
                "Not ready: "
                + ", ".join(f"{model.id} ({model.replicas_ready} of {model.replicas} replicas)" for model in missing),
                READY_RETRY_S,
            )
        return encode(Readiness(models=models))


_ABANDONED = "The client went away and the answer was not kept. X-Resumable: true keeps it for a while."


async def _events(renderer: Renderer, streams: Sequence[Stream]) -> AsyncGenerator[bytes, None]:
    """The bodies of a stream, an error in place of the rest where it fails."""
    finishes: list[Finish | None] = [None] * len(streams)
    try:
        for body in renderer.first():
            yield body
        async with contextlib.aclosing(interleave(streams)) as pieces:
            async for index, piece in pieces:
                if piece.finish is not None and broken(piece.finish):
                    yield envelope(failure(piece.finish))
                    return
                finishes[index] = piece.finish
                for body in renderer.piece(index, piece, streams[index].prompt_logprobs):
                    yield body
        for body in renderer.last([finish for finish in finishes if finish is not None]):
            yield body
    finally:
        _abort(streams)


def _abort(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.abort("client")  # nothing happens to those that have ended


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(id=model.name, created=model.created, max_model_len=model.context_tokens, ready=model.ready)


def _readiness(model: ServedModel) -> ModelReadiness:
    facts = model.facts if model.up else None
    return ModelReadiness(
        id=model.name,
        ready=model.ready,
        replicas_ready=facts.replicas_ready if facts is not None else 0,
        replicas=facts.replicas if facts is not None else 0,
    )
