"""The ingress as a service: models, engine, and the two fronts, from start to stop."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Final

import zmq

from bus.catalogue import ModelMissing
from bus.config import parse_size
from bus.curve import BadKeyFile, CurveServer, credential
from bus.limits import too_few_open_files
from bus.messages.accounts import Settled
from bus.messages.control import Answer, GuardsTried, Ok, Rejected, Reload, ToProcess, TryGuards
from bus.messages.usage import TakeUsage
from bus.names import state_directory
from bus.prices import PriceBook
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life
from ingress.accounts import SEND_S, Accounts, Ledger, NoLedger
from ingress.api.admission import Admission
from ingress.api.batches import Batches
from ingress.api.exposition import MetricsClient
from ingress.api.http import HttpFront, serve
from ingress.api.pipeline import Pipeline
from ingress.asking import ask
from ingress.batches import BatchLink
from ingress.cache.costs import Overheard
from ingress.cache.front import AnswerCache
from ingress.cache.opening import open_cache
from ingress.cache.orders import Question
from ingress.door import Door
from ingress.engine import Engine
from ingress.gate.charging import charging, settlements
from ingress.gate.gate import Gate
from ingress.grammar.trial import Trials
from ingress.guards.judge import judge
from ingress.guards.registry import GuardUnusable, build
from ingress.guards.stage import Guards
from ingress.journal import Journals
from ingress.lane import Lane
from ingress.mirror import Mirror
from ingress.models import ModelUnusable, ServedModel, load
from ingress.quota import Quota
from ingress.routing import RouteUnusable
from ingress.samples.asked import Most
from ingress.siblings import find
from ingress.spool import Spool
from ingress.upstreams.door import NoCredential
from ingress.upstreams.upstreams import Upstreams

log = logging.getLogger(__name__)

MAX_TRIAL: Final = 100_000  # characters of a text that guards are tried on
OTHER_FILES: Final = 128  # open files beside clients' connections: doors, links, locks, and what libraries keep


class IngressService:
    """What is particular to an ingress process. Ready as soon as clients can connect; whether a model can answer is
    what `/ready` says."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._engine: Engine | None = None
        self._guards: Guards | None = None
        self._pipeline: Pipeline | None = None
        self._http: HttpFront | None = None
        self._doors: list[Door] = []
        self._curve: CurveServer | None = None
        self._metrics: MetricsClient | None = None
        self._accounts: Accounts | None = None
        self._upstreams: Upstreams | None = None
        self._mirror: Mirror | None = None
        self._cache: AnswerCache | None = None
        self._gate: Gate | None = None
        self._batches: BatchLink | None = None
        self._settling: Lane | None = None
        self._trials: Trials | None = None
        self._handed_over = False

    def start(self) -> None:
        """Read the models' text side, connect to the schedulers, open the doors."""
        models = self._load()
        if models is None:
            return
        self._trials = Trials(self._life.run)
        for model in models:
            model.trials = self._trials
        settings = self._life.config.ingress
        if problem := too_few_open_files(settings.max_streams + OTHER_FILES, f"max_streams = {settings.max_streams}"):
            self._life.fail(f"[ingress] {problem}", EXIT_CONFIG)
            return
        metrics = self._observe()
        ledger = Overheard(self._accounts or NoLedger())
        admission = Admission(self._gate, ledger)
        adapters = {model.name: [each.name for each in model.adapter] for model in self._life.config.model}
        self._engine = Engine(
            self._life, models, max_streams=settings.max_streams, ledger=ledger, meter=self._gate, adapters=adapters
        )
        try:
            guards = self._guards = Guards(
                build(self._life.config.guard, partial(judge, self._engine, self._life.loop.now_ns)),
                self._life.telemetry,
            )
        except GuardUnusable as error:
            self._life.fail(f"[[guard]] {error}", EXIT_CONFIG)
            return
        self._batches = BatchLink(self._life) if self._life.config.batch.enabled else None
        if not self._open_upstreams(self._engine, ledger):
            return
        journals = Journals(self._life.run, self._life.name, self._life.epoch, self._life.telemetry)
        self._cache = open_cache(self._life, self._engine, ledger)
        if any(route.mirror for route in self._life.config.route):
            self._mirror = Mirror(state_directory(), self._life.name, self._life.telemetry)
        try:
            self._pipeline = Pipeline(
                self._engine, self._life, journals,
                grace_s=settings.resume_grace_s, stored_s=settings.response_ttl_s,
                quota=Quota(settings.stored_responses, parse_size(settings.stored_memory)),
                find=partial(find, self._life), ask=partial(ask, self._life), cache=self._cache,
                guards=guards, admission=admission,
                routes=self._life.config.route, upstreams=self._upstreams, prices=PriceBook(self._life.config.prices),
                mirror=self._mirror, batches=Batches(self._batches),
                most=Most(settings.max_n, settings.max_best_of, settings.max_beam_width),
                models=self._life.config.model,
            )  # fmt: skip
        except RouteUnusable as error:
            self._life.fail(f"[[route]] {error}", EXIT_CONFIG)
            return
        try:
            self._http = serve(self._pipeline, metrics, self._life)
        except OSError as error:
            self._life.fail(
                f"cannot listen on {settings.http} ([ingress] http): {error.strerror or error}", EXIT_CONFIG
            )
            return
        try:
            self._open_doors(self._pipeline)
        except (BadKeyFile, zmq.ZMQError) as error:
            self._life.fail(f"cannot open the door for ZeroMQ clients ([ingress] zmq): {error}", EXIT_CONFIG)
            return
        self._life.ready()

    def describe(self) -> Description:
        """Load is streams in use; the detail names address and models."""
        if self._engine is None:
            return Description(detail="reading models")
        models = ", ".join(
            f"{model.name} {'ready' if model.ready else 'not ready'}" for model in self._engine.models.values()
        )
        return Description(
            load=self._engine.open_streams / self._life.config.ingress.max_streams,
            detail=f"http://{self._life.config.ingress.http} · {models}",
            counters=(("open_streams", float(self._engine.open_streams)),),
        )

    def drain(self) -> None:
        """Leave new requests to siblings; answers under way go on."""
        if self._http is not None:
            self._http.drain()
        for door in self._doors:
            door.drain()

    def undrain(self) -> None:
        """Take requests again."""
        if self._http is not None:
            self._http.undrain()
        for door in self._doors:
            door.undrain()

    def drained(self) -> bool:
        """Whether every answer is complete, written and accounted for, or has been left to others."""
        if self._handed_over:
            return True
        answering = (self._http is not None and self._http.busy) or any(door.busy for door in self._doors)
        left = self._pipeline.leavable if self._pipeline is not None else 0
        if answering or (self._engine is not None and self._engine.open_streams > left):
            return False
        if self._upstreams is not None and self._upstreams.open:
            return False
        return self._accounts is None or not self._accounts.delivering(self._life.loop.now_ns())

    def hand_over(self) -> None:
        """Nothing but to end: `stop` leaves the streams, and their clients find them at another ingress."""
        self._handed_over = True

    def stop(self) -> None:
        """Close the doors first, so that nothing new finds a closed engine."""
        for part in (
            *self._doors,
            self._http,
            self._pipeline,
            self._mirror,
            self._upstreams,
            self._engine,
            self._cache,
            self._trials,
            self._metrics,
            self._gate,
            self._accounts,
            self._batches,
            self._curve,
        ):
            if part is not None:
                part.close()

    def control(self, message: ToProcess) -> Answer | None:
        """The public keys of those who may connect can be read again; guards can be tried; the cache has questions and
        orders of its own."""
        if isinstance(message, Question):
            if self._cache is None or self._cache.desk is None:
                return Rejected(message.rid, "nothing is cached here: [cache] exact is false")
            return self._cache.desk.answer(message)
        if isinstance(message, TryGuards) and self._guards is not None:
            if len(message.text) > MAX_TRIAL:
                return Rejected(message.rid, f"the text is longer than {MAX_TRIAL} characters")
            verdicts, text = self._guards.trial(message.text, message.stage)
            return GuardsTried(message.rid, tuple(verdicts), text)
        if not isinstance(message, Reload):
            return None
        if self._curve is None:
            return Rejected(message.rid, "nothing to read again: no [curve] keys are in use here")
        before = self._curve.keys
        try:
            self._curve.reload()
        except BadKeyFile as bad:
            return Rejected(message.rid, f"{bad}; the keys before are still in use")
        now = f"{self._curve.keys} client keys"
        return Ok(message.rid, f"{now} may connect from now on", f"{before} client keys", now)

    def _open_doors(self, pipeline: Pipeline) -> None:
        """The socket file always: siblings use it too. Over tcp where configured, each process on a port of its own."""
        settings, curve = self._life.config.ingress, self._life.config.curve
        max_body = parse_size(settings.max_body)
        self._doors.append(Door(self._life, pipeline, max_body=max_body))
        if settings.zmq != "ipc" and curve is not None:
            secret = credential("curve.secret", Path(curve.secret))
            self._curve = CurveServer(self._life.context, secret, Path(curve.clients))
            host, _, port = settings.zmq.rpartition(":")
            index = int(self._life.instance) if self._life.instance.isdigit() else 0
            address = f"{host}:{int(port) + index}"
            self._doors.append(Door(self._life, pipeline, max_body=max_body, address=address, curve=self._curve))

    def _open_upstreams(self, engine: Engine, ledger: Ledger) -> bool:
        """The ways to models elsewhere, where there are some; False where one cannot be had."""
        life = self._life
        if not life.config.upstream:
            return True
        try:
            upstreams = self._upstreams = Upstreams(life.config.upstream, engine, ledger, life.telemetry, self._gate)
        except NoCredential as error:
            life.fail(f"[[upstream]] credential: {error}", EXIT_CONFIG)
            return False
        life.loop.every(1.0, upstreams.tick)
        return True

    def _observe(self) -> MetricsClient:
        """The links to those who are told what was used: the metrics process, and the accounts process where keys are
        asked for."""
        life, config = self._life, self._life.config
        self._gate = self._open_gate() if config.accounts.keys == "required" else None
        if not config.usage.ledger and self._gate is None:
            self._metrics = MetricsClient(life)
            return self._metrics
        charge = charging(self._gate, PriceBook(config.prices))
        spool = Spool(life.run, life.name, life.epoch)
        tell = self._tell_ledger if config.usage.ledger else None
        accounts = Accounts(spool, tell, life.telemetry, charge, self._settling)
        metrics = self._metrics = MetricsClient(life, accounts.link_up, accounts.taken)
        self._accounts = accounts
        life.loop.every(SEND_S, lambda: accounts.tick(life.loop.now_ns()))
        return metrics

    def _tell_ledger(self, usage: TakeUsage) -> bool:
        return self._metrics is not None and self._metrics.tell(usage)

    def _open_gate(self) -> Gate:
        life = self._life

        def settled(message: Settled) -> None:
            for record in self._accounts.settled(message.rid) if self._accounts is not None else ():
                gate.written(record.request)

        lane = self._settling = Lane(lambda rid, records: gate.tell(settlements(rid, records)))
        gate = Gate(
            life, life.config.accounts, PriceBook(life.config.prices), on_settled=settled, on_up=lane.link_up
        )  # fmt: skip
        return gate

    def _load(self) -> list[ServedModel] | None:
        try:
            return [load(model) for model in self._life.config.model]
        except ModelMissing as error:
            self._life.fail(str(error), EXIT_MISSING)
        except ModelUnusable as error:
            self._life.fail(str(error), EXIT_CONFIG)
        return None
