"""The cache as the pipeline sees it: a call's plan in, the streams of its answer out, from wherever they come.

Between the input guards and the dispatch: what comes in has passed the guards, what goes out is a `Stream` like any
other, so output guards and renderers do with it what they do with a live one.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, NamedTuple

from bus.config import CacheConfig, parse_size
from bus.messages.telemetry import TimelineEvent
from bus.messages.usage import Outcome
from bus.telemetry import Telemetry
from ingress.accounts import Used, Whose
from ingress.api.jobs import Caller, Plan
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_common import Generation
from ingress.cache import entry as entries
from ingress.cache.costs import Overheard
from ingress.cache.database import Kept
from ingress.cache.directives import Directives, directives
from ingress.cache.entry import BadEntry, Entry, Replayed
from ingress.cache.flight import Backend, Flight
from ingress.cache.keys import elsewhere_key, exact_key
from ingress.cache.orders import Desk
from ingress.cache.policy import may_keep, why_not
from ingress.cache.semantic.lookup import CANDIDATES, Asked, Match, Semantic
from ingress.cache.spaces import Space, Spaces
from ingress.cache.store import Store, now_ms
from ingress.job import Job
from ingress.models import ServedModel
from ingress.streams import Finish, Piece, Stream, Usage

log = logging.getLogger(__name__)

Dispatch = Callable[[Sequence[Job]], Awaitable[list[Stream]]]
Source = Literal["exact", "semantic", "miss", "bypass"]
Headers = tuple[tuple[bytes, bytes], ...]

LARGEST_SHARE: Final = 16  # one answer takes at most so great a part of the memory


class Opened(NamedTuple):
    """The streams of a call.

    Attributes:
        headers: what the cache says of it, for HTTP.
        stored: the entry that it is answered from, for its journal; empty where it is not.
    """

    streams: list[Stream]
    headers: Headers
    stored: bytes = b""


class AnswerCache:
    """One ingress's cache.

    Args:
        backend: the engine.
        store: shared with the other ingresses.
        costs: knows what computing an answer took; the ledger behind it gets a row for every hit.

    Attributes:
        semantic: None where nothing is matched by meaning.
        desk: answers operators.
    """

    def __init__(
        self,
        config: CacheConfig,
        backend: Backend,
        store: Store,
        costs: Overheard,
        telemetry: Telemetry,
        semantic: Semantic | None = None,
    ) -> None:
        self._spaces = Spaces(config)
        self._backend, self._store, self._costs, self._telemetry = backend, store, costs, telemetry
        self.semantic = semantic
        self._largest = parse_size(config.memory) // LARGEST_SHARE
        self._flights: dict[tuple[bytes, bool], Flight] = {}  # nobody follows what others go before
        self.desk: Desk | None = None

    async def open(
        self, request: Generation, plan: Plan, model: ServedModel, caller: Caller, dispatch: Dispatch
    ) -> Opened:
        """The streams of a call: from what is kept, from a generation under way, or from `dispatch`.

        Raises:
            ApiError: the dispatch's; 503, its scheduler does not say what it runs.
        """
        space = self._spaces.of(model.name, caller.tenant)
        wanted = directives(caller.cache_control, request)
        bypass = why_not(request, plan, wanted, space)
        if bypass is not None:
            self._count(model.name, space, "bypass")
            return Opened(await dispatch(plan.jobs), _headers("bypass"))
        if model.facts is None or not model.facts.root or (model.is_adapter and not model.adapter):
            await self._backend.expect(model)  # what it runs is a part of the key
        job = plan.jobs[0]
        key = exact_key(job, model, space)
        if wanted.look_up:
            if (hit := self._kept(key, wanted)) is not None:
                return self._serve(hit, "exact", job, space, caller)
            if (flight := self._flights.get((key, job.batch))) is not None:
                followed = await flight.follow(job, caller.received_ns)
                if followed is not None:
                    self._count(model.name, space, "exact")
                    self._telemetry.counter(
                        "headrace_cache_shared_total", "Answers from a generation that was under way.", model=model.name
                    ).add()
                    return Opened([followed], _headers("exact", 0))
        asked: Asked | None = None
        match: Match | None = None
        if self.semantic is not None and isinstance(request, ChatRequest):
            asked = self.semantic.turn(request, job, model, space)
            if asked is not None and wanted.look_up and (found := await self._meant(self.semantic, asked, wanted)):
                match, kept = found
                if match.serve:
                    return self._serve(kept, "semantic", job, space, caller, match.similarity)
        self._count(model.name, space, "miss")
        streams = await self._lead(_Ask(key, job, model, space, asked, match), dispatch, plan)
        return Opened(streams, _headers("miss"))

    async def open_elsewhere(
        self, request: Generation, plan: Plan, words: bytes, caller: Caller, dispatch: Dispatch
    ) -> Opened:
        """The same for a model elsewhere. Nothing is matched by meaning, and nobody follows another's answer: whose
        leader's connection breaks could not go on alone.

        Args:
            words: in which it is asked; all that is known of what its answer depends on.

        Raises:
            ApiError: the dispatch's.
        """
        job = plan.jobs[0]
        space = self._spaces.of(job.model, caller.tenant)
        wanted = directives(caller.cache_control, request)
        if why_not(request, plan, wanted, space) is not None:
            self._count(job.model, space, "bypass")
            return Opened(await dispatch(plan.jobs), _headers("bypass"))
        key = elsewhere_key(job, space, words)
        if wanted.look_up and (hit := self._kept(key, wanted)) is not None:
            return self._serve(hit, "exact", job, space, caller)
        self._count(job.model, space, "miss")
        epoch = self._store.epoch(space.name)
        (stream,) = await dispatch(plan.jobs)
        told: list[Piece] = []

        def hear(piece: Piece) -> None:
            told.append(piece)
            finish = piece.finish
            # An estimated account is one of an answer that another server has gone on with, or of one that lies.
            if finish is None or stream.touched or finish.usage.estimated or not may_keep(job, finish):
                return
            self._keep(key, space, epoch, entries.encode(entries.make(told, finish, None)))

        stream.tap(hear)
        stream.on_touched = lambda: self._store.forget(key)
        return Opened([stream], _headers("miss"))

    def close(self) -> None:
        """Write what is to be kept, and end."""
        if self.semantic is not None:
            self.semantic.close()
        self._store.close()

    def tick(self) -> None:
        """About once a second."""
        self._store.tick()
        if self.semantic is not None:
            self.semantic.tick()
        self._telemetry.gauge("headrace_cache_bytes", "Of answers that are kept, on this host.").set(self._store.held)

    # --- hits ------------------------------------------------------------------------------------------------------

    def _kept(self, key: bytes, wanted: Directives) -> _Hit | None:
        found = self._store.get(key)
        if found is None:
            return None
        age_s = max(0.0, (now_ms() - found.stored_ms) / 1000)
        if wanted.max_age_s is not None and age_s > wanted.max_age_s:
            return None
        try:
            return _Hit(found.body, entries.decode(found.body), age_s)
        except BadEntry as error:
            log.error("a cached answer cannot be read and is forgotten: %s", error)
            self._store.forget(key)
            return None

    async def _meant(self, semantic: Semantic, asked: Asked, wanted: Directives) -> tuple[Match, _Hit] | None:
        """The best match whose answer is still kept."""
        for _ in range(CANDIDATES):
            if (match := await semantic.find(asked)) is None:
                return None
            if (hit := self._kept(match.key, wanted)) is not None:
                return match, hit
            if self._store.get(match.key) is not None:
                return None  # older than this caller wants
            semantic.lost(asked, match.key)
        return None

    def _serve(
        self, hit: _Hit, source: Source, job: Job, space: Space, caller: Caller,
        similarity: float | None = None,
    ) -> Opened:  # fmt: skip
        entry = hit.entry
        stream = Replayed(job.request or secrets.randbits(63), entry)
        self._count(job.model, space, source)
        self._saved(job.model, space, entry)
        # In the ledger before anybody can see the end.
        usage = Usage(entry.prompt_tokens, entry.completion_tokens, reasoning_tokens=entry.reasoning_tokens)
        self._account(stream.request, job, "cached", usage, caller.received_ns)
        return Opened([stream], _headers(source, hit.age_s, similarity), hit.body)

    # --- misses ----------------------------------------------------------------------------------------------------

    async def _lead(self, ask: _Ask, dispatch: Dispatch, plan: Plan) -> list[Stream]:
        """Generate, for everybody who asks for the same until it has ended."""
        if ask.flight in self._flights:  # somebody was quicker, or does not want to be followed
            return await dispatch(plan.jobs)
        epoch = self._store.epoch(ask.space.name)

        def over(flight: Flight) -> None:
            if self._flights.get(ask.flight) is flight:
                del self._flights[ask.flight]

        flight = self._flights[ask.flight] = Flight(
            self._backend, self._account, lambda flight, finish: self._landed(ask, epoch, flight, finish), over
        )
        try:
            streams = await dispatch(plan.jobs)
        except BaseException:
            flight.fail_to_open()
            raise
        flight.lead(streams[0])
        streams[0].on_touched = lambda: self._store.forget(ask.key)
        return streams

    def _landed(self, ask: _Ask, epoch: int, flight: Flight, finish: Finish) -> None:
        """An answer has come to its end: keep it, where it may be kept."""
        if flight.touched or not may_keep(ask.job, finish):
            return
        entry = entries.make(flight.pieces, finish, self._costs.of(flight.request))
        semantic, asked, match = self.semantic, ask.asked, ask.match
        if semantic is not None and asked is not None and match is not None:
            kept = self._kept(match.key, Directives())
            if kept is not None:
                semantic.compared(asked, match, kept.entry.text, entry.text)
        if self._keep(ask.key, ask.space, epoch, entries.encode(entry)) and semantic is not None and asked is not None:
            semantic.remember(asked, ask.key)

    def _keep(self, key: bytes, space: Space, epoch: int, body: bytes) -> bool:
        """Keep an answer, where it is not too large."""
        if len(body) > self._largest:
            return False
        now = now_ms()
        self._store.put(Kept(key, space.name, epoch, now, now + int(space.ttl_s * 1000), body))
        return True

    # --- accounts --------------------------------------------------------------------------------------------------

    def _account(self, request: int, job: Job, outcome: Outcome, usage: Usage, received_ns: int) -> None:
        """A row in the ledger for an answer that nothing was computed for, and its timeline."""
        whose = Whose(job.model, job.tenant, job.key, job.counts_prompt)
        prompt = usage.prompt_tokens
        self._costs.ended(
            Used(
                request, whose, outcome, prompt, prompt, usage.completion_tokens, received_ns, (0, 0),
                usage.reasoning_tokens,
            )
        )  # fmt: skip
        now_ns = time.monotonic_ns()
        self._telemetry.event(TimelineEvent(request, received_ns, "received", detail=job.traceparent))
        self._telemetry.event(TimelineEvent(request, now_ns, "finished", value=usage.completion_tokens, detail=outcome))

    def _count(self, model: str, space: Space, source: Source) -> None:
        self._store.count(space.name, source)
        self._telemetry.counter(
            "headrace_cache_requests_total", "Calls, by how the cache took them.", model=model, result=source
        ).add()

    def _saved(self, model: str, space: Space, entry: Entry) -> None:
        for kind, tokens in (("prompt", entry.prompt_tokens), ("generated", entry.completion_tokens)):
            self._store.count(space.name, f"saved_{kind}_tokens", tokens)
            self._telemetry.counter(
                "headrace_cache_saved_tokens_total", "Tokens that a hit did not have computed.", model=model,
                kind=kind,
            ).add(tokens)  # fmt: skip
        self._store.count(space.name, "saved_compute_us", entry.compute_ns // 1000)
        self._telemetry.counter(
            "headrace_cache_saved_core_seconds_total", "What computing the answers of hits took when they were made.",
            model=model,
        ).add(entry.compute_ns / 1e9)  # fmt: skip


class _Hit(NamedTuple):
    body: bytes
    entry: Entry
    age_s: float


class _Ask(NamedTuple):
    """A call that is a miss. `match` is a question whose answer is compared with this one's."""

    key: bytes
    job: Job
    model: ServedModel
    space: Space
    asked: Asked | None
    match: Match | None

    @property
    def flight(self) -> tuple[bytes, bool]:
        return self.key, self.job.batch


def _headers(source: Source, age_s: float | None = None, similarity: float | None = None) -> Headers:
    headers: list[tuple[bytes, bytes]] = [(b"x-cache", source.encode())]
    if age_s is not None:
        headers.append((b"x-cache-age", b"%d" % age_s))
    if similarity is not None:
        headers.append((b"x-cache-similarity", b"%.3f" % similarity))
    return tuple(headers)
