"""Streams from their first event to the end of their grace: told to listeners, written to journals, taken over.

An event is in its stream's journal before any listener can see it. So when an ingress dies, others take its streams
over, each as soon as its client asks for it, or within `SWEEP_S`; and when this process has to end before its streams
do, it leaves them as if it had died.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from bus.loop import Loop
from bus.messages.common import ProcessState
from bus.packed import unpack_u32
from bus.telemetry import Telemetry
from ingress.api import afar
from ingress.api.answer import Head, envelope, fingerprint
from ingress.api.choices import search_all
from ingress.api.elsewhere import Elsewhere, Remote
from ingress.api.events import Events
from ingress.api.jobs import Caller, Plan, Settled, owner_of
from ingress.api.operations import KINDS, not_stored
from ingress.api.telling import GoOn, Say, Telling, Whole, retell
from ingress.api.validate import EVERYTHING
from ingress.cache.entry import go_on as replay_on
from ingress.conversation import LOST_PATIENCE_S
from ingress.engine import Engine
from ingress.errors import ApiError, internal, invalid_request, not_found, not_ready
from ingress.guards.look import Whose
from ingress.guards.stage import Guards
from ingress.journal import Journal, Journals, Taken
from ingress.quota import Quota
from ingress.records import Drawn, Opening, Record, Said
from ingress.replay import QUOTA, Keeping, Replay, ReplayStore
from ingress.routing import Routing
from ingress.samples.scorers import choosing as choosing_of
from ingress.upstreams.upstreams import Upstreams

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
DYING_S: Final = 10.0  # how long who has a stream may take to answer, or to be dead
LOOK_AGAIN_S: Final = 0.02
MAX_STRIKES: Final = 8  # ingresses that a stream may outlive in a row without an event: more is its own fault

Find = Callable[[str, str, int], Awaitable[Remote | None]]
Tell = Callable[[Say], Awaitable[None]]


class Host(Protocol):
    """What must be known of the process that this is in."""

    @property
    def loop(self) -> Loop: ...
    @property
    def state(self) -> ProcessState: ...
    @property
    def telemetry(self) -> Telemetry: ...


class _Live(NamedTuple):
    """A stream that is being told. `requests` are those of its choices; `unattended`: it is a line of a batch."""

    journal: Journal
    requests: Sequence[int]
    pump: asyncio.Task[None]
    unattended: bool


class Streaming:
    """All streams of this process.

    Args:
        grace_s: how long a stream that nobody listens to, or that is complete, can be resumed.
        stored_s: how long a stored response can be asked for after its end.
        quota: of a project's stored responses.
        find: looks for a stream at the other ingresses of this host.
        guards: look at streams that are taken over as at any other.
        routing, upstreams: for answers of models elsewhere; None where there are none.
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
        guards: Guards,
        routing: Routing | None = None,
        upstreams: Upstreams | None = None,
    ) -> None:
        self._engine, self._host, self._journals, self._find = engine, host, journals, find
        self._routing, self._upstreams = routing, upstreams
        self._guards = guards
        self._replays = ReplayStore(grace_s, stored_s, quota=quota)
        self._live: dict[str, _Live] = {}
        self._taking: asyncio.Task[None] | None = None
        self._stop_sweeping = host.loop.every(SWEEP_S, self._sweep)
        host.loop.soon(self._take_all)

    def begin(self, opening: Opening, telling: Telling | Whole) -> Replay:
        """Tell a new answer; the one of that id, where there is one already."""
        if (told := self._replays.get(opening.response, opening.owner)) is not None:
            self._engine.abort(opening.requests)
            return told
        return self._tell(opening, self._journals.begin(opening), telling.tell, ())

    async def resume(self, response: str, authorization: str, after: int, *, ask_siblings: bool) -> Events:
        """A stream that was opened before, to be followed after event `after`.

        Raises:
            ApiError: 404, it is not (or no longer) kept, or not the caller's; 400, no such event; 503, whoever has it
                does not answer.
        """
        owner = owner_of(authorization)
        loop = self._host.loop
        until_ns = loop.now_ns() + int(DYING_S * 1e9)
        while True:
            if (replay := self.here(response, owner)) is not None:
                if after > replay.last:
                    raise invalid_request(f"The stream has no event {after} yet.", param="Last-Event-ID")
                return replay
            if ask_siblings and (remote := await self._find(response, authorization, after)) is not None:
                return Elsewhere(
                    remote, lambda last: self.resume(response, authorization, last, ask_siblings=ask_siblings)
                )
            if not ask_siblings or not self._journals.knows(response, owner):
                raise not_found(
                    f"There is no stream {response!r}: unknown, or kept no longer.", code="stream_not_found"
                )
            # Somebody has it who does not answer: it is about to die, or has just taken it over.
            if loop.now_ns() > until_ns:
                raise not_ready(f"The process that has the stream {response!r} does not answer.", 1.0)
            await asyncio.sleep(LOOK_AGAIN_S)

    def knows(self, response: str, owner: str) -> bool:
        """Whether any ingress, alive or dead, has a journal of that id and owner."""
        return self._journals.knows(response, owner)

    def known(self, response: str, owner: str) -> bool:
        """Whether this process has one of that id and owner, or any ingress a journal of it."""
        return self.here(response, owner) is not None or self.knows(response, owner)

    def end(self, replay: Replay, event: bytes) -> None:
        """End a stream before its time, with a last event."""
        live = self._live.get(replay.response)
        if live is None or replay.complete:
            return
        live.pump.cancel()
        live.journal.write(Said((event,), last=True))
        replay.append(event)
        self._engine.abort(live.requests)
        live.journal.rest()
        self._replays.close(replay, self._host.loop.now_ns())

    @property
    def leavable(self) -> int:
        """Choices of lines of batches under way that others can take over."""
        return sum(len(live.requests) for live in self._live.values() if live.unattended and live.journal.protected)

    def forget(self, replay: Replay) -> None:
        """Keep a stream no longer; one that is under way is aborted."""
        self._replays.drop(replay)

    def close(self) -> None:
        """Leave the streams that others can take over, and end the others."""
        self._stop_sweeping()
        if self._taking is not None:
            self._taking.cancel()
        left = [live for live in self._live.values() if live.journal.protected]
        for live in left:
            self._engine.leave(live.requests)
            live.pump.cancel()
        if left:
            log.warning("%d streams are left to be taken over", len(left))
        self._journals.close()
        self._replays.abandon_all()

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, opening: Opening, journal: Journal, tell: Tell | None, events: Sequence[bytes]) -> Replay:
        """A stream that has come as far as `events`; `tell` brings the rest, None where there is none."""
        requests = opening.requests

        def abandoned() -> None:
            journal.drop()  # before the scheduler hears of it: nobody shall take up what it has been told to forget
            self._engine.abort(requests)
            # Whoever comes late all the same is told why the rest is missing.
            replay.append(envelope(ApiError(410, "invalid_request_error", _ABANDONED, code="abandoned")))
            if (live := self._live.get(opening.response)) is not None:
                live.pump.cancel()

        now_ns = self._host.loop.now_ns()
        replay = self._replays.create(opening.response, opening.owner, abandoned, now_ns, on_dropped=journal.drop)
        replay.requests, replay.opening = requests, opening
        kind = KINDS[opening.operation]
        if opening.batch:  # whoever asked for it says when it has it (`forget`), however long it was away
            replay.keeping = Keeping(stored=True, unattended=True)
        else:
            asked = kind.decode(opening.body, EVERYTHING) if kind.keeping is not not_stored else None
            replay.keeping = kind.keeping(asked)
        for event in events:
            replay.append(event)
        if tell is None:
            journal.rest()
            self._replays.close(replay, now_ns)
            return replay
        pump = asyncio.ensure_future(self._fill(replay, journal, tell, requests))
        self._live[opening.response] = _Live(journal, requests, pump, opening.batch)
        pump.add_done_callback(lambda _: self._live.pop(opening.response, None))
        return replay

    async def _fill(self, replay: Replay, journal: Journal, tell: Tell, requests: Sequence[int]) -> None:
        def say(record: Drawn | Said) -> None:
            journal.write(record)
            for event in record.events:
                replay.append(event)

        try:
            await tell(say)
        except ApiError as error:
            say(Said((envelope(error),), last=True))
        except Exception:
            log.exception("while telling %s", replay.response)
            say(Said((envelope(internal("The answer could not be completed.")),), last=True))
        self._engine.abort(requests)  # nothing happens to those that have ended
        journal.rest()
        self._replays.close(replay, self._host.loop.now_ns())

    # --- taking over -----------------------------------------------------------------------------------------------

    def here(self, response: str, owner: str) -> Replay | None:
        """The one of that id and owner, taken over now where its ingress is dead; None where this process has none."""
        replay = self._replays.get(response, owner)
        if replay is None and (path := self._journals.find(response, owner)) is not None:
            if (taken := self._journals.take(path)) is not None:
                self._take_up(taken)
            replay = self._replays.get(response, owner)
        return replay

    def _sweep(self) -> None:
        self._replays.sweep(self._host.loop.now_ns())
        self._journals.sweep()
        self._take_all()

    def _take_all(self) -> None:
        """Everything that dead ingresses have left, unless this one will be gone soon itself."""
        if self._host.state == "draining" or (self._taking is not None and not self._taking.done()):
            return
        if left := self._journals.left():
            random.shuffle(left)  # siblings do the same at the same time, and share
            self._taking = asyncio.ensure_future(self._take(left))

    async def _take(self, left: Sequence[Path]) -> None:
        count = 0
        for path in left:
            if (taken := self._journals.take(path)) is not None:
                self._take_up(taken)
                count += 1
            await asyncio.sleep(0)  # those who listen already come first
        if count:
            log.info("took over %d streams of dead ingresses", count)

    def _take_up(self, taken: Taken) -> None:
        told = taken.told
        rest = None if told.complete else partial(self._rest, told.opening, told.records, told.strikes)
        self._tell(told.opening, taken.journal, rest, told.events)

    async def _rest(self, opening: Opening, records: Sequence[Record], strikes: int, say: Say) -> None:
        """Say what follows the records of another ingress.

        Raises:
            ApiError: it cannot go on.
        """
        if strikes >= MAX_STRIKES:
            raise internal(f"{strikes} processes ended as they took this answer up.", code="quarantined")
        kind = KINDS[opening.operation]
        request = kind.decode(opening.body, EVERYTHING)
        name = opening.target or request.model
        received_ns = min(opening.received_ns, self._host.loop.now_ns())
        caller = Caller(
            opening.tenant, opening.owner, received_ns, key=opening.key, traceparent=opening.traceparent,
            batch=opening.batch, weight=opening.weight, earlier=opening.earlier, partition=opening.partition,
            request=opening.requests[0],
        )  # fmt: skip
        head = Head(opening.response, opening.created, name, opening.fingerprint)
        await self._until_named(name)
        names, whose = {name, request.model}, Whose(opening.tenant, opening.key)
        if self._routing is not None:
            names |= set(self._routing.models_of(request.model))
        if (elsewhere := self._routing.elsewhere(name) if self._routing is not None else None) is not None:
            assert self._upstreams is not None
            assert kind.chat is not None
            if opening.cached:
                plan = await self._upstreams.plan(kind.chat(request, caller), elsewhere, caller)
                replaying: GoOn = partial(replay_on, opening.cached)
                go_on = self._guards.going_on(replaying, names, None, whose, opening.body, opening.earlier)
                await retell(opening, records, plan, kind.render(head, request, plan, None), go_on).tell(say)
                return
            guarded = self._guards.of(names, None, whose)
            if guarded is not None:
                guarded.read(opening.body, opening.earlier)
            far = await afar.retell(
                opening, records, kind.chat(request, caller), elsewhere, self._upstreams, caller,
                lambda plan: kind.render(head, request, plan, None),
                lambda plan: choosing_of(request, plan, None, self._engine, caller),
                guarded.wrap if guarded is not None else None,
            )  # fmt: skip
            await far.tell(say)
            return
        model = self._engine.model(name)
        if not opening.cached:
            model = await self._engine.known(model, LOST_PATIENCE_S)
            if opening.fingerprint is not None and fingerprint(model) != opening.fingerprint:
                raise internal("The model was changed before this answer was complete.", code="generation_failed")
        prompts = [unpack_u32(ids).tolist() for ids in opening.prompts]
        settled = Settled(prompts, opening.seed, opening.grammar, opening.drawing)
        plan = await kind.plan(request, model, caller, settled)
        drawn_on: GoOn = partial(replay_on, opening.cached) if opening.cached else self._engine.go_on
        if plan.jobs[0].beams is not None:
            plan, drawn_on = await self._search_again(opening, plan)
        go_on = self._guards.going_on(drawn_on, names, model, whose, opening.body, opening.earlier)
        choosing = choosing_of(request, plan, model.tokenizer, self._engine, caller)
        telling = retell(opening, records, plan, kind.render(head, request, plan, model.tokenizer), go_on, choosing)
        await telling.tell(say)

    async def _search_again(self, opening: Opening, plan: Plan) -> tuple[Plan, GoOn]:
        """A search is begun again, under its number: nothing of it was told. A job for each of its answers, and what
        hands out their streams in order."""
        numbers = opening.requests[:: plan.samples]
        jobs = [replace(job, request=number) for job, number in zip(plan.jobs, numbers, strict=True)]
        streams = iter(await search_all(self._engine, jobs, promised=True))
        return plan._replace(jobs=[job for job in jobs for _ in range(plan.samples)]), lambda *_: (next(streams), [])

    async def _until_named(self, name: str) -> None:
        """Adapters that were loaded at run time are known when their schedulers have introduced themselves."""
        for model in self._engine.models.values():
            if self._engine.served(name) is None and (self._routing is None or self._routing.elsewhere(name) is None):
                await self._engine.known(model, LOST_PATIENCE_S)


_ABANDONED = "The client went away and the answer was not kept. X-Resumable: true keeps it for a while."
