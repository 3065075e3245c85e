"""How units end, as they say it themselves: what is a crash, and which is worth a report now."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deploy
from bus.blackbox.crashes import CrashFile
from cli.report.bundle import spare
from cli.supervisor.crashes import AGAIN_S
from cli.systemd.ends import NOTES, End, due, parse, take

RUN = "5c4f" * 8
UNIT = "headrace-worker@smollm2.0.0.service"
TEMPLATES = [
    path
    for path in sorted((Path(deploy.__file__).parent / "systemd" / "units").glob("*.service"))
    if "/run/headrace/ended/%n" in path.read_text()
]


def end(process: str = "kv@host", at: float = 1000.0, result: str = "signal", code: int | None = -11) -> End:
    return End(at=at, unit=f"headrace-{process}.service", process=process, result=result, code=code, invocation=RUN)


@pytest.mark.parametrize(
    ("result", "code", "status", "crash", "cause"),
    [
        ("signal", "killed", "SEGV", True, "killed by SIGSEGV"),
        ("core-dump", "dumped", "ABRT", True, "killed by SIGABRT"),
        ("watchdog", "killed", "ABRT", True, "no progress within WatchdogSec=: killed by SIGABRT"),
        ("oom-kill", "killed", "KILL", True, "out of memory: killed by SIGKILL"),
        ("timeout", "", "", True, "did not start or stop in time"),
        ("exit-code", "exited", "70", True, "exit code 70"),
        ("exit-code", "exited", "69", False, ""),
        ("exit-code", "exited", "75", False, ""),
        ("exit-code", "exited", "78", False, ""),
        ("success", "exited", "0", False, ""),
        ("success", "killed", "TERM", False, ""),
        ("start-limit-hit", "", "", False, ""),
    ],
)
def test_what_the_units_write_is_what_is_read(
    tmp_path: Path, result: str, code: str, status: str, crash: bool, cause: str
) -> None:
    """The very command of each template, run as systemd would, with what systemd would tell it."""
    assert len(TEMPLATES) == 7
    (tmp_path / NOTES).mkdir()
    for template in TEMPLATES:
        text = template.read_text().replace("\\\n", " ")
        (script,) = re.findall(r"^ExecStopPost=/bin/sh -c '(.*)'$", text, re.MULTILINE)
        unit = template.name.replace("@.", "@smollm2.0.0.")
        script = script.replace("%n", unit).replace("$$", "$").replace("/run/headrace", str(tmp_path))
        environment = {"SERVICE_RESULT": result, "INVOCATION_ID": RUN}
        if code:
            environment |= {"EXIT_CODE": code, "EXIT_STATUS": status}
        subprocess.run(["/bin/sh", "-c", script], env=environment, check=True)
    found = take(tmp_path)
    assert [each.unit for each in found] == sorted(
        template.name.replace("@.", "@smollm2.0.0.") for template in TEMPLATES
    ) * crash
    assert all(each.crashed and cause in each.cause and each.invocation == RUN for each in found)
    assert not list((tmp_path / NOTES).iterdir())


@given(st.text(max_size=200))
def test_no_text_is_too_much(text: str) -> None:
    found = parse(text, 1.0)
    assert found is None or found.unit in text
    parse(f"{UNIT} {RUN} signal killed {text}", 1.0)


def test_what_is_no_note_is_taken_all_the_same(tmp_path: Path) -> None:
    """Else systemd would come for it again and again."""
    assert take(tmp_path) == []
    (tmp_path / NOTES).mkdir()
    for name, text in (
        ("a", ""),
        ("b", "\x1b]0;x\x07"),
        ("c", f"headrace-drain.service {RUN} signal killed SEGV"),
        ("d", "x" * 9999),
    ):
        (tmp_path / NOTES / name).write_text(text)
    (tmp_path / NOTES / "e").symlink_to("/nowhere")
    assert take(tmp_path) == []
    assert not list((tmp_path / NOTES).iterdir())


def test_the_first_crash_is_reported_and_its_process_not_again_for_a_minute() -> None:
    rank, other = end("worker@m.0.1", 1000.0), end("worker@m.0.0", 1000.4)
    assert due([other, rank, end("kv@host", 900.0, "exit-code", 75)], []) == rank
    report = CrashFile(1002.0, "worker@m.0.1", Path("x"))
    assert due([rank], [report]) is None
    assert due([other, rank], [report]) == other
    assert due([end("worker@m.0.1", 1002 + AGAIN_S)], [report]) is not None
    assert due([end("worker@m.0.1", 1001.0)], [report]) is None  # while the report was being begun
    assert due([end("worker@m.0.1", 10.0)], [report]) is not None  # the clock was set back
    assert due([], []) is None


@given(
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["kv@host", "worker@m.0.0", "ingress@0"])), unique=True),
    st.integers(0, 12),
)
def test_one_that_crashes_again_and_again_pushes_out_its_own_reports_only(
    reports: list[tuple[int, str]], keep: int
) -> None:
    everything = [CrashFile(at, process, Path(f"/{at}-{process}")) for at, process in reports]
    gone = spare(everything, keep)
    left = [file for file in everything if file not in gone]
    assert len(left) == min(keep, len(everything))
    for process in {file.process for file in everything}:
        its = [file for file in everything if file.process == process]
        mine = [file for file in left if file.process == process]
        assert mine == [file for file in its if file in sorted(its)[len(its) - len(mine) :]]  # the newest of each
        if len(mine) < len(its):  # whoever lost one had as many as anybody
            assert len(mine) + 1 >= max(sum(file.process == other for file in left) for other in
                                        {file.process for file in everything})  # fmt: skip
