"""Who gets in, who may act, and what the audit log says of it: a real process, and visitors under other users."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.actionlog import read_actions
from bus.actionreading import MOST

ADMINS, VIEWERS, STRANGERS, NOBODY = 64_101, 64_102, 64_103, 64_104
ROOT = Path(__file__).parents[2]

SERVER = """
import sys
from bus.config import AdminConfig, Config
from bus.messages.control import Ok, Restart
from bus.process import Description, run_process

class Service:
    def __init__(self, life): self.life = life
    def start(self):
        self.life.ready()
        print("ready", flush=True)
    def describe(self): return Description()
    def drain(self): pass
    def undrain(self): pass
    def drained(self): return True
    def hand_over(self): pass
    def stop(self): pass
    def control(self, message): return Ok(message.rid, "again") if isinstance(message, Restart) else None

sys.exit(run_process("metrics@host", Config(admin=AdminConfig("64101", "64102")), None, Service, loop="poll"))
"""

VISITOR = """
import json, os, sys, time
from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages import control
uid, gid, role, name, questions = *map(int, sys.argv[1:3]), *sys.argv[3:5], json.loads(sys.argv[5])
os.setgroups([]), os.setgid(gid), os.setuid(uid)  # not before the imports: the interpreter may be root's own
loop, answers = PollLoop(), []
me = Visitor(role, loop)
me.name = name or me.name
link = Link(me, "metrics@host", "control", "control", control.FromProcess, on_message=answers.append)
deadline = time.monotonic() + 20
def until(true):
    while not true() and time.monotonic() < deadline: loop.turn(0.05)
until(lambda: link.up or link.refusal)
print("up" if link.up else link.refusal)
for kind, arguments in questions if link.up else ():
    answers.clear()
    link.send(getattr(control, kind)(1, *arguments))
    until(lambda: answers)
    print(type(answers[0]).__name__, getattr(answers[0], "reason", "") or getattr(answers[0], "detail", "")
          or getattr(answers[0], "role", ""))
"""

Visit = Callable[..., list[str]]


@pytest.fixture
def home() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become other users")
    directory = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    for name, mode in (("", 0o711), ("r", 0o711), ("s", 0o700)):
        (directory / name).mkdir(exist_ok=True)
        (directory / name).chmod(mode)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    given = {"HEADRACE_RUN": str(home / "r"), "HEADRACE_STATE": str(home / "s"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **given, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def server(home: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, cwd=home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def visit(home: Path, environment: dict[str, str], server: subprocess.Popen[str]) -> Visit:  # noqa: ARG001
    def go(uid: int, gid: int, *questions: tuple[str, list[object]], role: str = "cli", name: str = "") -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", VISITOR, str(uid), str(gid), role, name, json.dumps(questions)],
            env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return go


def test_an_admin_acts_a_viewer_looks_and_a_stranger_stays_outside(home: Path, visit: Visit) -> None:
    look, act = ("GetStatus", []), ("Drain", ["", 1.0, "for\x1b[31m fun"])
    who = ("GetAccess", [])
    assert visit(NOBODY, ADMINS, who, look, act)[1] == "Access admin"
    answers = visit(STRANGERS, VIEWERS, who, look, act)
    assert answers[:2] == ["up", "Access viewer"]
    assert answers[2].startswith("Status")
    assert answers[3] == "Rejected uid 64103 may look and not act: root and members of group 64101 may"
    (outside,) = visit(STRANGERS, STRANGERS, look)
    assert outside == "forbidden: uid 64103 may not look here; members of group 64102 and group 64101 may"
    done, denied = read_actions(home / "s" / "audit")
    assert (done.uid, done.user, done.verb, done.object) == (NOBODY, "uid 64104", "drain", "metrics@host")
    assert (done.result, done.reason, done.before, done.after) == ("done", "for\x1b[31m fun", "ready", "draining")
    assert (denied.uid, denied.result, denied.verb) == (STRANGERS, "denied", "drain")


@pytest.mark.parametrize("role", ["supervisor", "scheduler"])
def test_an_admin_of_another_user_is_no_process_of_the_stack(visit: Visit, role: str) -> None:
    """Processes' orders are not in the audit log."""
    (outside,) = visit(NOBODY, ADMINS, ("Drain", []), role=role)
    assert outside == "forbidden: user 64104 runs no processes of this stack"


def test_the_second_of_two_operators_is_told_who_was_first(visit: Visit) -> None:
    restart = ("Restart", ["worker@m.0.0"])
    assert visit(NOBODY, ADMINS, restart) == ["up", "Ok again"]
    (_, second) = visit(0, 0, restart)
    assert second.startswith("Ok again; uid 64104 (pid ")
    assert second.endswith(" s ago")
    assert "asked for the same" in second


def test_nobody_pushes_others_out_of_the_log_with_what_is_denied(home: Path, visit: Visit) -> None:
    visit(STRANGERS, VIEWERS, *[("Undrain", [])] * 400)
    visit(0, 0, ("Undrain", []))
    records = read_actions(home / "s" / "audit")
    denied = [record for record in records if record.result == "denied"]
    assert 10 <= len(denied) < 100
    assert records[-1].result == "done"
    assert sum(record.missed for record in records) == 400 - len(denied)


def test_a_full_disk_is_told_and_stops_no_action(home: Path, visit: Visit, server: subprocess.Popen[str]) -> None:
    (home / "s" / "audit").write_text("in the way")
    (_, answer, _) = visit(0, 0, ("Drain", []), ("GetStatus", []))
    assert answer.startswith("Ok draining; not in the audit log: ")
    server.terminate()
    _, said = server.communicate(timeout=20)
    assert "audit: drain metrics@host" in said
    assert "it is in this log only" in said


def test_who_may_not_read_the_audit_log_asks_for_it_at_a_door(home: Path, visit: Visit) -> None:
    """Viewers may; page by page, the newest first."""
    visit(0, 0, *[("Undrain", ["", f"number {n}"]) for n in range(MOST + 5)])
    look = f"""
from pathlib import Path
from bus.actionreading import newest_between
newest, more = newest_between(Path({str(home / "s" / "audit")!r}), 0, 0)
oldest, none = newest_between(Path({str(home / "s" / "audit")!r}), 0, newest[0].at)
print(len(newest), more, newest[-1].reason, len(newest + oldest), none)
"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=ROOT)
    newest, more, *last, together, none = done.stdout.split()
    assert int(newest) <= MOST
    assert (more, last, together, none) == ("True", ["number", str(MOST + 4)], str(MOST + 5), "False")
    answers = visit(STRANGERS, VIEWERS, ("GetActions", []), ("GetActions", [1e12]))
    assert answers[1:] == ["Actions ", "Actions "]
    (outside,) = visit(STRANGERS, STRANGERS, ("GetActions", []))
    assert outside.startswith("forbidden")


def test_what_systemd_was_asked_for_is_written_down_as_the_asker_s(home: Path, visit: Visit) -> None:
    given = ("Witness", ["restart", "worker@m.0.0", "", "is being restarted", "new disk"])
    refused = ("Witness", ["kill", "kv@host", "polkit says no"])
    assert visit(NOBODY, ADMINS, given, refused)[1:] == ["Ok is being restarted", "Rejected polkit says no"]
    assert "asked for the same" in visit(0, 0, given)[1]
    assert visit(STRANGERS, VIEWERS, given)[1].startswith("Rejected uid 64103 may look and not act")
    first, second, third, fourth = read_actions(home / "s" / "audit")
    assert (first.uid, first.verb, first.object, first.reason) == (NOBODY, "restart", "worker@m.0.0", "new disk")
    assert (first.result, first.detail) == ("done", "is being restarted")
    assert (second.verb, second.object, second.result, second.detail) == (
        "kill",
        "kv@host",
        "refused",
        "polkit says no",
    )
    assert (third.uid, fourth.uid, fourth.result) == (0, STRANGERS, "denied")
