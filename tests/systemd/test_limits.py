"""What the installed units may not do, and who may not use them, tried from inside and from beside."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from installation import PYTHON, SITE, SOURCE, Installation, launcher, until
from machine import Failed

from cli.systemd.exposure import limit_of

pytestmark = [pytest.mark.machine, pytest.mark.model]

INGRESS = "headrace-ingress@0.service"
KV = "headrace-kv.service"
LIVE = [KV, "headrace-metrics.service", "headrace-scheduler@smollm2.service", INGRESS]
LIVE += ["headrace-worker@smollm2.0.0.service", "headrace-worker@pair.0.0.service"]


@pytest.fixture(autouse=True)
def all_is_well(here: Installation) -> None:
    here.machine.systemctl("start", "headrace.target")
    until(here.ready, 120, "every model answers")


def test_the_units_are_what_systemd_expects(here: Installation) -> None:
    """No unknown key, no missing program, no ordering cycle."""
    units = here.machine.run("sh", "-c", "cd /etc/systemd/system && ls -d headrace*.* | grep -v '[.]d$'").stdout.split()
    units = [unit.replace("@.", "@smollm2.0.0.") for unit in units]
    said = here.machine.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert "headrace" not in said.stderr, said.stderr


def test_live_units_are_within_their_exposure(here: Installation) -> None:
    for unit in LIVE:
        said = here.machine.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
        score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)[1])  # type: ignore[index]
        assert score <= limit_of(unit), said


def test_a_foreign_user_gets_no_word_in(here: Installation) -> None:
    """Not at the sockets, not at their directory, not at what is kept on disk."""
    for path in ("/run/headrace/kv@host.pages.sock", "/run/headrace/scheduler@smollm2.requests.sock"):
        kind = "SOCK_SEQPACKET" if "kv@" in path else "SOCK_STREAM"
        knock = f"import socket; socket.socket(socket.AF_UNIX, socket.{kind}).connect({path!r})"
        here.machine.run("/usr/bin/python3", "-c", knock)  # root may
        with pytest.raises(Failed, match="PermissionError"):
            here.machine.run("/usr/bin/python3", "-c", knock, user="nobody")
        assert here.machine.run("stat", "-c", "%a %U", path).stdout.split() == ["600", "headrace"]
    with pytest.raises(Failed, match="Permission denied"):
        here.machine.run("ls", "/run/headrace", user="nobody")
    with pytest.raises(Failed, match="Permission denied"):
        here.machine.run("ls", "/var/lib/headrace", user="nobody")


def test_the_sockets_are_those_of_pid_1(here: Installation) -> None:
    owners = here.machine.run("ss", "-lxpH", "src", "/run/headrace/kv@host.pages.sock", check=False).stdout
    if shutil.which("ss"):
        assert '"systemd",pid=1' in owners
    inode = here.machine.run("stat", "-c", "%i", "/run/headrace/scheduler@smollm2.steps.sock").stdout
    before = here.pid("headrace-scheduler@smollm2.service")
    here.machine.systemctl("restart", "headrace-scheduler@smollm2.service")
    assert here.pid("headrace-scheduler@smollm2.service") != before
    assert here.machine.run("stat", "-c", "%i", "/run/headrace/scheduler@smollm2.steps.sock").stdout == inode


def test_a_secret_is_the_service_s_alone(here: Installation) -> None:
    """The key on disk is root's; the service has a copy that nobody else can read, and shows it nowhere."""
    secret = re.search(r'secret = "(.{40})"', here.machine.path("/etc/headrace/curve/host.secret").read_text())[1]  # type: ignore[index]
    with pytest.raises(Failed, match="Permission denied"):
        here.machine.run("cat", "/etc/headrace/curve/host.secret", user="headrace")
    copy = f"/run/credentials/{INGRESS}/curve.secret"
    pid = here.pid(INGRESS)
    inside = ["nsenter", f"--target={pid}", "--mount", "--"]
    assert here.machine.run(*inside, "stat", "-c", "%a %U", copy).stdout.split() == ["400", "headrace"]
    assert secret in here.machine.run(*inside, "cat", copy).stdout
    with pytest.raises(Failed, match="Permission denied"):
        here.machine.run("cat", copy, user="nobody")
    shown = here.machine.systemctl("show", "headrace-*.service") + here.machine.journal("--namespace=headrace")
    environment = here.machine.path(f"/proc/{pid}/environ").read_text()
    assert secret not in shown + environment
    others = here.machine.run("ls", "/run/credentials", check=False).stdout.split()
    assert others == [INGRESS, "headrace-ingress@1.service"]


def test_curve_clients_reach_the_tcp_door_with_the_credential(here: Installation) -> None:
    ask = (
        "from pathlib import Path; from bus.curve import CurveClient; from headrace_client import Client\n"
        "keys = CurveClient(Path('/etc/headrace/laptop/laptop.secret'), Path('/etc/headrace/curve/host.public'))\n"
        "with Client(addresses=['tcp://127.0.0.1:8200', 'tcp://127.0.0.1:8201'], curve=keys) as client:\n"
        "    print(client.models())\n"
    )
    python = re.search(r"exec (\S+) -m", launcher())[1]  # type: ignore[index]
    paths = [f"PYTHONPATH={SOURCE}:{SITE}", f"LD_LIBRARY_PATH={PYTHON}/lib"]
    assert "smollm2" in here.machine.run("env", *paths, python, "-c", ask).stdout


def test_who_may_restart_what(here: Installation) -> None:
    """Members of headrace-admin restart headrace's units and no others; everybody else none."""
    if not Path("/usr/lib/polkit-1/polkitd").exists():
        pytest.skip("polkitd is not installed")
    for user, group in (("alice", "headrace-admin"), ("bob", "nogroup")):
        here.machine.run("useradd", "--groups", group, "--no-create-home", user)
    before = here.pid("headrace-metrics.service")
    here.machine.run("systemctl", "--no-ask-password", "restart", "headrace-metrics.service", user="alice")
    assert here.pid("headrace-metrics.service") != before
    for user, unit in (("alice", "systemd-journald.service"), ("bob", "headrace-metrics.service")):
        with pytest.raises(Failed, match=r"[Aa]uthentication|[Dd]enied"):
            here.machine.run("systemctl", "--no-ask-password", "restart", unit, user=user)


def test_logs_are_records_of_a_journal_of_their_own(here: Installation) -> None:
    said = here.machine.journal("--namespace=headrace", "HEADRACE_PROCESS=kv@host", "--output=json", "--lines=5")
    records = [json.loads(line) for line in said.splitlines()]
    assert records
    assert all(record["_SYSTEMD_UNIT"] == KV and record["SYSLOG_IDENTIFIER"] == "headrace" for record in records)
    assert all(record["HEADRACE_LOGGER"] for record in records)
    assert "attached" not in here.machine.journal(f"--unit={KV}")


def test_a_bad_configuration_is_not_tried_again(here: Installation) -> None:
    """Exit code 78: the unit stays down and its sockets are closed, until it is put right and started."""
    path, unit = "/etc/headrace/headrace.toml", "headrace-metrics.service"
    good = here.machine.path(path).read_text()
    here.machine.write(path, good + "\n[metrics]\nnonsense = 1\n")
    try:
        here.machine.systemctl("restart", unit, check=False)
        until(lambda: here.machine.show(unit, "ActiveState")["ActiveState"] == "failed", 20, "it gives up")
        until(
            lambda: here.machine.show("headrace-metrics.socket", "ActiveState")["ActiveState"] == "inactive",
            20,
            "nobody can wake it",
        )
        # Somebody may have knocked before the socket was closed, and woken it once more.
        given_up = {"ActiveState": "failed", "ExecMainStatus": "78"}
        until(lambda: here.machine.show(unit, "ActiveState", "ExecMainStatus") == given_up, 20, "it is given up")
        entry = next(each for each in here.status()["processes"] if each["name"] == "metrics@host")
        assert entry["state"] == "failed"
        assert "78" in entry["last_exit"]
        assert "nonsense" in here.machine.journal("--namespace=headrace", f"--unit={unit}", "--lines=20")
    finally:
        here.machine.write(path, good)
    here.headrace("restart", "metrics@host")
    assert here.machine.show("headrace-metrics.socket", "ActiveState")["ActiveState"] == "active"


def test_a_unit_that_is_started_again_has_not_failed(here: Installation) -> None:
    """Since systemd 254 OnFailure= also runs between a death and the next start; here it is made to."""
    unit = "headrace-failed@headrace-kv.service.service"
    here.machine.systemctl("start", unit)
    assert here.machine.show(unit, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert "headrace-kv.service has failed" not in here.machine.journal("--namespace=headrace", f"--unit={unit}")
    assert here.machine.show("headrace-kv.socket", "ActiveState")["ActiveState"] == "active"
    metrics = here.machine.journal("--namespace=headrace", "--unit=headrace-failed@headrace-metrics.service.service")
    assert "headrace-metrics.service has failed: exit-code, exited 78" in metrics  # of the test before


def test_the_commands_know_who_keeps_the_processes(here: Installation) -> None:
    names = {process["name"]: process for process in here.status()["processes"]}
    assert {"kv@host", "metrics@host", "ingress@0", "worker@pair.0.1", "scheduler@smollm2"} <= names.keys()
    assert all(process["state"] == "ready" for process in names.values())
    with pytest.raises(Failed, match="systemd keeps headrace"):
        here.headrace("up", "--detach")
    before = here.pid("headrace-worker@smollm2.0.0.service")
    here.headrace("restart", "worker@smollm2.0.0")
    assert here.pid("headrace-worker@smollm2.0.0.service") not in (0, before)
    assert "nothing in hand" in here.headrace("drain", "ingress@1")
    here.headrace("undrain", "ingress@1")
    assert json.loads(here.headrace("audit", "--json"))["faults"] == []


def test_pages_and_threads_are_where_the_configuration_wants_them(here: Installation) -> None:
    pid = here.pid("headrace-worker@smollm2.0.0.service")
    environment = here.machine.path(f"/proc/{pid}/environ").read_text().split("\0")
    assert "OMP_NUM_THREADS=1" in environment
    assert not here.machine.run("ls", f"/proc/{here.pid(KV)}/root/home", check=False).stdout
