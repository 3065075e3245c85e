"""The flight recorder in real processes: files, incarnations, deaths at any moment, fatal signals."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import logs
from bus.blackbox import files
from bus.blackbox.form import RECEIVED, SENT
from bus.blackbox.reading import Decoder, Moment, Recording
from bus.blackbox.recorder import FRAME_BYTES, NOTHING, Recorder
from bus.config import BlackboxConfig, ConfigError, LogConfig, parse_config
from bus.messages.requests import Accepted, Deltas, Sampling, Submit
from bus.wire import CHANNELS, Codec

REQUESTS = CHANNELS["requests"]
NAME = "scheduler@toy"


def opened(run: Path, epoch: int = 1, **settings: object) -> Recorder:
    recorder = Recorder.open(run, NAME, epoch, msgspec.convert({"size": "64KiB", **settings}, BlackboxConfig))
    assert recorder.on
    return recorder


def read(run: Path, epoch: int = 1) -> Recording:
    path = files.recording_path(files.directory(run), NAME, epoch)
    recording = Decoder().read(path, files.fatal_path(path))
    assert recording is not None
    return recording


def say(recorder: Recorder, body: msgspec.Struct, *, sent: bool = True, seq: int = 1) -> None:
    head, frame = Codec("requests", Submit).encode(body, NAME, 1, seq, 1)
    recorder.message(SENT if sent else RECEIVED, REQUESTS, b"ingress@0", head, frame, body)


def test_messages_and_events_are_read_while_the_process_lives(tmp_path: Path) -> None:
    with opened(tmp_path) as recorder:
        recorder.state("ready")
        say(recorder, Accepted(17, 3), seq=5)
        say(recorder, Submit(17, bytes(400), Sampling(), 8), sent=False)
        recorder.line("I am well")
        recorder.refused(REQUESTS, b"a stranger", 99, "body: nonsense")
        state, accepted, submit, line, refused = read(tmp_path).moments
    assert (state.kind, state.text, line.kind, line.text) == ("state", "ready", "log", "I am well")
    assert (accepted.kind, accepted.type, accepted.peer) == ("sent", "Accepted", "ingress@0")
    assert (accepted.channel, accepted.message) == ("requests", Accepted(17, 3))
    assert accepted.head is not None
    assert accepted.head.seq == 5
    assert not accepted.hidden
    assert (submit.kind, submit.type, submit.hidden) == ("received", "Submit", True)
    assert submit.size > 400 > len(submit.message.prompt)
    assert (refused.kind, refused.size, refused.text) == ("refused", 99, "body: nonsense")
    times = [m.at_ns for m in read(tmp_path).moments]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("r")
    with opened(run) as recorder:
        for seq in range(40):
            say(recorder, Submit(seq, bytes(400), Sampling(), 8), sent=False)
            say(recorder, Accepted(seq, 3), seq=seq)
            recorder.line(f"line {seq}")
    return files.recording_path(files.directory(run), NAME, 1).read_bytes()


@given(st.data())
def test_a_file_that_is_cut_or_damaged_anywhere_is_read_without_an_error(recorded: bytes, data: st.DataObject) -> None:
    broken = bytearray(recorded[: data.draw(st.one_of(st.integers(0, 4200), st.integers(0, len(recorded))))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=6)):
        if at < len(broken):
            broken[at] = value
    recording = Decoder().parse(bytes(broken))
    if recording is None:
        assert broken[:300] != recorded[: min(300, len(broken))] or len(broken) < 300
        return
    whole = Decoder().parse(recorded)
    assert whole is not None
    assert [moment for moment in whole.moments if moment in recording.moments] == recording.moments


def test_content_is_recorded_where_the_configuration_says_so(tmp_path: Path) -> None:
    submit = Submit(17, b"\x01\x02\x03\x04" * 9, Sampling(), 8)
    with opened(tmp_path, content=True) as recorder:
        say(recorder, submit)
    assert read(tmp_path).moments[0].message == submit


def test_a_long_message_is_cut_and_a_flood_leaves_the_events(tmp_path: Path) -> None:
    with opened(tmp_path, content=True) as recorder:
        recorder.line("before the flood")
        for seq in range(100):
            say(recorder, Submit(seq, bytes(3 * FRAME_BYTES), Sampling(), 8))
    moments = read(tmp_path).moments
    assert moments[0].text == "before the flood"
    last = moments[-1]
    assert (last.type, last.cut, last.message) == ("Submit", True, None)
    assert last.size > 3 * FRAME_BYTES
    assert 5 < len(moments) < 20


def test_a_peer_with_an_endless_name_breaks_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as recorder:
        body = Accepted(1, 2)
        head, frame = Codec("requests", Accepted).encode(body, "x" * 70_000, 1, 1)
        recorder.message(RECEIVED, REQUESTS, b"x" * 70_000, head, frame, body)
    (moment,) = read(tmp_path).moments
    assert (moment.message, len(moment.peer), moment.head) == (body, 80, None)


def test_incarnations_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    for epoch in range(5, 12):
        with opened(tmp_path, epoch, incarnations=2) as recorder:
            files.fatal_path(files.recording_path(files.directory(tmp_path), NAME, epoch)).write_text("stacks")
            recorder.end(0)
    assert [(file.name, file.epoch) for file in files.found(files.directory(tmp_path))] == [(NAME, 10), (NAME, 11)]
    assert len(list(files.directory(tmp_path).iterdir())) == 4
    assert read(tmp_path, 11).moments[-1] == Moment(1, read(tmp_path, 11).moments[-1].at_ns, "end", text="exit 0")
    for path in files.directory(tmp_path).iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert files.directory(tmp_path).stat().st_mode & 0o777 == 0o700


def test_recordings_of_names_that_are_gone_for_good_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST", 3)
    for epoch in range(1, 8):
        with Recorder.open(tmp_path, f"scheduler@model-{epoch}", epoch, BlackboxConfig(size="64KiB")):
            pass
    assert sorted(file.epoch for file in files.found(files.directory(tmp_path))) == [5, 6, 7]


def test_without_room_it_works_without_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BlackboxConfig()
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:3], 10, 10, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    recorder = Recorder.open(tmp_path, NAME, 1, config)
    assert not recorder.on
    assert "no flight recorder" in caplog.text
    say(recorder, Accepted(1, 2))
    recorder.line("nothing happens")
    recorder.close()
    assert not list(files.directory(tmp_path).iterdir())
    assert not Recorder.open(tmp_path, NAME, 1, BlackboxConfig(size="0")).on


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"blackbox\.size: '1KiB' is not from 64KiB"):
        parse_config('[blackbox]\nsize = "1KiB"', "x.toml")
    assert parse_config('[blackbox]\nsize = "0"', "x.toml").blackbox.size == "0"


def test_log_lines_are_recorded_with_their_tracebacks(tmp_path: Path) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with opened(tmp_path) as recorder:
            logs.set_up(NAME, LogConfig())
            logs.record(recorder, NAME)
            try:
                raise RuntimeError("the " + "very " * 5000 + "end")
            except RuntimeError:
                logging.getLogger("x").exception("it broke", extra={"peer": "kv@host"})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (moment,) = read(tmp_path).moments
    assert "E scheduler@toy it broke peer=kv@host" in moment.text
    assert moment.text.endswith("very end")
    assert "\n…\n" in moment.text
    logs.record(NOTHING, NAME)
    assert root.handlers == handlers


WRITER = """
import sys
from pathlib import Path
from bus.blackbox.form import SENT
from bus.blackbox.recorder import Recorder
from bus.config import BlackboxConfig
from bus.messages.requests import Deltas
from bus.wire import CHANNELS, Codec

recorder = Recorder.open(Path(sys.argv[1]), "scheduler@toy", int(sys.argv[2]), BlackboxConfig(size="64KiB"))
codec = Codec("requests", Deltas)
step = 0
while True:
    step += 1
    if step == 200:
        print("begun", flush=True)
    body = Deltas(step, b"r" * (step * 7 % 900), b"", b"", b"t" * 40)
    head, frame = codec.encode(body, "scheduler@toy", 1, step, 1)
    recorder.message(SENT, CHANNELS["requests"], b"ingress@0", head, frame, body)
    if step % 50 == 0:
        recorder.line(f"step {step}")
"""


def test_a_writer_that_is_killed_at_random_moments_leaves_what_it_wrote(tmp_path: Path) -> None:
    chance, seen = random.Random(5), 0
    for epoch in range(1, 13):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(epoch)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(chance.uniform(0.0, 0.05))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        recording = read(tmp_path, epoch)
        seen += len(recording.moments)
        assert recording.head.pid == process.pid
        messages = [moment for moment in recording.moments if moment.kind == "sent"]
        numbers = [moment.number for moment in messages]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        for moment in messages:
            assert isinstance(moment.message, Deltas)
            assert moment.message.step == moment.number
            assert moment.message.requests == b"r" * (moment.number * 7 % 900)
        lines = [moment.text for moment in recording.moments if moment.kind == "log"]
        steps = [int(line.split()[1]) for line in lines]
        assert steps == list(range(steps[0], steps[0] + 50 * len(steps), 50))
        assert numbers[-1] - 50 <= steps[-1] <= numbers[-1]
    assert seen > 12 * 50


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_stacks_at_a_fatal_signal_are_beside_the_recording(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bus.blackbox.recorder import Recorder;"
        "from bus.config import BlackboxConfig;"
        "r = Recorder.open(Path(sys.argv[1]), 'scheduler@toy', 1, BlackboxConfig(size='64KiB'));"
        "r.line('last words'); os.kill(os.getpid(), int(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(int(number))], capture_output=True, text=True)
    assert done.returncode == -number
    recording = read(tmp_path)
    assert "Fatal Python error" in recording.fatal
    assert 'File "<string>", line 1 in <module>' in recording.fatal
    assert recording.moments[-1].text == "last words"
