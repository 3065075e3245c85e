"""The audit log's file: whole lines only, bounded, readable after anything."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import actionlog
from bus.actionlog import ActionLog, ActionRecord, read_actions
from bus.messages.control import CancelRequest, Drain, LimitValues, SetLimits, Undrain
from bus.orders import REMEMBERED, Firsts


def record(at: float = 1.0, **changes: str) -> ActionRecord:
    fields = {
        "process": "kv@host", "user": "ada", "program": "cli", "verb": "drain", "object": "kv@host", "result": "done",
        **changes,
    }  # fmt: skip
    return ActionRecord(at=at, uid=7, pid=8, **fields)  # type: ignore[arg-type]


def test_what_is_written_is_read_in_order_of_time_over_all_processes(tmp_path: Path) -> None:
    for at, name in ((2.0, "kv@host"), (1.0, "ingress@0"), (3.0, "kv@host")):
        assert ActionLog(name, tmp_path).write(record(at, process=name)) == ""
    assert [(r.at, r.process) for r in read_actions(tmp_path)] == [(1, "ingress@0"), (2, "kv@host"), (3, "kv@host")]
    assert [r.at for r in read_actions(tmp_path, since=2.0)] == [2.0, 3.0]


@given(st.text(max_size=80))
def test_a_record_is_one_line_whatever_is_in_it(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        one = record(reason=text.encode("utf-8", "replace").decode(), detail="x")
        ActionLog("kv@host", Path(directory)).write(one)
        content = (Path(directory) / "kv@host.ndjson").read_bytes()
        assert content.count(b"\n") == 1
        assert read_actions(Path(directory)) == [one]


def test_after_a_line_that_was_cut_off_the_next_is_whole(tmp_path: Path) -> None:
    (tmp_path / "kv@host.ndjson").write_bytes(b'{"at": 1, "proc')
    ActionLog("kv@host", tmp_path).write(record())
    assert read_actions(tmp_path) == [record()]


def test_the_file_is_bounded_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actionlog, "MAX_BYTES", 1000)
    log = ActionLog("kv@host", tmp_path)
    for at in range(100):
        log.write(record(float(at)))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["kv@host.ndjson", *(f"kv@host.ndjson.{n}" for n in range(1, actionlog.KEPT + 1))]
    assert all(path.stat().st_size < 1300 for path in tmp_path.iterdir())
    kept = [r.at for r in read_actions(tmp_path)]
    assert kept == [float(at) for at in range(int(kept[0]), 100)]


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write short as a full disk does."""
    program = (
        "import signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from test_actionlog import record; from bus.actionlog import ActionLog;"
        "log = ActionLog('kv@host', Path(sys.argv[1])); print([log.write(record()) for _ in range(3)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, str(Path(__file__).parent)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)),
    )  # fmt: skip
    first, *others = ast.literal_eval(done.stdout)
    assert first == ""
    assert all(others), done.stdout
    assert read_actions(tmp_path) == [record()]
    assert os.stat(tmp_path / "kv@host.ndjson").st_size < 200


def test_undoing_is_not_asking_for_the_same() -> None:
    firsts = Firsts()
    firsts.note(Drain(1, "worker@m.0.0"), "supervisor@host", "ada", 10.0)
    assert firsts.earlier(Drain(2, "worker@m.0.0"), "supervisor@host", 15.0) == "ada asked for the same 5 s ago"
    assert firsts.earlier(Drain(2, "worker@m.1.0"), "supervisor@host", 15.0) == ""
    firsts.note(Undrain(3, "worker@m.0.0"), "supervisor@host", "bob", 16.0)
    assert firsts.earlier(Drain(4, "worker@m.0.0"), "supervisor@host", 17.0) == ""
    assert firsts.earlier(Undrain(4, "worker@m.0.0"), "supervisor@host", 10_000.0) == ""


def test_who_changes_a_limit_hears_what_it_was_changed_to_before() -> None:
    firsts = Firsts()
    firsts.note(SetLimits(1, LimitValues(slots=4)), "scheduler@m", "ada", 0.0)
    assert firsts.earlier(SetLimits(2, LimitValues(slots=4)), "scheduler@m", 1.0) == "ada asked for the same 1 s ago"
    assert firsts.earlier(SetLimits(2, LimitValues(slots=8)), "scheduler@m", 1.0) == "ada asked for slots=4 1 s ago"


def test_what_is_remembered_is_bounded() -> None:
    firsts = Firsts()
    for number in range(2 * REMEMBERED):
        firsts.note(CancelRequest(1, number), "scheduler@m", "ada", 0.0)
    assert len(firsts._given) == REMEMBERED
