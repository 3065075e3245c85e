"""Journals: cut at any byte, damaged, foreign, in a directory that is full; and who may take them."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ingress.journal as journal_module
from bus.messages.requests import TokenLogprobs
from bus.telemetry import Telemetry
from ingress.journal import Journals
from ingress.records import MAGIC, Adopted, Drawn, Foreign, Opening, Record, Said, frame, read
from ingress.streams import Finish, Usage

RESPONSE = "cmpl-0000000000000007"


def opening(response: str = RESPONSE, owner: str = "me") -> Opening:
    return Opening("completions", b"{}", "", owner, 1, response, 2, "fp", (7, 2**63 - 1), (bytes(8),), -5)


RECORDS: list[Record] = [
    Said((b"one",)),
    Drawn(0, (1, 2), (b"two", b"three"), 4, (TokenLogprobs(-1.0), None)),
    Adopted("ingress@1", 5),
    Drawn(1, (), (), 0, (), Finish("stop", Usage(1, 2, 3), "STOP")),
    Said((), last=True),
]


def whole() -> bytes:
    return b"".join(map(frame, [opening(), *RECORDS]))


# --- what is in a file ---------------------------------------------------------------------------------------------


def test_what_was_written_is_read() -> None:
    told = read(whole())
    assert told is not None
    assert (told.opening, told.records, told.length) == (opening(), RECORDS, len(whole()))
    assert told.events == [b"one", b"two", b"three"]
    assert (told.complete, told.adopted, told.strikes) == (True, 1, 0)


def test_its_writer_may_have_died_at_any_byte() -> None:
    """What is read is a beginning of what was written, to the last record that is whole."""
    data = whole()
    ends, at = {}, 0
    for count, record in enumerate([opening(), *RECORDS]):
        at += len(frame(record))
        ends[at] = count
    for cut in range(len(data)):
        told = read(data[:cut])
        length = max((end for end in ends if end <= cut), default=0)
        if not length:
            assert told is None
        else:
            assert told is not None
            assert (told.length, told.records) == (length, RECORDS[: ends[length]])


def test_a_byte_that_is_not_as_it_was_written_is_never_read() -> None:
    data = whole()
    for at in range(len(data)):
        try:
            told = read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        except Foreign:
            continue
        # A length that says more than there is looks like the end of a file whose writer died.
        assert told is None or told.records == RECORDS[: len(told.records)]
        assert told is None or told.length < len(data)


def test_other_files_and_other_releases_are_foreign() -> None:
    body = b"\x92\x63\x01"  # a record of a kind that is not known
    unknown = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    of_another_release = MAGIC[:-2] + b"9\n" + whole()[len(MAGIC) :]
    opened_twice = whole() + frame(opening())[len(MAGIC) :]
    for data in (b"something else", of_another_release, whole() + unknown, opened_twice):
        with pytest.raises(Foreign):
            read(data)


def test_strikes_count_from_the_last_thing_that_was_told() -> None:
    records: list[Record] = [Adopted("a", 1), Said((b"x",)), Adopted("b", 1), Adopted("c", 1)]
    told = read(b"".join(map(frame, [opening(), *records])))
    assert told is not None
    assert (told.adopted, told.strikes) == (3, 2)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr") as run:
        yield Path(run)


def journals(run: Path, name: str = "ingress@0", epoch: int = 1, *, max_open: int = 0) -> Journals:
    return Journals(run, name, epoch, Telemetry(), max_open=max_open)


def die(subject: Journals) -> None:
    """What the kernel does."""
    for fd in subject._open.values():
        os.close(fd)
    subject._open.clear()
    os.close(subject._lock)
    subject._closed = True


def unprotected(subject: Journals) -> dict[str, float]:
    return {
        dict(series.labels)["reason"]: series.value
        for series in subject._telemetry.series()
        if series.name == "headrace_ingress_unprotected_total"
    }


def begin(subject: Journals, response: str = RESPONSE, owner: str = "me") -> journal_module.Journal:
    journal = subject.begin(opening(response, owner))
    for record in RECORDS[:2]:
        journal.write(record)
    return journal


def test_nobody_takes_from_the_living(run: Path) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    begin(first)
    assert second.left() == []
    assert second.find(RESPONSE, "me") is None
    assert second.knows(RESPONSE, "me")
    assert not second.knows(RESPONSE, "you")


def test_one_takes_what_a_dead_one_left_and_goes_on_after_it(run: Path) -> None:
    first, second, third = journals(run), journals(run, "ingress@1"), journals(run, "ingress@2")
    begin(first)
    die(first)
    (path,) = second.left()
    assert third.left() == [path]
    taken = second.take(path)
    assert taken is not None
    assert third.take(path) is None
    assert taken.told.records == RECORDS[:2]
    taken.journal.write(RECORDS[3])
    assert third.left() == []
    die(second)
    again = third.take(third.left()[0])
    assert again is not None
    assert again.told.records == [*RECORDS[:2], Adopted("ingress@1", 1), RECORDS[3]]
    again.journal.drop()
    assert third.left() == []
    assert sorted(os.listdir(run / "streams")) == ["ingress@2.1"]


def test_what_was_torn_is_cut_off_before_more_is_written(run: Path) -> None:
    for cut in range(1, len(frame(RECORDS[1]))):
        first = journals(run)
        begin(first)
        path = run / "streams" / "ingress@0.1" / RESPONSE
        os.truncate(path, path.stat().st_size - cut)
        die(first)
        heir = journals(run, "ingress@0", 2)
        taken = heir.take(heir.left()[0])
        assert taken is not None
        assert taken.told.records == RECORDS[:1]
        taken.journal.write(RECORDS[4])
        told = read((run / "streams" / "ingress@0.2" / RESPONSE).read_bytes())
        assert told is not None
        assert told.records == [RECORDS[0], Adopted("ingress@0", 2), RECORDS[4]]
        taken.journal.drop()
        heir.close()


def test_a_file_is_found_by_its_owner_only_and_by_no_path(run: Path) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    begin(first)
    die(first)
    assert second.find(RESPONSE, "you") is None
    for outside in ("../ingress@0.1/" + RESPONSE, "", ".", "x" * 5000, RESPONSE + "/"):
        assert second.find(outside, "me") is None
        assert not second.knows(outside, "me")
    assert second.find(RESPONSE, "me") is not None


def test_what_cannot_be_read_is_left_alone_and_told_once(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    path = run / "streams" / "ingress@0.1" / RESPONSE
    path.write_bytes(b"headrace stream 9\n")
    die(first)
    for _ in range(3):
        for left in second.left():
            assert second.take(left) is None
    assert path.exists()
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_one_that_told_nothing_is_removed(run: Path) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    (run / "streams" / "ingress@0.1" / RESPONSE).write_bytes(frame(opening())[:30])
    die(first)
    assert second.take(second.left()[0]) is None
    assert second.left() == []
    assert sorted(os.listdir(run / "streams")) == ["ingress@1.1"]


def test_what_was_left_long_ago_is_swept_away(run: Path) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    begin(first)
    die(first)
    directory = run / "streams" / "ingress@0.1"
    os.utime(directory, (time.time() - journal_module.STALE_S - 5,) * 2)
    assert second.left() == []
    assert not directory.exists()


def test_who_ends_leaves_its_files_and_writes_no_more(run: Path) -> None:
    first, second = journals(run), journals(run, "ingress@1")
    kept, dropped = begin(first), begin(first, "cmpl-0000000000000008")
    dropped.drop()
    first.close()
    kept.write(RECORDS[3])
    kept.drop()
    taken = second.take(second.left()[0])
    assert taken is not None
    assert taken.told.records == RECORDS[:2]
    assert first.left() == []


def test_who_ends_with_nothing_leaves_nothing(run: Path) -> None:
    journals(run).close()
    assert os.listdir(run / "streams") == []


# --- limits --------------------------------------------------------------------------------------------------------


def test_few_descriptors_do_for_many_streams(run: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    subject = journals(run, max_open=3)
    names = [f"cmpl-{number:016x}" for number in range(20)]
    open_ones = [subject.begin(opening(name)) for name in names]
    for record in RECORDS[:2]:
        for journal in open_ones:
            journal.write(record)
    assert len(os.listdir("/proc/self/fd")) - before <= 4  # and the lock
    die(subject)
    heir = journals(run, epoch=2)
    taken = [heir.take(path) for path in heir.left()]
    assert sorted(one.told.opening.response for one in taken if one is not None) == names
    assert all(one is not None and one.told.records == RECORDS[:2] for one in taken)


@pytest.mark.parametrize("trouble", ["short", "error"])
def test_a_stream_whose_record_was_not_written_is_not_protected_and_has_no_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """Nobody may go on from before an event that was shown."""
    subject = journals(run)
    journal, other = begin(subject), begin(subject, "cmpl-0000000000000008")
    write = os.write

    def fail(fd: int, data: bytes) -> int:
        if trouble == "error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:-1])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        journal.write(RECORDS[3])
    assert not journal.protected
    assert os.listdir(run / "streams" / "ingress@0.1") == [other.response]
    journal.write(RECORDS[4])
    other.write(RECORDS[3])
    assert other.protected
    assert unprotected(subject) == {"error": 1.0}
    assert "No space left" in caplog.text


def test_the_run_directory_is_not_filled(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BYTES", 1000)
    subject = journals(run)
    journal = begin(subject)
    journal.write(Said((bytes(900),)))
    assert not journal.protected
    other = begin(subject)  # what the first one had is not given back before the next look
    subject.sweep()
    assert begin(subject, "cmpl-0000000000000008").protected
    assert other.protected
    assert unprotected(subject) == {"room": 1.0}


def test_one_stream_does_not_take_it_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_STREAM_BYTES", 500)
    subject = journals(run)
    journal = begin(subject)
    for _ in range(10):
        journal.write(Said((bytes(100),)))
    assert unprotected(subject) == {"size": 1.0}
    assert os.listdir(run / "streams" / "ingress@0.1") == []


def test_without_a_directory_streams_are_served_unprotected(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "streams").write_text("a file in its place")
    subject = journals(run)
    journal = begin(subject)
    assert not journal.protected
    assert subject.left() == []
    assert subject.find(RESPONSE, "me") is None
    assert unprotected(subject) == {"error": 1.0}
    assert len(caplog.records) == 1
    subject.close()


# --- races ---------------------------------------------------------------------------------------------------------

_OWNER = """
import os, sys
from pathlib import Path
from bus.telemetry import Telemetry
from ingress.journal import Journals
run, epoch = Path(sys.argv[1]), int(sys.argv[2])
journals = Journals(run, "ingress@0", epoch, Telemetry())
assert journals._lock >= 0 and (run / "streams" / f"ingress@0.{epoch}").is_dir()
os._exit(0)
"""


def test_whoever_starts_keeps_its_directory_though_others_clear_up(run: Path) -> None:
    """A directory that is not locked yet looks like a dead one's, and an empty one is removed."""
    sweeper = journals(run, "ingress@1")
    processes = [
        subprocess.Popen([sys.executable, "-c", _OWNER, str(run), str(epoch)], cwd=Path(__file__).parents[2])
        for epoch in range(4)
    ]
    while any(process.poll() is None for process in processes):
        sweeper.left()
    assert [process.returncode for process in processes] == [0] * 4
