"""The supervisor with real processes: kv and metrics as they are, the roles that need a model as stand-ins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytestmark = pytest.mark.system

NAMES = {"kv@host", "metrics@host", "batch@host", "scheduler@toy", "worker@toy.0.0", "worker@toy.0.1", "ingress@0"}


def arena_of(pid: int) -> int:
    """Inode of the arena that a process holds; 0 where it holds none."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(entry).startswith("/memfd:headrace-arena"):
            return entry.stat().st_ino
    return 0


def states(host) -> dict[str, str]:
    return {name: process.state for name, process in host.status().items()}


def test_up_starts_everything_and_down_leaves_nothing(host, waiting) -> None:
    up = host.up()
    assert up.returncode == 0, up.stderr
    assert "curl http://127.0.0.1:1/v1/chat/completions" in up.stderr
    assert states(host) == dict.fromkeys(NAMES | {"supervisor@host"}, "ready")
    assert len(host.survivors()) == 8
    told = msgspec.json.decode(host.headrace("status", "--json").stdout)
    assert {process["name"] for process in told["processes"]} == NAMES | {"supervisor@host"}
    fields = {
        "name", "role", "pid", "state", "epoch", "uptime_s", "load", "restarts", "detail", "last_exit", "build",
        "troubles", "live",
    }  # fmt: skip
    assert all(set(process) == fields for process in told["processes"])
    assert told["models"] == []

    down = host.headrace("down")
    assert down.returncode == 0, down.stderr
    waiting(lambda: not host.survivors(), "everything is gone")
    assert host.headrace("status").returncode == 1
    assert host.headrace("down").returncode == 0, "nothing to stop is no failure"


def test_a_killed_process_comes_back_and_kv_finds_its_arena_again(host, waiting) -> None:
    assert host.up().returncode == 0
    arena = arena_of(host.pid("supervisor@host"))
    assert arena
    before = host.kill("kv@host")
    waiting(lambda: host.status()["kv@host"].pid not in (0, before), "kv is back")
    waiting(lambda: states(host)["kv@host"] == "ready", "kv is ready")
    assert arena_of(host.pid("kv@host")) == arena
    assert host.status()["kv@host"].restarts == 1
    assert "SIGKILL" in host.log("supervisor@host")


def test_ranks_restart_together(host, waiting) -> None:
    assert host.up().returncode == 0
    ranks = ("worker@toy.0.0", "worker@toy.0.1")
    before = {name: host.pid(name) for name in ranks}
    host.kill("worker@toy.0.1")
    waiting(lambda: all(host.status()[name].restarts == 1 for name in ranks), "both were restarted")
    waiting(lambda: all(states(host)[name] == "ready" for name in ranks), "both are ready")
    assert all(host.pid(name) != before[name] for name in ranks)


def test_processes_outlive_the_supervisor_and_the_next_one_adopts_them(host, waiting) -> None:
    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    arena = arena_of(before["kv@host"])
    host.kill("supervisor@host")
    waiting(lambda: "supervisor@host" not in host.status(), "the supervisor is gone")
    assert states(host) == dict.fromkeys(NAMES, "ready"), "status needs no supervisor"
    killed = host.kill("kv@host")  # and with it one holder of the arena
    waiting(lambda: "kv@host" not in host.status(), "kv is gone, and nobody restarts it")

    assert host.up().returncode == 0
    after = {name: host.pid(name) for name in NAMES}
    assert {name for name in NAMES if after[name] != before[name]} == {"kv@host"}
    assert after["kv@host"] != killed
    # No stand-in maps the arena, so with kv and the supervisor gone it is lost, and kv gets a new one.
    assert arena_of(after["kv@host"]) not in (0, arena)

    arena = arena_of(after["kv@host"])
    host.kill("supervisor@host")
    waiting(lambda: "supervisor@host" not in host.status(), "the supervisor is gone")
    assert host.up().returncode == 0
    assert host.pid("kv@host") == after["kv@host"]
    assert arena_of(host.pid("supervisor@host")) == arena, "recovered from kv, which lives"

    host.kill("worker@toy.0.0")
    waiting(lambda: host.status()["worker@toy.0.1"].restarts >= 1, "adopted processes are watched")


def test_a_second_up_looks_on_and_one_with_another_configuration_is_refused(host) -> None:
    assert host.up().returncode == 0
    before = host.pid("supervisor@host")
    again = host.up()
    assert again.returncode == 0
    assert "runs here already" in again.stderr
    text = (host.home / "headrace.toml").read_text()
    (host.home / "other.toml").write_text(text.replace("64MiB", "96MiB"))
    other = host.up("other.toml")
    assert other.returncode == 1
    assert "kv@host" in other.stderr
    assert "ingress@0" not in other.stderr
    assert host.pid("supervisor@host") == before


def test_a_configuration_broken_while_it_runs_does_not_break_recovery(host, waiting) -> None:
    assert host.up().returncode == 0
    (host.home / "headrace.toml").write_text("[broken")
    host.kill("metrics@host")
    waiting(lambda: host.status()["metrics@host"].restarts == 1, "it was restarted")
    waiting(lambda: states(host)["metrics@host"] == "ready", "from the copy of the configuration")


def test_up_says_what_failed_with_its_last_words(host) -> None:
    host.tell("ingress@0", "exit", "78")
    up = host.up()
    assert up.returncode == 1
    assert "ingress@0 failed: exit code 78 (bad configuration)" in up.stderr
    assert "told to by a file" in up.stderr
    assert states(host)["ingress@0"] == "failed"

    (host.run / "ingress@0.exit").unlink()
    restarted = host.headrace("restart", "ingress@0")
    assert restarted.returncode == 0, restarted.stderr
    assert states(host)["ingress@0"] == "ready"


def test_drain_waits_for_work_in_hand_and_undrain_takes_it_back(host) -> None:
    assert host.up().returncode == 0
    busy = host.tell("ingress@0", "busy")
    drained = host.headrace("drain", "ingress@0", "--deadline", "1")
    assert drained.returncode == 1
    assert "still has work in hand" in drained.stderr
    assert states(host)["ingress@0"] == "draining"
    busy.unlink()
    assert host.headrace("drain", "ingress@0").returncode == 0
    assert host.headrace("undrain", "ingress@0").returncode == 0
    assert states(host)["ingress@0"] == "ready"
    unknown = host.headrace("drain", "ingress@7")
    assert unknown.returncode == 1
    assert "there are kv@host" in unknown.stderr


def test_a_worker_that_is_alone_hands_on_what_it_has_and_is_restarted_at_once(host) -> None:
    assert host.up().returncode == 0
    before = host.pid("worker@toy.0.0")
    busy = [host.tell(f"worker@toy.0.{rank}", "busy") for rank in (0, 1)]
    restarted = host.headrace("restart", "worker@toy.0.0")
    assert restarted.returncode == 0, restarted.stderr
    assert not any(file.exists() for file in busy), "handed on"
    assert host.pid("worker@toy.0.0") != before


def test_restart_of_a_worker_waits_until_it_is_idle_where_another_replica_serves(host, waiting) -> None:
    path = host.home / "headrace.toml"
    path.write_text(path.read_text() + "replicas = 2\n")
    assert host.up().returncode == 0
    before = host.pid("worker@toy.1.0")
    busy = [host.tell(f"worker@toy.1.{rank}", "busy") for rank in (0, 1)]
    asked = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "restart", "worker@toy.1.0"],
        env=host.environment, cwd=host.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    waiting(lambda: states(host)["worker@toy.1.0"] == "draining", "it drains")
    assert host.pid("worker@toy.1.0") == before
    for file in busy:
        file.unlink()
    _, err = asked.communicate(timeout=60)
    assert asked.returncode == 0, err
    assert host.pid("worker@toy.1.0") != before


def test_down_ends_what_a_dead_supervisor_left(host, waiting) -> None:
    assert host.up().returncode == 0
    host.kill("supervisor@host")
    waiting(lambda: "supervisor@host" not in host.status(), "the supervisor is gone")
    down = host.headrace("down")
    assert down.returncode == 0
    assert "no supervisor runs here" in down.stderr
    waiting(lambda: not host.survivors(), "everything is gone")


def test_the_foreground_shows_what_processes_say_and_a_signal_stops_everything(host, waiting) -> None:
    shown = host.home / "shown"
    with shown.open("w") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up"], env=host.environment, cwd=host.home, stdout=out, stderr=out
        )
    waiting(lambda: "headrace top" in shown.read_text(), "it is ready, and says what to do next", 60)
    host.kill("metrics@host")
    waiting(lambda: "metrics@host: ended unexpectedly: killed by SIGKILL" in shown.read_text(), "it shows the logs")
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=60) == 0, shown.read_text()
    assert "draining" in shown.read_text()
    assert not host.survivors()


def test_a_signal_to_the_supervisor_stops_everything_and_drain_does_not(host, waiting) -> None:
    assert host.up().returncode == 0
    host.headrace("drain", "supervisor@host", "--no-wait")
    assert host.headrace("undrain", "supervisor@host").returncode == 0
    assert states(host) == dict.fromkeys(NAMES | {"supervisor@host"}, "ready")
    busy = host.tell("ingress@0", "busy")
    host.kill("supervisor@host", signal.SIGTERM)
    waiting(lambda: states(host)["ingress@0"] == "draining", "those in front drain")
    assert states(host)["kv@host"] == "ready", "those behind them wait"
    busy.unlink()
    waiting(lambda: not host.survivors(), "everything is gone")
    assert "exit 0" in host.log("supervisor@host")


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_and_comes_back(host, waiting) -> None:
    assert host.up().returncode == 0
    before = host.kill("metrics@host", signal.SIGSTOP)
    waiting(lambda: host.pid("metrics@host") != before, "it was replaced", 90)
    waiting(lambda: states(host)["metrics@host"] == "ready", "and is ready")
    assert "metrics@host: does not answer any more" in host.log("supervisor@host")


def test_a_model_that_is_not_there_is_said_before_anything_starts(host) -> None:
    (host.home / "headrace.toml").write_text('[[model]]\nname = "a"\nsource = "catalog:smollm2-135m-instruct"\n')
    up = host.up()
    assert up.returncode == 78
    assert "headrace pull smollm2-135m-instruct" in up.stderr
    assert not list(host.run.glob("*.lock"))


def test_an_arena_that_cannot_fit_is_said(host) -> None:
    text = (host.home / "headrace.toml").read_text()
    (host.home / "headrace.toml").write_text(text.replace("64MiB", "900TiB"))
    up = host.up()
    assert up.returncode == 1
    assert "[kv] arena: 943718400 MiB do not fit: " in up.stderr


def test_the_supervisor_goes_on_as_another_program_with_its_children_and_its_arena(host, waiting) -> None:
    assert host.up().returncode == 0
    pid, arena = host.pid("supervisor@host"), arena_of(host.pid("supervisor@host"))
    host.headrace("drain", "ingress@0")
    before = {name: host.pid(name) for name in NAMES}
    restarted = host.headrace("restart", "supervisor@host")
    assert restarted.returncode == 0, restarted.stderr
    assert host.pid("supervisor@host") == pid, "it is the same process"
    assert arena_of(pid) == arena
    assert {name: host.pid(name) for name in NAMES} == before
    host.kill("ingress@0")
    waiting(lambda: host.status()["ingress@0"].restarts == 1, "it watches them")
    assert "ended unexpectedly: killed by SIGKILL" in host.log("supervisor@host"), "exit codes are known"
    waiting(lambda: states(host)["ingress@0"] == "draining", "what was drained by hand stays drained")
    host.kill("kv@host")
    waiting(lambda: host.status()["kv@host"].restarts == 1, "kv was restarted")
    waiting(lambda: states(host)["kv@host"] == "ready", "kv is back")
    assert arena_of(host.pid("kv@host")) == arena
    assert host.headrace("down").returncode == 0
    assert not host.survivors()


def test_everything_is_restarted_one_after_the_other(host) -> None:
    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    arena = arena_of(host.pid("supervisor@host"))
    rolled = host.headrace("restart", "--all", "--json")
    assert rolled.returncode == 0, rolled.stderr
    told = msgspec.json.decode(rolled.stdout)
    assert [done["name"] for done in told["restarted"]] == [
        "supervisor@host", "kv@host", "metrics@host", "scheduler@toy", "worker@toy.0.0", "worker@toy.0.1", "ingress@0",
        "batch@host",
    ]  # fmt: skip
    assert (told["failed"], told["left"]) == ("", [])
    assert "7 of 7" in rolled.stderr
    after = {name: host.pid(name) for name in NAMES}
    assert all(after[name] != pid for name, pid in before.items())
    assert arena_of(after["kv@host"]) == arena


def test_a_rolling_restart_stops_at_the_first_that_does_not_come_back(host) -> None:
    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    host.tell("scheduler@toy", "exit", "70")
    rolled = host.headrace("restart", "--all", "--json")
    assert rolled.returncode == 1
    told = msgspec.json.decode(rolled.stdout)
    assert told["failed"] == "scheduler@toy"
    assert "exit code 70" in told["reason"]
    assert told["left"] == ["worker@toy.0.0", "worker@toy.0.1", "ingress@0", "batch@host"]
    assert all(host.pid(name) == before[name] for name in told["left"])
    assert "told to by a file" in rolled.stderr, "its last words"
    assert "headrace restart --all" in rolled.stderr

    (host.run / "scheduler@toy.exit").unlink()
    again = host.headrace("restart", "--all")
    assert again.returncode == 0, again.stderr


def test_a_rolling_restart_applies_a_changed_configuration(host) -> None:
    assert host.up().returncode == 0
    path = host.home / "headrace.toml"
    text = path.read_text()
    path.write_text(text.replace("[kv]", "processes = 2\n[kv]"))
    rolled = host.headrace("restart", "--all")
    assert rolled.returncode == 0, rolled.stderr + host.log("supervisor@host")[-4000:]
    assert "has changed; this applies it to: batch@host, ingress@0, ingress@1" in rolled.stderr
    assert states(host) == dict.fromkeys(NAMES | {"ingress@1", "supervisor@host"}, "ready")

    before = {name: host.pid(name) for name in NAMES}
    for broken, code, words in [
        (text + "\n[nothing]\n", 78, "nothing: unknown"),
        (text.replace("64MiB", "96MiB"), 1, "[kv] has changed"),
    ]:
        path.write_text(broken)
        refused = host.headrace("restart", "--all")
        assert refused.returncode == code, refused.stderr
        assert words in refused.stderr
    assert {name: host.pid(name) for name in NAMES} == before


def test_a_program_that_is_no_headrace_does_not_take_the_processes_with_it(host, waiting) -> None:
    from bus.messages.control import Ok, Rejected, Restart
    from cli.control import Caller

    assert host.up().returncode == 0
    before = {name: host.pid(name) for name in NAMES}
    with Caller(host.run) as caller:
        assert isinstance(caller.ask("supervisor@host", Restart(0, "supervisor@host", 1.0, "/nowhere")), Rejected)
        assert isinstance(caller.ask("supervisor@host", Restart(0, "supervisor@host", 1.0, "/bin/false")), Ok)
    waiting(lambda: "supervisor@host" not in host.status(), "it is gone")
    assert {name: host.pid(name) for name in NAMES} == before
    assert host.up().returncode == 0
    assert {name: host.pid(name) for name in NAMES} == before
