"""Logs read back: what `bus.logs` and journalctl write, whole, in order, bounded; told where they cannot be."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import logs
from bus.config import LogConfig
from bus.logread import files, journald
from bus.logread.files import FileSource
from bus.logread.journald import JournalSource, command, explain
from bus.logread.query import BadQuery, Query, parse_pattern, parse_request, parse_span
from bus.logread.records import LEVELS, LogRecord, from_journal, from_lines, process_of, request_of

DAY = 86_400.0


def written(style: str, *said: tuple[int, str, dict[str, object]]) -> list[str]:
    """Lines as a process writes them."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs._Json("kv@host") if style == "json" else logs._Text("kv@host", journal=False))
    for level, text, fields in said:
        made_of = {"levelno": level, "levelname": logging.getLevelName(level), "msg": text, **fields}
        record = logging.makeLogRecord(made_of)
        handler.emit(record)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_a_process_writes_is_read_back(style: str) -> None:
    assert LogConfig().format == "auto"
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        failed = (type(error), error, error.__traceback__)
    lines = written(
        style, (logging.INFO, "ready", {}), (logging.ERROR, "a request failed", {"request": "1f", "exc_info": failed}),
        (logging.WARNING, "later", {}),
    )  # fmt: skip
    ready, broken, later = from_lines(lines, "kv@host", time.time())
    assert (ready.level, ready.unit, ready.text, ready.request) == ("info", "kv@host", "ready", "")
    assert (broken.level, broken.text, broken.request) == ("error", "a request failed request=1f", "1f")
    assert broken.more[-1] == "RuntimeError: boom"
    assert later.level == "warning"
    assert abs(ready.at - time.time()) < 60


def test_dates_are_counted_back_over_midnight() -> None:
    noon = time.mktime((2026, 3, 10, 12, 0, 0, 0, 0, -1))
    lines = ["23:59:59.500 I kv@host before", "00:00:01.000 I kv@host after", "12:00:00.000 I kv@host now"]
    before, after, now = from_lines(lines, "kv@host", noon)
    assert (now.at, after.at, before.at) == (noon, noon - DAY / 2 + 1, noon - DAY / 2 - 0.5)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=60), max_size=20))
def test_any_lines_are_read_without_a_fall(lines: list[str]) -> None:
    for record in from_lines(lines, "kv@host", time.time()):
        assert record.level in LEVELS
        assert Query().wants(record)


@given(st.binary(max_size=200))
def test_any_line_of_a_journal_is_a_record_or_none(line: bytes) -> None:
    assert from_journal(line) is None or isinstance(from_journal(line), LogRecord)


def test_a_line_of_the_journal() -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "1700000000500000", "PRIORITY": "4", "MESSAGE": "step late request=1f",
        "_SYSTEMD_UNIT": "headrace-worker@m.0.0.service",
    }  # fmt: skip
    record = from_journal(json.dumps(entry).encode())
    assert record == LogRecord(1_700_000_000.5, "warning", "worker@m.0.0", "step late request=1f", (), "1f")
    octets = from_journal(json.dumps({**entry, "MESSAGE": [104, 255, 105]}).encode())
    assert octets is not None
    assert octets.text == "h\ufffdi"
    dropped = {**entry, "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e", "N_DROPPED": "12"}
    suppressed = from_journal(json.dumps(dropped).encode())
    assert suppressed is not None
    assert suppressed.suppressed == 12
    assert process_of("headrace-kv.service") == "kv@host"


def test_a_request_is_found_by_its_field_only() -> None:
    assert request_of("failed request=9f31a2 step=3") == "9f31a2"
    assert request_of("no such requests=3") == ""


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        (Query(), ["a", "b request=1f", "c"]),
        (Query(unit="worker@"), ["b request=1f"]),
        (Query(level="warning"), ["b request=1f", "c"]),
        (Query(request="1f"), ["b request=1f"]),
        (Query(request="f"), ["b request=1f"]),
        (Query(pattern=parse_pattern("^[AC]$")), ["a", "c"]),
        (Query(pattern=parse_pattern("boom")), ["c"]),
        (Query(since=2.5), ["c"]),
    ],
)
def test_all_that_is_asked_must_fit(query: Query, texts: list[str]) -> None:
    records = [
        LogRecord(1.0, "info", "kv@host", "a"),
        LogRecord(2.0, "warning", "worker@m.0.0", "b request=1f", (), "1f"),
        LogRecord(3.0, "error", "kv@host", "c", ("Boom",)),
    ]
    assert [record.text for record in records if query.wants(record)] == texts


def test_what_cannot_be_looked_for_is_told() -> None:
    with pytest.raises(BadQuery, match="no regular expression"):
        parse_pattern("[")
    with pytest.raises(BadQuery, match="no request id"):
        parse_request("smollm2")
    with pytest.raises(BadQuery, match="30s, 5m"):
        parse_span("soon")
    assert parse_request("chatcmpl-006d18ea135df177") == "6d18ea135df177"
    assert [parse_span(text) for text in ("90", "30s", "5m", "1.5h", "2d")] == [90, 30, 300, 5400, 172_800]


def line(text: str) -> str:
    return time.strftime("%H:%M:%S") + f".000 I kv@host {text}\n"


def test_files_are_followed_over_a_cut_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "kv@host.log"
    path.write_text(line("one") + line("two")[:10])
    source = FileSource(tmp_path)
    assert [record.text for record in source.poll()] == ["one"]
    with path.open("a") as file:
        file.write(line("two")[10:])
    assert [record.text for record in source.poll()] == ["two"]
    assert source.poll() == []
    os.truncate(path, 0)
    with path.open("a") as file:
        file.write(line("three"))
    assert [record.text for record in source.poll()] == ["three"]


def test_more_than_anybody_reads_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEAST_BYTES", 1000)
    path = tmp_path / "kv@host.log"
    path.write_text("".join(line(f"n{n:05}") for n in range(1000)))
    source = FileSource(tmp_path, backlog=1000)
    first = source.poll()
    assert 0 < len(first) < 40
    assert first[-1].text == "n00999"
    with path.open("a") as file:
        file.writelines(line(f"m{n:05}") for n in range(1000))
    assert source.poll()[-1].text == "m00999"


def test_no_files_and_unreadable_ones_are_told(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "none")
    assert source.poll() == []
    assert "is headrace up" in source.problem
    (tmp_path / "kv@host.log").mkdir()
    broken = FileSource(tmp_path)
    assert broken.poll() == []
    assert "kv@host.log" in broken.problem


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "journalctl"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def read_all(source: JournalSource) -> list[LogRecord]:
    records: list[LogRecord] = []
    deadline = time.monotonic() + 20
    while not source.ended and time.monotonic() < deadline:
        records += source.poll()
        time.sleep(0.01)
    return records


def test_a_journal_is_read_to_its_end(tmp_path: Path) -> None:
    entry = json.dumps({"__REALTIME_TIMESTAMP": "1700000000500000", "PRIORITY": "6", "MESSAGE": "hello"})
    source = JournalSource(program(tmp_path, f"for i in 1 2 3; do echo '{entry}'; done; echo nonsense"))
    assert [record.text for record in read_all(source)] == ["hello"] * 3
    assert source.problem == ""


def test_a_journal_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    said = "No journal files were opened due to insufficient permissions."
    source = JournalSource(program(tmp_path, f"echo '{said}' >&2; exit 1"))
    assert read_all(source) == []
    assert "usermod -aG systemd-journal" in source.problem
    missing = JournalSource(["headrace-no-such-program"])
    assert "not installed" in missing.problem
    assert "headrace up writes log files" in explain("Failed to open namespace", 1)


def test_an_unread_journal_waits_and_ends_with_its_reader(tmp_path: Path) -> None:
    source = JournalSource(program(tmp_path, "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"))
    process = source._process
    assert process is not None
    source.poll()
    assert len(source._rest) <= journald.LONGEST_LINE
    source.close()
    assert process.poll() is not None
    assert source.poll() == []


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs journalctl")
def test_the_real_journalctl_takes_our_command_line() -> None:
    source = JournalSource(command(time.time(), follow=False))
    read_all(source)
    assert "unrecognized" not in source.problem
    assert "Invalid" not in source.problem
