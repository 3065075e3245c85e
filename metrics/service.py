"""The sockets of the metrics process: telemetry in, questions and answers, the feed out. Decides nothing."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Final

import zmq

from bus import listen_fds
from bus.ceilings import ceilings_file, cores
from bus.ceilings import load as load_ceilings
from bus.control import OPEN_MODE
from bus.credentials import Doorkeeper, lend
from bus.messages.control import Acknowledge, Answer, GetNotes, Ok, Rejected, Silence, ToProcess
from bus.messages.control import Notes as NotesAnswer
from bus.messages.details import Question
from bus.messages.observe import (
    Exposition,
    FromObserver,
    GetExposition,
    GetSnapshot,
    GetTimeline,
    Update,
)
from bus.messages.telemetry import LiveRequests, Sample, Timeline, ToMetrics
from bus.messages.usage import GetUsage, TakeUsage, UsageTaken
from bus.messages.vitals import Door, Steps
from bus.names import FEED_DOOR, OBSERVE_DOOR, ROLES, TELEMETRY_DOOR, socket_path, state_directory
from bus.process import Description, Life
from bus.server import Peer, Server
from bus.socket import Pump, bind_ipc, configure
from bus.wire import BadFrame, Codec
from metrics import notebook
from metrics.answers import Answers
from metrics.core.collector import Collector
from metrics.core.costs import rate_of
from metrics.core.notes import Notes, NotNow
from metrics.exposition import OwnCounts, exposition
from metrics.host.nvml import Nvml
from metrics.host.vitals import Vitals
from metrics.host.watch import HostWatch
from metrics.ledger.keeper import Keeper, no_ledger
from metrics.settings import settings, written_places
from metrics.tracing.exporter import Exporter, OtelMissing
from metrics.tracing.tracer import Tracer

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
LOOK_S: Final = 1.0
CEILINGS_S: Final = 10.0  # whether the host was measured meanwhile
FEED_BACKLOG: Final = 20  # updates kept for a reader that is slow; it takes a new snapshot after that


class MetricsService:
    """Collector, and the three doors to it."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._collector = Collector(life.config.metrics.timelines, life.loop.now_ns(), settings(life.config))
        self._vitals = Vitals(written_places(life.config, life.run))
        self._watch = HostWatch(Nvml())
        self._answers = Answers(self._collector, self._watch, life.config.model)
        self._codec: Codec[ToMetrics] = Codec("telemetry", ToMetrics)
        self._feed_codec: Codec[Update] = Codec("observe", Update)
        self._frames = self._refused = self._published = 0
        self._draining = False
        self._notes = Notes(notebook.load(), time.time())
        self._raised: tuple[tuple[str, str], ...] = ()
        self._keeper: Keeper | None = None
        self._exporter: Exporter | None = None
        self._tracer: Tracer | None = None

    def start(self) -> None:
        """Open the doors; ready at once: there is nothing to wait for."""
        life = self._life
        self._telemetry = life.context.socket(zmq.SUB)
        configure(self._telemetry)
        self._telemetry.subscribe(b"")
        bind_ipc(self._telemetry, socket_path(life.name, TELEMETRY_DOOR, life.run))
        self._pump = Pump(life.loop, self._telemetry, self._receive)
        self._feed = life.context.socket(zmq.PUB)
        configure(self._feed)
        self._feed.setsockopt(zmq.SNDHWM, FEED_BACKLOG)
        feed_path = socket_path(life.name, FEED_DOOR, life.run)
        bind_ipc(self._feed, feed_path)
        lend(feed_path, life.config.admin.viewers)
        self._observe: Server[FromObserver] = Server(
            life, OBSERVE_DOOR, "observe", FromObserver, roles=ROLES, on_message=self._on_question,
            admit=Doorkeeper(life.config.admin).admit, mode=OPEN_MODE,
        )  # fmt: skip
        if life.config.usage.ledger:
            self._keeper = Keeper(life.loop, state_directory(), life.config)
        self._trace()
        self._read_ceilings()
        self._timers = (
            life.loop.every(TICK_S, self._tick), life.loop.every(LOOK_S, self._look),
            life.loop.every(CEILINGS_S, self._read_ceilings),
        )  # fmt: skip
        life.telemetry.doors[TELEMETRY_DOOR] = self._telemetry_door
        life.telemetry.doors[FEED_DOOR] = self._feed_door
        life.ready()

    def describe(self) -> Description:
        """For `headrace status`."""
        collector = self._collector
        return Description(
            detail=f"hears {len(collector.fleet.members)} processes, keeps {len(collector.timelines)} timelines",
            counters=(
                ("frames", self._frames),
                ("malformed_frames", self._refused),
                ("refused_series", collector.series.refused),
                ("stale_samples", collector.stale),
                ("feed_updates", self._published),
            ),
        )

    def drain(self) -> None:
        """Telemetry is taken to the end: there is no work to finish."""
        self._draining = True

    def undrain(self) -> None:
        """Goes on as before."""
        self._draining = False

    def drained(self) -> bool:
        """Always: questions are answered at once."""
        return True

    def hand_over(self) -> None:
        """Nothing to do, see `drained`."""

    def stop(self) -> None:
        """Close the doors."""
        for cancel in self._timers:
            cancel()
        self._watch.close()
        if self._keeper is not None:
            self._keeper.close()
        if self._exporter is not None:
            self._exporter.close()
        self._observe.close()
        self._pump.close()
        self._feed.close(linger=0)
        for door in (TELEMETRY_DOOR, FEED_DOOR):
            listen_fds.remove(socket_path(self._life.name, door, self._life.run))

    def control(self, message: ToProcess) -> Answer | None:
        """Operators' notes on findings."""
        now_s = time.time()
        try:
            match message:
                case GetNotes(rid):
                    return NotesAnswer(rid, self._notes.all())
                case Acknowledge(rid):
                    self._notes.acknowledge(message, self._raised, now_s)
                    return Ok(rid, "; ".join(filter(None, ("until it is over", self._keep_notes()))))
                case Silence(rid, _, _, seconds):
                    self._notes.silence(message, now_s)
                    said = f"for {seconds:.0f} s" if seconds else "raised again"
                    return Ok(rid, "; ".join(filter(None, (said, self._keep_notes()))))
        except NotNow as problem:
            return Rejected(getattr(message, "rid", 0), str(problem))
        return None

    def _keep_notes(self) -> str:
        if problem := notebook.save(self._notes.all()):
            log.error("notes on findings: %s", problem)
        return problem

    def _look(self) -> None:
        self._watch.look()
        self._collector.on_host(self._vitals.read())

    def _tick(self) -> None:
        now_ns = self._life.loop.now_ns()
        if self._keeper is not None:
            self._collector.ledger_problem = self._keeper.problem
        if self._tracer is not None:
            self._tracer.tick(now_ns)
        update = self._collector.tick(now_ns)
        if update.findings is not None:
            self._raised = tuple((finding.code, finding.subject) for finding in update.findings)
        if self._notes.tick(self._raised, time.time()):
            self._keep_notes()
        frames = self._feed_codec.encode(update, self._life.name, self._life.epoch, update.seq)
        try:
            self._feed.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return  # a PUB drops for slow readers by itself; this is a closing context
        self._published += 1
        self._life.progressed()

    def _receive(self) -> None:
        frames = self._telemetry.recv_multipart(zmq.NOBLOCK)
        self._frames += 1
        try:
            header, message = self._codec.decode(frames)
        except BadFrame as bad:
            self._refuse(str(bad))
            return
        now = self._life.loop.now_ns()
        if message.name != header.source or (isinstance(message, Sample) and message.epoch != header.epoch):
            self._refuse(f"{header.source} speaks for {message.name}")
        elif isinstance(message, Sample):
            self._collector.on_sample(message, now)
        elif isinstance(message, Timeline):
            self._collector.on_timeline(message)
        elif isinstance(message, LiveRequests):
            self._collector.on_live(message, now)
        elif isinstance(message, Steps):
            self._collector.on_steps(message, now)
        else:
            self._collector.on_view(message, now)

    def _telemetry_door(self) -> Door:
        heard, refused = len(self._collector.fleet.members), (("malformed", self._refused),) if self._refused else ()
        return Door(TELEMETRY_DOOR, "SUB", heard, self._frames, 0, 0, 0, 0, refused, ())

    def _feed_door(self) -> Door:
        return Door(FEED_DOOR, "PUB", -1, 0, self._published, 0, FEED_BACKLOG, 0, (), ())

    def _refuse(self, why: str) -> None:
        if self._refused.bit_count() <= 1:  # 0, 1, 2, 4, 8 … before it: a flood must not fill the journal
            log.warning("refused telemetry (%d before it): %s", self._refused, why)
        self._refused += 1

    def _on_question(self, peer: Peer, message: FromObserver) -> None:
        if isinstance(message, GetExposition):
            text = exposition(self._collector, self._own(), openmetrics=message.openmetrics)
            self._observe.send(peer, Exposition(message.rid, text))
        elif isinstance(message, GetSnapshot):
            self._observe.send(peer, self._collector.snapshot(message.rid))
        elif isinstance(message, GetTimeline):
            self._observe.send(peer, self._collector.timeline(message, self._life.loop.now_ns()))
        elif isinstance(message, Question):
            self._observe.send(peer, self._answers.answer(message, self._life.loop.now_ns()))
        elif isinstance(message, TakeUsage):
            taken = partial(self._observe.send, peer, UsageTaken(message.rid))
            if self._keeper is not None:
                self._keeper.write(f"{peer.name} {peer.epoch}", message.records, taken)
            else:
                taken()  # nobody wants to know, by a configuration that it has not read yet
        elif isinstance(message, GetUsage):
            if self._keeper is not None:
                self._keeper.ask(message, partial(self._observe.send, peer))
            else:
                self._observe.send(peer, no_ledger(message))

    def _own(self) -> OwnCounts:
        keeper, exporter = self._keeper, self._exporter
        return OwnCounts(
            self._frames,
            self._refused,
            self._published,
            keeper.written if keeper is not None else 0,
            keeper.waiting if keeper is not None else 0,
            keeper.bytes if keeper is not None else 0,
            exporter.sent if exporter is not None else None,
            exporter.dropped if exporter is not None else None,
            rate_of(self._life.config.cost, cores(), 0),
        )

    def _trace(self) -> None:
        """Make spans, where that is wanted and can be done."""
        settings, collector = self._life.config.traces, self._collector
        if not settings.endpoint:
            return
        try:
            exporter = Exporter(settings.endpoint)
        except OtelMissing as missing:
            log.error("%s", missing)
            collector.traces_problem = str(missing)
            return
        tracer = Tracer(collector.timelines, settings.sample, exporter.offer)
        collector.on_end = lambda request: tracer.ended(request, self._life.loop.now_ns())
        self._exporter, self._tracer = exporter, tracer

    def _read_ceilings(self) -> None:
        self._collector.ceilings = load_ceilings(ceilings_file())
