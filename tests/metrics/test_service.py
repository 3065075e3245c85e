"""The real process on real sockets, with a scripted publisher and a scripted observer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.details import (
    BusReply,
    GetBus,
    GetHost,
    GetModels,
    GetPages,
    GetSteps,
    HostReply,
    ModelsReply,
    PagesReply,
    StepsReply,
)
from bus.messages.observe import (
    Exposition,
    GetExposition,
    GetSnapshot,
    GetTimeline,
    Snapshot,
    TimelineReply,
    ToObserver,
    Update,
)
from bus.messages.telemetry import Sample, Series, Timeline, TimelineEvent
from bus.messages.vitals import PagesView, SchedulerView, StepLine, Steps
from bus.names import FEED_DOOR, METRICS, OBSERVE_DOOR, TELEMETRY_DOOR, ipc, socket_path
from bus.wire import Codec

pytestmark = pytest.mark.system

SCHEDULER = "scheduler@m"
RUN_METRICS = """
import sys
from bus.config import Config
from metrics.main import main
sys.exit(main("metrics@host", Config(), None))
"""


class Stack:
    """A metrics process, and the test's own sockets to it."""

    def __init__(self, run: Path) -> None:
        self.run, self.loop = run, PollLoop()
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_METRICS], env={**os.environ, "HEADRACE_RUN": str(run)}
        )
        self.me = Visitor("cli", self.loop, run)
        self.received: list[Any] = []
        self.publisher = self.me.context.socket(zmq.PUB)
        self.publisher.connect(ipc(socket_path(METRICS, TELEMETRY_DOOR, run)))
        self.feed = self.me.context.socket(zmq.SUB)
        self.feed.subscribe(b"")
        self.feed.connect(ipc(socket_path(METRICS, FEED_DOOR, run)))
        self.link: Link[Any] = Link(
            self.me, METRICS, OBSERVE_DOOR, "observe", ToObserver, on_message=self.received.append
        )
        self.codec: Codec[Any] = Codec("telemetry", Sample)

    def publish(self, body: Any, source: str = SCHEDULER, epoch: int = 1) -> None:
        self.publisher.send_multipart(self.codec.encode(body, source, epoch, 1))

    def until(self, true: Callable[[], bool], each: Callable[[], None] = lambda: None) -> None:
        """Turn the loop until it is true; the deadline only stops a test that fails."""
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, "never became true"
            each()
            self.loop.turn(0.05)

    def ask(self, question: Any, kind: type) -> Any:
        self.received.clear()
        self.until(lambda: self.link.up)
        assert self.link.send(question)
        self.until(lambda: any(isinstance(m, kind) and m.rid == question.rid for m in self.received))
        return next(m for m in self.received if isinstance(m, kind))

    def samples(self, tokens: int) -> dict[str, float]:
        """The exposition's values by sample name, once it has `tokens` output tokens."""
        while True:
            text = self.ask(GetExposition(3), Exposition).text.decode()
            values = {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples}
            if values.get("headrace_output_tokens_total") == tokens:
                return values
            self.publish(sample(tokens))
            self.loop.turn(0.05)

    def close(self) -> None:
        self.link.close()
        self.process.terminate()
        assert self.process.wait(20) == 0
        self.publisher.close(linger=0)
        self.feed.close(linger=0)


def sample(tokens: int, epoch: int = 1) -> Sample:
    series = (
        Series("headrace_replicas", "gauge", (("model", "m"),), 1),
        Series("headrace_output_tokens_total", "counter", (("model", "m"),), tokens),
    )
    return Sample(SCHEDULER, "scheduler", os.getpid(), epoch, "ready", 0, 0, False, 0.0, 0, series)


@pytest.fixture
def stack() -> Iterator[Stack]:
    run = Path(tempfile.mkdtemp(prefix="hr-m-", dir="/tmp"))
    stack = Stack(run)
    try:
        yield stack
        stack.close()
    finally:
        stack.process.kill()
        shutil.rmtree(run, ignore_errors=True)


def test_what_is_published_can_be_asked_for(stack: Stack) -> None:
    values = stack.samples(tokens=40)
    assert values["headrace_metrics_malformed_frames_total"] == 0
    events = (
        TimelineEvent(7, 10, "queued"),
        TimelineEvent(7, 5, "submitted"),
        TimelineEvent(7, 30, "finished", 2, 0, "stop"),
    )
    stack.publish(Timeline(SCHEDULER, events))
    stack.until(lambda: len(stack.ask(GetTimeline(4, 7), TimelineReply).events) == 3)
    reply = stack.ask(GetTimeline(5, 7), TimelineReply)
    assert [event.kind for event in reply.events] == ["submitted", "queued", "finished"]
    assert stack.ask(GetTimeline(6, 8), TimelineReply).events == ()
    stack.until(lambda: bool(stack.ask(GetSnapshot(7), Snapshot).recent))

    def known() -> set[str]:
        return {process.name for process in stack.ask(GetSnapshot(8), Snapshot).processes}

    stack.until(lambda: known() == {SCHEDULER, METRICS})  # it hears of itself at its own next beat
    snapshot = stack.ask(GetSnapshot(9), Snapshot)
    assert [model.model for model in snapshot.models] == ["m"]
    assert snapshot.recent[0].request == 7


def test_malformed_and_false_frames_are_counted_and_nobody_is_disturbed(stack: Stack) -> None:
    stack.samples(tokens=1)
    stack.publisher.send_multipart([b"garbage"])
    stack.publisher.send_multipart([b"garbage", b"\xc1"])
    stack.publish(sample(1), source="kv@host")
    stack.publish(sample(1), epoch=9)
    assert stack.samples(tokens=2)["headrace_metrics_malformed_frames_total"] == 4


def test_the_feed_goes_on_from_a_snapshot(stack: Stack) -> None:
    """No gap between the snapshot's sequence number and the updates after it."""
    codec: Codec[Update] = Codec("observe", Update)
    updates: list[Update] = []

    def take() -> None:
        while stack.feed.poll(0):
            header, update = codec.decode(stack.feed.recv_multipart())
            assert header.source == METRICS
            assert header.seq == update.seq
            updates.append(update)

    stack.until(lambda: bool(updates), take)
    snapshot = stack.ask(GetSnapshot(1), Snapshot)
    stack.until(lambda: updates[-1].seq >= snapshot.seq + 3, take)
    sequence = [update.seq for update in updates]
    assert sequence == list(range(sequence[0], sequence[-1] + 1))
    assert sequence[0] <= snapshot.seq + 1


def test_a_restarted_publisher_adds_to_its_totals(stack: Stack) -> None:
    stack.samples(tokens=10)
    stack.publish(sample(5, epoch=2), epoch=2)
    stack.until(lambda: b"headrace_output_tokens_total" in stack.ask(GetExposition(1), Exposition).text)
    stack.until(lambda: b'model="m"} 15.0' in stack.ask(GetExposition(2), Exposition).text)


def test_details_are_answered_with_what_processes_said_and_what_the_machine_is(stack: Stack) -> None:
    stack.samples(tokens=1)
    line = StepLine(0, 9, 1, 2, 3, 4, 5, 6, 7, 1, 1, 0, 0, (), 2, 0, "slots")

    def say() -> None:
        stack.publish(Steps(SCHEDULER, "m", 9, (line,)))
        stack.publish(SchedulerView(SCHEDULER, "m", 16, (), (), (), ()))
        stack.publish(PagesView("kv@host", 64, 32, 2, 1, (), (), b"\x00\x01", b"\x00\xff", 32, False), "kv@host")
        stack.loop.turn(0.05)

    say()
    while not stack.ask(GetPages(1), PagesReply).heard_ns or not stack.ask(GetSteps(2), StepsReply).models:
        say()
    (steps,) = stack.ask(GetSteps(3, "m"), StepsReply).models
    assert (steps.model, steps.scheduler, steps.bounds[0].bound, steps.lines[-1]) == ("m", SCHEDULER, "slots", line)
    assert stack.ask(GetSteps(4, "another"), StepsReply).models == ()
    pages = stack.ask(GetPages(5), PagesReply)
    assert (pages.arena_bytes, pages.map, pages.map_used) == (64, b"\x00\x01", b"\x00\xff")
    host = stack.ask(GetHost(6), HostReply)
    assert len(host.cores) == os.cpu_count()
    assert host.memory.arena == 64
    assert SCHEDULER in {name for core in host.cores for name in core.running}  # it gave our pid
    stack.until(lambda: len(stack.ask(GetBus(7), BusReply).endpoints) == 4)
    doors = {(each.owner, each.door.door): each for each in stack.ask(GetBus(8), BusReply).endpoints}
    assert doors.keys() == {(METRICS, name) for name in ("control", "observe", "telemetry", "feed")}
    models = stack.ask(GetModels(9), ModelsReply)
    assert [model.model for model in models.models] == ["smollm2"]  # the configuration's, though nobody serves it
    assert models.memory_bytes == host.memory.total
    assert sum(row.bytes for row in models.sheet) == models.memory_bytes
