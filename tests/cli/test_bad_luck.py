"""What goes wrong around a stack, and ends well: stale files, twins, limits, other releases, lost directories."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

NAMES = {"kv@host", "metrics@host", "batch@host", "scheduler@toy", "worker@toy.0.0", "worker@toy.0.1", "ingress@0"}
COMMAND = [sys.executable, "-m", "cli.main"]


def test_a_second_up_at_the_same_moment_finds_the_first(host) -> None:
    ups = [
        subprocess.Popen([*COMMAND, "up", "--detach"], env=host.environment, cwd=host.home, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for up in ups:
        _, errors = up.communicate(timeout=120)
        assert up.returncode == 0, errors
    assert len(host.survivors()) == len(NAMES) + 1
    assert host.log("supervisor@host").count("supervisor@host starting") == 1, "the other had no name to start under"


@pytest.mark.parametrize("name", ["kv@host", "supervisor@host", "ingress@0"])
def test_a_twin_started_by_mistake_is_told_who_has_the_name(host, name: str) -> None:
    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    twin = host.headrace("run", name)
    assert twin.returncode == 75
    assert f"{name} is running already (pid {host.pid(name)}) in {host.run}" in twin.stderr
    assert "HEADRACE_RUN" in twin.stderr
    assert {name: host.pid(name) for name in NAMES} == before


def test_after_a_kill_of_everything_up_works_at_once(host, waiting) -> None:
    assert host.up().returncode == 0
    host.kill("supervisor@host")  # first: it would end the other rank of a dead one, and start them again
    for name in NAMES:
        host.kill(name)
    waiting(lambda: not host.survivors(), "all are gone")
    assert list(host.run.glob("*.sock")), "what they left"
    assert host.headrace("status").returncode == 1
    up = host.up()
    assert up.returncode == 0, up.stderr
    assert len(host.survivors()) == len(NAMES) + 1
    assert all(process.restarts == 0 for process in host.status().values()), "nothing had to be tried twice"


def test_a_run_directory_that_is_deleted_is_made_again_and_everything_with_it(host, waiting) -> None:
    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    supervisor = host.pid("supervisor@host")
    shutil.rmtree(host.run)
    waiting(lambda: set(host.status()) >= NAMES | {"supervisor@host"}, "they are back", 90)
    waiting(lambda: {p.state for p in host.status().values()} == {"ready"}, "and ready", 60)
    assert host.pid("supervisor@host") == supervisor
    assert not [name for name in NAMES if host.pid(name) == before[name]]
    assert not [pid for pid in before.values() if Path(f"/proc/{pid}").exists()], "nobody is left behind"
    assert "was deleted" in host.log("supervisor@host")


def test_a_run_directory_whose_path_is_too_long_is_refused(host) -> None:
    longer = str(host.home / ("x" * 90))
    for command in (["up"], ["run", "kv@host"]):
        done = subprocess.run(
            [*COMMAND, *command], env={**host.environment, "HEADRACE_RUN": longer, "HEADRACE_MODELS": "/tmp"},
            cwd=host.home, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 78, done.stderr
        assert "bytes longer than the 107 that a Unix socket's can have; set HEADRACE_RUN" in done.stderr


@pytest.mark.parametrize("name", ["kv@host", "supervisor@host"])
def test_a_run_directory_that_has_no_room_left_is_said(host, name: str) -> None:
    """A limit of 0 bytes for files stands for a disk of which none is left: the same calls fail."""
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *COMMAND, "run", name, "-c", "headrace.toml"],
        env=host.environment, cwd=host.home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert f"cannot take the name {name} in {host.run}: File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stack_goes_on_where_neither_its_logs_nor_its_state_can_be_written(host, waiting) -> None:
    logs = host.home / "s" / "log"
    logs.mkdir(parents=True)
    for name in NAMES | {"supervisor@host"}:
        (logs / f"{name}.log").symlink_to("/dev/full")
    (logs / "worker@toy.0.1.log").unlink()
    (logs / "worker@toy.0.1.log").mkdir()  # not even opened
    (host.run / "supervisor.json" / "in the way").mkdir(parents=True)
    up = host.up()
    assert up.returncode == 0, up.stderr
    before = host.kill("kv@host")
    waiting(lambda: host.pid("kv@host") not in (0, before), "it is started again")
    assert host.headrace("restart", "worker@toy.0.0").returncode == 0
    assert {process.state for process in host.status().values()} == {"ready"}
    assert host.headrace("down").returncode == 0
    assert not host.survivors()


def test_a_soft_limit_of_open_files_is_raised(host) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -Sn 128; exec "$@"', "sh", *COMMAND, "up", "--detach"],
        env=host.environment, cwd=host.home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert limited.returncode == 0, limited.stderr
    limits = Path(f"/proc/{host.pid('metrics@host')}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3] == str(hard)


def test_down_ends_a_stack_that_it_cannot_talk_to(host, waiting) -> None:
    host.environment["PYTHONPATH"] = f"{Path(__file__).parents[1] / 'releases'}:{host.environment['PYTHONPATH']}"
    assert host.up().returncode == 0
    host.environment["HEADRACE_TEST_RELEASE"] = '{"build": "10.0.0", "protocols": [7, 8]}'
    status = host.headrace("status")
    assert "use headrace" in status.stdout
    began = time.monotonic()
    down = host.headrace("down")
    assert down.returncode == 0, down.stderr
    assert "no protocol in common" in down.stderr
    assert time.monotonic() - began < 30
    waiting(lambda: not host.survivors(), "everything is gone")
