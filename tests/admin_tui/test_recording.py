"""Recordings: what is written is read back, and a bad file says where."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_tui.keeping import Service
from admin_tui.recording import BadRecording, Recorded, from_line, read, to_line
from admin_tui.replay import ReplayFeed
from admin_tui.world import NO_PAGES, Event, LinkDown, LinkUp, Services, SupervisorGone
from bus.loop import PollLoop
from bus.messages.control import Fleet, UnitStatus
from bus.messages.details import BusReply, HostReply, Memory, ModelsReply, PagesReply, StepsReply
from bus.messages.observe import Snapshot, TimelineReply, Update
from bus.messages.telemetry import TimelineEvent

EVENTS: list[Event] = [
    LinkUp(), LinkDown("died"), SupervisorGone(), Fleet(1, (UnitStatus("kv@host", 5, "ready", 0, 1.5),), "x.toml"),
    Services((Service("kv@host", "headrace-kv.service", "ready", "active (running)", 5, 2, 1.5, 9, 0, "exit 70"),)),
    Snapshot(1, 2, 3, (), (), NO_PAGES, (), 0, ()), Update(3, 4, None, None, NO_PAGES, None, 0, None),
    TimelineReply(0, 9, (TimelineEvent(9, 1, "queued"),)),
    StepsReply(1, 2, ()), BusReply(1, 2, ()), ModelsReply(1, 2, 3, (), ()),
    PagesReply(1, 2, 3, 4, 5, 6, 7, False, 0.5, 0.5, 0.5, 0.5, -1.0, (), (), (), (), b"\x01\x06", b"\xff\x00", 8),
    HostReply(1, 2, "h", "6.1", "cpu", 9.5, (), (), Memory(*range(10)), (0.5, 0.5, 0.5), (), (), ()),
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_what_is_written_is_read_back(event: Event) -> None:
    assert from_line(to_line(Recorded(1.5, event))) == Recorded(1.5, event)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_nothing_else_happens(line: bytes) -> None:
    with contextlib.suppress(BadRecording):
        from_line(line)


def test_a_bad_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_bytes(to_line(Recorded(0.0, LinkUp())) + b'\n{"t": 1, "kind": "update", "body": []}\n')
    with pytest.raises(BadRecording, match=r"bad\.ndjson:3"):
        list(read(path))


def test_a_replay_keeps_time_answers_for_timelines_and_obeys_nobody() -> None:
    loop, got = PollLoop(), []
    recorded = [Recorded(0.0, EVENTS[5]), Recorded(0.2, EVENTS[6]), Recorded(9.0, EVENTS[1]), Recorded(9.0, EVENTS[7])]
    feed = ReplayFeed(recorded, loop)
    feed.start(got.append)
    assert got == [EVENTS[5]]
    while len(got) < 2:
        loop.turn(0.05)
    assert got == [EVENTS[5], EVENTS[6]]
    feed.ask_timeline(9)
    feed.ask_timeline(8)
    assert got[2:] == [EVENTS[7], TimelineReply(0, 8, ())]
    feed.close()


def test_a_replay_answers_a_question_with_what_was_known_at_its_time() -> None:
    recorded = [Recorded(t, StepsReply(0, at, ())) for t, at in ((1.0, 10), (2.0, 20), (90.0, 900))]
    got: list[Event] = []
    feed = ReplayFeed([*recorded, Recorded(2.5, EVENTS[6])])
    feed.ask("steps")  # before it began: nothing is on screen
    feed.start(got.append)
    feed.ask("steps")
    feed.ask("host")  # of which the recording knows nothing
    assert got == [EVENTS[6], StepsReply(0, 20, ())]
