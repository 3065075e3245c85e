"""`headrace blackbox`: recordings of processes that live, ended, or were killed, for people and for programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.blackbox.form import RECEIVED, SENT
from bus.blackbox.reading import Moment
from bus.blackbox.recorder import Recorder
from bus.config import BlackboxConfig
from bus.identity import claim
from bus.messages.requests import Abort, Deltas, Finished, Sampling, Submit
from bus.messages.steps import Reset, SlotOpen, StepPlan, StepResult
from bus.packed import pack_u32, pack_u64
from bus.wire import CHANNELS, Channel, Codec
from cli.blackbox.command import Asked, show
from cli.blackbox.deaths import deaths
from cli.blackbox.entries import Entry, load, told
from cli.blackbox.following import BadRequestId, Follower, request_numbers
from cli.blackbox.telling import line, says

WORKER, SCHEDULER = "worker@toy.0.0", "scheduler@toy"
NONE = b""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_RUN", str(tmp_path))
    return tmp_path


def recorder(run: Path, name: str, epoch: int = 1) -> Recorder:
    return Recorder.open(run, name, epoch, BlackboxConfig(size="256KiB"))


def say(to: Recorder, channel: Channel, peer: str, body: msgspec.Struct, *, sent: bool = True) -> None:
    head, frame = Codec(channel, type(body)).encode(body, peer, 1, 1, 1)
    to.message(SENT if sent else RECEIVED, CHANNELS[channel], peer.encode(), head, frame, body)


def plan(
    step: int, *, closes: tuple[int, ...] = (), opens: tuple[tuple[int, int], ...] = (), rows: tuple[int, ...] = ()
):
    opened = tuple(SlotOpen(slot, request, pack_u32([7]), 1, 0, NONE, NONE, Sampling()) for slot, request in opens)
    ones = pack_u32([1] * len(rows))
    return StepPlan(step, pack_u32(closes), opened, pack_u32(rows), ones, ones, bytes(len(rows)), NONE, NONE, NONE)


def printed(capsys: pytest.CaptureFixture[str], asked: Asked, code: int = 0) -> list[str]:
    assert show(asked) == code
    captured = capsys.readouterr()
    return (captured.err if code else captured.out).splitlines()


def entries(capsys: pytest.CaptureFixture[str], asked: Asked) -> list[Entry]:
    return [msgspec.json.decode(text, type=Entry) for text in printed(capsys, asked._replace(as_json=True))]


# --- one request -----------------------------------------------------------------------------------------------------


def test_a_request_is_followed_through_the_slots_that_it_has(run: Path) -> None:
    with recorder(run, WORKER) as its:
        say(its, "steps", SCHEDULER, plan(1, opens=((0, 111), (3, 222)), rows=(0, 3)), sent=False)
        say(its, "steps", SCHEDULER, StepResult(1, pack_u32([0]), pack_u32([9]), 1, 2))
        say(its, "steps", SCHEDULER, plan(2, closes=(0,), opens=((0, 333),), rows=(0, 3)), sent=False)
        say(its, "steps", SCHEDULER, StepResult(2, pack_u32([0, 3]), pack_u32([9, 9]), 1, 2))
        say(its, "steps", SCHEDULER, Reset(1), sent=False)
        say(its, "steps", SCHEDULER, plan(1, rows=(0, 3)), sent=False)
        say(its, "requests", "ingress@0", Deltas(2, pack_u64([222]), NONE, NONE, NONE, finished=(
            Finished(111, "stop", 1, 0, 0),)))  # fmt: skip
        say(its, "requests", "ingress@0", Abort(333, "client"))
    (recording,) = load(run)
    follower = Follower()
    concerned = [set(follower.concerned(moment)) for moment in recording.moments]
    assert concerned == [{111, 222}, {111}, {111, 333, 222}, {333, 222}, set(), set(), {222, 111}, {333}]
    assert [entry.message for entry in told(recording, requests=[333]).entries] == ["StepPlan", "StepResult", "Abort"]


def test_ids_of_answers_and_numbers_name_a_request() -> None:
    assert request_numbers("chatcmpl-6d18ea135df1772d") == {0x6D18EA135DF1772D}
    assert request_numbers("8566642649639303280") == {8566642649639303280}
    assert request_numbers("1234567890123456") == {1234567890123456, 0x1234567890123456}
    with pytest.raises(BadRequestId, match="chatcmpl-6d18ea135df1772d"):
        request_numbers("the last one")


def test_arrays_that_are_none_are_no_reason_to_stop() -> None:
    moment = Moment(1, 1, "received", message=StepResult(1, b"\x01\x02\x03", b"", 0, 0))
    assert Follower().concerned(moment) == frozenset()


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_processes_are_merged_in_order_of_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recorder(run, WORKER) as one, recorder(run, SCHEDULER) as two:
        say(two, "requests", "ingress@0", Submit(5, bytes(400), Sampling(), 9), sent=False)
        say(two, "steps", WORKER, plan(1, opens=((0, 5),), rows=(0,)))
        say(one, "steps", SCHEDULER, plan(1, opens=((0, 5),), rows=(0,)), sent=False)
        two.line("10:00:00.123 W scheduler@toy something is odd")
        one.state("draining")
    shown = printed(capsys, Asked())
    assert [each.split()[1] for each in shown] == [SCHEDULER, SCHEDULER, WORKER, SCHEDULER, WORKER]
    assert "← ingress@0" in shown[0]
    assert shown[0].endswith("request 5: prompt of 100 tokens, at most 9 more")
    assert shown[1].endswith("step 1: 1 row, 1 token, opens slot 0 for 5")
    assert shown[3].endswith("· log   W something is odd")
    assert shown[4].endswith("· state draining")
    asked = entries(capsys, Asked(name=SCHEDULER))
    assert [(e.kind, e.message, e.requests) for e in asked] == [
        ("received", "Submit", [5]), ("sent", "StepPlan", [5]), ("log", "", []),
    ]  # fmt: skip
    assert asked[0].fields["prompt"] == {"hidden_bytes": 400}
    assert asked[0].hidden
    assert len(printed(capsys, Asked(lines=2))) == 2
    assert len(printed(capsys, Asked(lines=2, since="1h"))) == 5
    assert "nothing that is recorded fits" in printed(capsys, Asked(request="6"), 1)[0]
    assert len(printed(capsys, Asked(request="5"))) == 3


def test_what_a_terminal_would_obey_does_not_get_through() -> None:
    entry = Entry(
        at="2026-01-01T00:00:00+00:00", at_ns=1, process=WORKER, epoch=1, number=1, kind="received",
        peer="\x1b[2Jevil", message="Nack", fields={"detail": "\x1b]0;owned\x07\u202e" + "x" * 100},
    )  # fmt: skip
    shown = line(entry, process=True)
    assert all(character.isprintable() for character in shown)
    assert says(msgspec.structs.replace(entry, fields={}, cut=True)) == "longer than what is kept"


@pytest.mark.parametrize(
    "asked",
    [
        Asked(name="nobody"),
        Asked(since="yesterday"),
        Asked(request="?"),
        Asked(bundle=Path("x"), follow=True),
        Asked(bundle=Path("x"), last_death=True),
    ],
)
def test_questions_that_make_no_sense_are_told_apart(
    run: Path, capsys: pytest.CaptureFixture[str], asked: Asked
) -> None:
    del run
    assert printed(capsys, asked, 2)


def test_incarnations_are_chosen_by_age_and_by_epoch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (41, 42):
        with recorder(run, WORKER, epoch) as its:
            its.state("ready")
    for asked, epoch in ((0, 42), (1, 41), (41, 41)):
        assert {entry.epoch for entry in entries(capsys, Asked(name=WORKER, incarnation=asked))} == {epoch}
    assert "2 incarnations of worker@toy.0.0 are kept" in printed(capsys, Asked(name=WORKER, incarnation=2), 1)[0]
    assert "nothing of kv@host is recorded" in printed(capsys, Asked(name="kv@host"), 1)[0]


# --- deaths ----------------------------------------------------------------------------------------------------------

DYING = """
import os, sys, time
from pathlib import Path
from bus.blackbox.recorder import Recorder
from bus.config import BlackboxConfig
from bus.identity import claim
run = Path(sys.argv[1])
mine = claim(sys.argv[2], run)
its = Recorder.open(run, sys.argv[2], mine.epoch, BlackboxConfig(size="256KiB"))
its.line("10:00:00.000 I x alive")
print("ready", flush=True)
if sys.argv[3] == "exit":
    its.end(int(sys.argv[4]))
else:
    time.sleep(60)
"""


def dying(run: Path, name: str, *how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(run), name, *how], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def living(run: Path) -> Iterator[subprocess.Popen[str]]:
    process = dying(run, "kv@host", "sleep")
    yield process
    process.kill()
    process.communicate()


def test_the_last_death_is_told_from_ends_that_were_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str], living: subprocess.Popen[str]
) -> None:
    dying(run, "metrics@host", "exit", "0").communicate()
    assert "nothing that is recorded here died" in printed(capsys, Asked(last_death=True), 1)[0]
    dying(run, "ingress@0", "exit", "70").communicate()
    killed = dying(run, WORKER, "sleep")
    time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    ends = {end.recording.head.name: (end.how, end.asked) for end in deaths(load(run), [("kv@host", living.pid)])}
    assert ends == {
        "metrics@host": ("exit 0", True),
        "ingress@0": ("exit 70", False),
        WORKER: ("killed: it could say nothing of its end", False),
    }
    shown = printed(capsys, Asked(last_death=True))
    assert shown[0].startswith(f"{WORKER}, epoch ")
    assert "killed" in shown[1]
    assert shown[-1].endswith("I x alive")
    assert "exit 70" in printed(capsys, Asked(name="ingress@0", last_death=True))[1]


def test_the_supervisor_knows_what_the_dead_could_not_say(run: Path) -> None:
    with recorder(run, WORKER) as its:
        its.state("ready")
    with recorder(run, "supervisor@host") as its:
        its.line(f"10:00:00.000 W supervisor@host {WORKER}: ended unexpectedly: killed by SIGKILL unit={WORKER}")
    assert [end.how for end in deaths(load(run), [("supervisor@host", os.getpid())])] == ["killed by SIGKILL"]


def test_follow_goes_on_with_what_comes(run: Path) -> None:
    mine = claim(WORKER, run)
    with recorder(run, WORKER, mine.epoch) as its:
        its.line("10:00:00.000 I worker@toy.0.0 before")
        command = [sys.executable, "-m", "cli.main", "blackbox", WORKER, "--follow"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().endswith("I before\n")
        its.line("10:00:00.000 I worker@toy.0.0 and after")
        assert process.stdout.readline().endswith("I and after\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    mine.release()


def test_other_messages_are_shown_by_their_fields() -> None:
    entry = Entry(
        at="2026-01-01T00:00:00+00:00", at_ns=1, process=SCHEDULER, epoch=1, number=1, kind="sent", message="Accepted",
        fields={"request": 5, "queued": 2, "pages": list(range(9))},
    )  # fmt: skip
    assert says(entry) == "request=5 queued=2 pages=[0, 1, 2, 3, … 9 in all]"
