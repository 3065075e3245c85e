"""The engine as the fronts see it: models by name; `open`, which turns a job into a stream of pieces, and `go_on`,
which does so for one that another ingress has begun.

Here are the links to the schedulers, and streams are counted. What makes a job valid is in `job`; what is said to a
scheduler, and how a stream survives its death, in `conversation`; text is `text`'s.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from bus.identity import Identity
from bus.link import Link
from bus.messages.adapters import AdapterAnswer
from bus.messages.requests import Deltas, ModelFacts, ToIngress
from bus.messages.telemetry import TimelineEvent, TimelineKind
from bus.messages.usage import Outcome
from bus.names import REQUESTS_DOOR, scheduler_name
from ingress.accounts import Ledger, NoLedger
from ingress.adapters import AdapterNames, Loads
from ingress.awaited import Awaited
from ingress.conversation import OPEN_PATIENCE_S, Conversation, Growing, Message, Opened, Order
from ingress.encoding import Encoded, EncodeJob, Tokens, encode
from ingress.errors import ApiError, invalid_request, model_not_found, not_ready, overloaded
from ingress.generation import Generation
from ingress.health import ModelHealth, health
from ingress.job import Job, place, place_again
from ingress.metering import Meter, NoMeter
from ingress.models import ServedModel
from ingress.overhead import Overhead
from ingress.records import Drawn
from ingress.samples.extending import Extension
from ingress.samples.searching import Means, Search
from ingress.streams import AbortReason, Finish, Piece, Stream, TokenText, Usage

__all__ = ["AbortReason", "Engine", "Finish", "Job", "Piece", "ServedModel", "Stream", "TokenText", "Usage"]

log = logging.getLogger(__name__)

TICK_S: Final = 0.1


class Process(Identity, Protocol):
    """What the engine must know of the process that it is in."""

    def progressed(self, units: int = 1) -> None:
        """Useful work was done."""
        ...


class Engine:
    """All served models of this process, and the links to their schedulers.

    Args:
        ledger: is told what requests used.
        meter: says how far answers may go.

    Attributes:
        models: by name, as configured.
        adapters: of those, by name.
        loads: of adapters, asked for.
    """

    def __init__(
        self,
        life: Process,
        models: Sequence[ServedModel],
        *,
        max_streams: int,
        ledger: Ledger | None = None,
        meter: Meter | None = None,
        adapters: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._meter = meter or NoMeter()
        self._overhead = Overhead(life.telemetry)
        self.models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self._life, self._max_streams, self._ledger = life, max_streams, ledger
        self._known = {model.name: asyncio.Event() for model in models}  # what its scheduler knows of its replicas
        self._lent: dict[int, Callable[[], bool]] = {}  # requests that more than their own call may want
        self._searches: dict[int, Search] = {}  # by request
        self._waiting = 0  # requests whose model is not known yet
        self._conversations = {model.name: self._talk(model) for model in models}
        self.adapters = AdapterNames(self.models, adapters or {})
        self._links = {name: self._connect(name, talk) for name, talk in self._conversations.items()}
        self.loads = Loads(lambda name, body: self._links[name].send(body))
        self._open_gauge = life.telemetry.gauge("headrace_ingress_open_streams", "Answers under way in an ingress.")
        self._stop_ticking = life.loop.every(TICK_S, self._tick)

    def model(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            ApiError: 404 `model_not_found`.
        """
        if (model := self.served(name)) is None:
            raise model_not_found(name, (*self.models, *self.adapters))
        return model

    def served(self, name: str) -> ServedModel | None:
        """The model, or the adapter, of that name; None where there is none."""
        return self.models.get(name) or self.adapters.get(name)

    async def open(self, job: Job) -> Stream:
        """Check a job, hand it to its scheduler and wait until that has taken it.

        Raises:
            ApiError: 404 unknown model; 400 token ids outside the vocabulary, prompt or `max_tokens` beyond the
                context, values the model refuses; 429 queue or streams full; 503 not ready, too late.
        """
        model = self.model(job.model)
        await self.expect(model)
        model = self.model(job.model)  # of an adapter more is known by now
        now_ns = self._life.loop.now_ns()
        order, generation = place(job, model, job.request or secrets.randbits(63), now_ns)
        self._note_prepared(job, order.request, generation.prompt_tokens, now_ns)
        return await self._opened(model, order, generation, now_ns)

    async def _opened(self, model: ServedModel, order: Order, generation: Growing, now_ns: int) -> Stream:
        """Submit, and wait until it is taken.

        Raises:
            ApiError: it is not.
        """
        answer: asyncio.Future[ApiError | None] = asyncio.get_running_loop().create_future()
        # The waiter may have been cancelled (its client is gone) by the time the answer comes.
        opened: Opened = lambda error: None if answer.done() else answer.set_result(error)  # noqa: E731
        stream = self._conversations[model.base].open(order, generation, opened, now_ns)
        try:
            error = await answer
        except asyncio.CancelledError:
            stream.abort("client")
            raise
        if error is not None:
            self._count_refused(model, error.code or "")
            raise error
        return stream

    async def encode(self, model: ServedModel, job: EncodeJob) -> Encoded:
        """Have sequences encoded: an embedding of each, or a score. Cancelling aborts the work.

        Raises:
            ApiError: as `open`, and 500 where one cannot be computed.
        """
        if model.encoder is None:
            raise invalid_request(f"The model {model.name!r} generates text, and encodes nothing.", param="model")
        await self.expect(model)
        now_ns = self._life.loop.now_ns()

        async def opens(order: Order, awaited: Awaited, *, promised: bool) -> Stream:
            if promised:
                return self._conversations[model.name].open(order, awaited, None, self._life.loop.now_ns())
            self._note(order.request, job.received_ns or now_ns, "received", detail=job.traceparent)
            self._note(order.request, now_ns, "tokenized", value=awaited.prompt_tokens)
            return await self._opened(model, order, awaited, now_ns)

        return await encode(job, model, opens, self._ledger or NoLedger(), now_ns)

    async def embed(
        self, model: ServedModel, text: str | Sequence[int], deadline_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """The embedding of one text; see `embed_all`.

        Returns:
            float32 [dimensions].
        """
        vector: npt.NDArray[np.float32] = (await self.embed_all(model, (text,), deadline_s))[0]
        return vector

    async def embed_all(
        self, model: ServedModel, texts: Sequence[str | Sequence[int]], deadline_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """The embeddings of texts, or of token ids with their special ones, as one call, for uses inside of this
        process. A text that is too long is cut.

        Returns:
            float32 [texts, dimensions].

        Raises:
            ApiError: see `encode`; 503 `deadline_exceeded` where it is not there in time.
        """
        if model.kind == "rerank":
            raise invalid_request(f"The model {model.name!r} reranks, and makes no embeddings.", param="model")
        job = EncodeJob(sequences=tuple(_sequence(model, text) for text in texts), deadline_s=deadline_s)
        vectors: npt.NDArray[np.float32] = (await self.encode(model, job)).vectors
        return vectors

    async def search(self, job: Job, *, promised: bool = False) -> list[Stream]:
        """Have the most probable answers searched for, as `job.beams` says; the streams are those of the answers that
        are wanted, best first, and all of one request.

        Args:
            promised: another ingress has begun it; it is begun again, and not refused.

        Raises:
            ApiError: as `open`.
        """
        assert job.beams is not None
        model = self.model(job.model)
        if not promised:
            await self.expect(model)
        now_ns = self._life.loop.now_ns()
        request = job.request or secrets.randbits(63) or 1
        order, generation = place(job, model, request, now_ns)
        if promised:
            most = order.max_tokens * job.beams.width
            self._meter.adopt(request, job.key, model.name, generation.prompt_tokens, most)
        self._note_prepared(job, request, generation.prompt_tokens, now_ns)

        async def opens(order: Order, extension: Extension, *, promised: bool) -> Stream:
            if promised:
                return self._conversations[model.name].open(order, extension, None, self._life.loop.now_ns())
            return await self._opened(model, order, extension, self._life.loop.now_ns())

        def ended(outcome: Outcome, drawn: int) -> None:
            self._searches.pop(request, None)
            self._note(request, self._life.loop.now_ns(), "finished", value=drawn, detail=outcome)

        def empty() -> Generation:
            return place(msgspec.structs.replace(job, pool=None), model, request, now_ns).generation

        means = Means(opens, self._ledger or NoLedger(), self._meter, empty, ended)
        search = Search(job, order, means)
        await search.begin(promised=promised)
        self._searches[request] = search
        return search.streams

    def go_on(self, job: Job, request: int, adopted: int, drawn: Sequence[Drawn]) -> tuple[Stream, list[Piece]]:
        """Take up an answer that another ingress has begun, after what it has told. Its model must be `known`.

        Returns:
            The stream of the rest, and the pieces that were told.

        Raises:
            ApiError: it does not fit the model any more.
            ValueError: what was drawn is not the beginning of this job's answer.
        """
        model, now_ns = self.model(job.model), self._life.loop.now_ns()
        (order, generation), told = place_again(job, model, request, now_ns, adopted, drawn)
        self._note(request, now_ns, "adopted", value=adopted)
        prompt, room = len(job.prompt), max(1, model.context_tokens - len(job.prompt))
        most = room if job.max_tokens is None else min(room, job.max_tokens)
        self._meter.adopt(request, job.key, model.name, prompt if job.counts_prompt else 0, most)
        return self._conversations[model.base].open(order, generation, None, now_ns), told

    def health(self, model: ServedModel) -> ModelHealth:
        """Whether a model could answer now, and whether its work gets on, as its scheduler says; nobody is asked."""
        link = self._links[model.name]
        return health(model, scheduler_name(model.name), link.silent_ns, self._life.loop.now_ns())

    async def expect(self, model: ServedModel) -> None:
        """Return when a request could be handed to the model's scheduler.

        Raises:
            ApiError: 429 streams full; 503 not ready in time.
        """
        if self.open_streams + self._waiting >= self._max_streams:
            self._count_refused(model, "streams")
            raise overloaded(f"All {self._max_streams} streams of this server are in use.", 1.0)
        await self.known(model, OPEN_PATIENCE_S)

    async def known(self, model: ServedModel, patience_s: float) -> ServedModel:
        """Wait until the model's scheduler has said what a request must know of it. One that has just come back says
        so as soon as a replica has registered.

        Returns:
            the model as it is known then: of an adapter, which has a digest only by now, another object.

        Raises:
            ApiError: 503, not in time; 404, it was an adapter that is not there any more.
        """
        event, adapter = self._known[model.base], self.adapters.known(model.name)
        if event.is_set() and (adapter is None or adapter.is_set()):
            return self.model(model.name)
        self._waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                await event.wait()
                if adapter is not None:
                    await adapter.wait()
        except TimeoutError:
            self._count_refused(model, "not_ready")
            raise not_ready(f"The model {model.name!r} is not ready yet.", 2.0) from None
        finally:
            self._waiting -= 1
        return self.model(model.name)

    @property
    def open_streams(self) -> int:
        """Answers under way."""
        return sum(map(len, self._conversations.values())) + len(self._searches)

    def name(self, requests: Iterable[int], response: str, called: str = "") -> None:
        """These are the choices of a response: under its id their client knows them, or as what it `called` it."""
        now_ns = self._life.loop.now_ns()
        for request in requests:
            self._tell(TimelineEvent(request, now_ns, "named", detail=response))
            if called:
                self._tell(TimelineEvent(request, now_ns, "called", detail=called))

    def delivered(self, requests: Iterable[int], waited_ns: int) -> None:
        """All of these answers was written to their client, which was waited for so long."""
        now_ns = self._life.loop.now_ns()
        for request in requests:
            self._note(request, now_ns, "delivered", value=waited_ns)

    def abort(self, requests: Iterable[int]) -> None:
        """These answers are not wanted any more. Nothing happens to those that have ended."""
        for request in requests:
            if (give_back := self._lent.get(request)) is not None and give_back():
                continue
            if (search := self._searches.get(request)) is not None:
                search.abort()
            for talk in self._conversations.values():
                talk.abort(request, "client")

    def lend(self, request: int, give_back: Callable[[], bool]) -> None:
        """Others may want this answer too: before it is aborted `give_back` is asked, and True keeps it."""
        self._lent[request] = give_back

    def unlend(self, request: int) -> None:
        """Nobody else does any more."""
        self._lent.pop(request, None)

    def leave(self, requests: Iterable[int]) -> None:
        """These answers go on at another ingress."""
        for request in requests:
            if (search := self._searches.pop(request, None)) is not None:
                search.leave()
            for talk in self._conversations.values():
                talk.leave(request)

    def abort_all(self) -> None:
        """End every answer, as at the end of a drain that took too long."""
        for search in tuple(self._searches.values()):
            search.abort("shutdown", "The server is going down.")
        for talk in self._conversations.values():
            for request in talk:
                talk.abort(request, "shutdown", "The server is going down.")

    def close(self) -> None:
        """Abort what is left and leave the schedulers."""
        self.abort_all()
        self._stop_ticking()
        for link in self._links.values():
            link.close()

    # --- links -----------------------------------------------------------------------------------------------------

    def _talk(self, model: ServedModel) -> Conversation:
        now_ns = self._life.loop.now_ns
        return Conversation(
            model, lambda body: self._links[model.name].send(body), self._tell, now_ns, self._ledger, self._meter
        )

    def _connect(self, name: str, talk: Conversation) -> Link[Message]:
        loop = self._life.loop

        def receive(message: Message) -> None:
            self._life.progressed()
            if isinstance(message, AdapterAnswer):
                self.loads.answered(message)
                return
            if isinstance(message, ModelFacts):
                self.adapters.told(self.models[name], message.adapters)
                (self._known[name].set if message.root else self._known[name].clear)()
            begun_ns = self._overhead.now_ns()
            try:
                talk.receive(message, loop.now_ns())
                if isinstance(message, Deltas) and message.tokens:
                    self._overhead.of_tokens(len(message.tokens) // 4, begun_ns)
            except ValueError as error:  # packed numbers that do not fit: nobody else's stream may suffer from it
                log.error("the scheduler of %s sent a message that makes no sense: %s", name, error)

        return Link(
            self._life,
            scheduler_name(name),
            REQUESTS_DOOR,
            "requests",
            ToIngress,
            on_message=receive,
            on_down=lambda why: self._lost(name, why),
        )

    def _lost(self, name: str, why: str) -> None:
        self.loads.lost(name)
        self._conversations[name].link_down(self._life.loop.now_ns(), why)

    def _tick(self) -> None:
        now_ns = self._life.loop.now_ns()
        for talk in self._conversations.values():
            talk.tick(now_ns)
        self._open_gauge.set(self.open_streams)

    # --- telemetry -------------------------------------------------------------------------------------------------

    def _note_prepared(self, job: Job, request: int, prompt_tokens: int, now_ns: int) -> None:
        marks = job.marks
        self._note(request, job.received_ns or now_ns, "received", detail=job.traceparent)
        if marks is not None and marks.parsed_ns:
            self._note(request, marks.parsed_ns, "parsed")
        if marks is not None and marks.rendered_ns:
            self._note(request, marks.rendered_ns, "rendered")
        tokenized_ns = marks.tokenized_ns if marks is not None else 0
        self._note(request, tokenized_ns or now_ns, "tokenized", value=prompt_tokens)

    def _note(self, request: int, at_ns: int, kind: TimelineKind, value: int = 0, detail: str = "") -> None:
        self._tell(TimelineEvent(request, at_ns, kind, value=value, detail=detail))

    def _tell(self, event: TimelineEvent) -> None:
        self._life.telemetry.event(event)
        if event.kind == "resumed":
            self._life.telemetry.counter(
                "headrace_ingress_resubmitted_total", "Requests submitted again after a scheduler lost them."
            ).add()

    def _count_refused(self, model: ServedModel, code: str) -> None:
        self._life.telemetry.counter(
            "headrace_ingress_refused_total", "Requests not opened, by code.", model=model.name, code=code
        ).add()


def _sequence(model: ServedModel, text: str | Sequence[int]) -> Tokens:
    if isinstance(text, str):
        return Tokens(*model.tokenizer.sequence(text, at_most=model.context_tokens))
    return Tokens(list(text)[: model.context_tokens], min(len(text), model.context_tokens))
