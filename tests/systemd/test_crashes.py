"""Crash reports under a real systemd: a process that dies is started again, and what it died of is in one file that the
screen names. A loop of crashes makes no heap of files, and who ends as asked leaves none.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from installation import HEADRACE, Installation, installed, until

from cli.systemd.exposure import limit_of

pytestmark = [pytest.mark.machine, pytest.mark.model]

CONFIG = """
[ingress]
http = "127.0.0.1:8080"

[kv]
arena = "128MiB"

[blackbox]
crashes = 4

[[model]]
name = "smollm2"
source = "catalog:smollm2-135m-instruct"
threads = 1
slots = 4
context_tokens = 1024
"""
KV, METRICS, WORKER = "headrace-kv.service", "headrace-metrics.service", "headrace-worker@smollm2.0.0.service"


@pytest.fixture(scope="module")
def crashing() -> Iterator[Installation]:
    with installed(CONFIG) as installation:
        yield installation


def reports(here: Installation) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(here.headrace("report", "list", "--json"))
    return told


def of(here: Installation, process: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [each for each in reports(here) if each["process"] == process]
        return bool(found)

    until(there, 60, f"a report of {process} is there")
    return found[-1]


def members(here: Installation, report: dict[str, Any]) -> dict[str, str]:
    with tarfile.open(here.machine.path(report["path"])) as tar:
        return {
            member.name.partition("/")[2]: file.read().decode()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


def test_a_crash_leaves_a_report_and_the_screen_names_it(crashing: Installation) -> None:
    crashing.complete("Once upon a time", 20)
    before = crashing.pid(KV)
    crashing.machine.systemctl("kill", "--signal=SEGV", KV)
    until(lambda: crashing.pid(KV) not in (0, before), 60, "the page server runs again")
    report = of(crashing, "kv@host")
    assert report["cause"] == "killed by SIGSEGV"
    parts = members(crashing, report)
    missing = {name: text for name, text in parts.items() if name.endswith(".missing")}
    assert not missing
    (ended,) = json.loads(parts["ends.json"])
    assert (ended["unit"], ended["result"], ended["code"]) == (KV, "signal", -11)
    # Of that run of the unit, and of no other; and what systemd said.
    its = parts[f"logs/headrace-kv.{ended['invocation'][:8]}.log"]
    assert f"[{before}]" in its
    assert set(re.findall(r"headrace\[(\d+)\]", its)) == {str(before)}
    assert re.search(r"headrace-kv.service: Main process exited, code=\S+, status=11/SEGV", parts["logs/systemd.log"])
    assert "scheduler@smollm2" in parts["logs/journal.log"]
    assert any(name.startswith("blackbox/kv@host.") and "Segmentation fault" in parts[name] for name in parts)
    assert {"scheduler@smollm2", "worker@smollm2.0.0"} <= set(json.loads(parts["status.json"])["names"])
    unit = next(each for each in json.loads(parts["units.json"]) if each["Id"] == KV)
    assert unit["NRestarts"] == "1"
    assert 'arena = "128MiB"' in parts["config.toml"]

    def named() -> bool:
        findings = json.loads(crashing.headrace("top", "--once", "--json"))["findings"]
        crashed = [each for each in findings if each["code"] == "crashed"]
        return [each["subject"] for each in crashed] == ["kv@host"] and report["path"] in crashed[0]["text"]

    until(named, 30, "the screen names it")
    assert re.search(
        "kv@host crashed: killed by SIGSEGV", crashing.machine.journal("--namespace=headrace", "-p", "warning")
    )
    assert crashing.machine.path("/var/lib/headrace/crashes").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_the_fleet_shows_its_unit_and_how_it_ended(crashing: Installation) -> None:
    """By command and on the screen, although systemd has forgotten it with the next start."""
    before = crashing.pid(KV)
    crashing.machine.systemctl("kill", "--signal=SEGV", KV)
    until(lambda: crashing.pid(KV) not in (0, before), 60, "the page server runs again")

    def told() -> bool:
        (entry,) = [each for each in crashing.status()["processes"] if each["name"] == "kv@host"]
        return (entry["last_exit"], entry["pid"]) == ("killed by SIGSEGV", crashing.pid(KV))

    until(told, 60, "status says how it ended")
    pane = ""

    def tmux(*words: str) -> str:
        return crashing.machine.run("tmux", "-S", "/tmp/fleet", *words).stdout

    def shows(*texts: str) -> bool:
        nonlocal pane
        pane = tmux("capture-pane", "-p")
        return all(text in pane for text in texts)

    show = f"env HEADRACE_RUN=/run/headrace TEXTUAL_ANIMATIONS=none LC_ALL=C.UTF-8 {HEADRACE} top"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", "180", "-y", "40", show)
    try:
        until(lambda: shows("live"), 60, "the screen is there")
        tmux("send-keys", "2")
        until(lambda: shows("kv@host", "SYSTEMD UNIT", KV, WORKER, "killed by"), 60, "units are shown")
        tmux("send-keys", "/")
        until(lambda: shows("filter"), 30, "it asks")
        tmux("send-keys", "-l", "unit=kv@host")
        tmux("send-keys", "Enter")
        until(lambda: shows("active (running)", "restarts"), 60, "the process under the cursor shows its unit")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{pane}") from None
    finally:
        tmux("kill-server")


def test_a_bug_is_a_crash_and_a_requested_end_is_none(crashing: Installation) -> None:
    before = {each["path"] for each in reports(crashing)}
    crashing.machine.systemctl("restart", WORKER)
    crashing.machine.systemctl("restart", METRICS)
    dropin = f"/run/systemd/system/{METRICS}.d/99-test.conf"
    crashing.machine.write(dropin, "[Service]\nExecStart=\nExecStart=/bin/sh -c 'sleep 0.2; exit 70'\nType=exec\n")
    crashing.machine.systemctl("daemon-reload")
    try:
        crashing.machine.systemctl("restart", "--no-block", METRICS)
        assert of(crashing, "metrics@host")["cause"] == "exit code 70"
        # It dies some more in the meantime, and that is no news; nor is it a heap of notes.
        restarts = int(crashing.machine.show(METRICS, "NRestarts")["NRestarts"])
        until(lambda: int(crashing.machine.show(METRICS, "NRestarts")["NRestarts"]) > restarts + 8, 60, "it loops")
        assert len(list(crashing.machine.path("/run/headrace/ended").iterdir())) <= 1
        new = {each["path"]: each["process"] for each in reports(crashing) if each["path"] not in before}
        assert list(new.values()) == ["metrics@host"]
    finally:
        crashing.machine.run("rm", "-r", f"/run/systemd/system/{METRICS}.d")
        crashing.machine.systemctl("daemon-reload")
        crashing.machine.systemctl("reset-failed", METRICS, check=False)
        crashing.machine.systemctl("restart", METRICS)
    until(crashing.ready, 120, "every model answers")


def test_reports_are_kept_in_number_and_whoever_writes_them_is_shut_in(crashing: Installation) -> None:
    assert crashing.machine.show("headrace-crashes.path", "ActiveState")["ActiveState"] == "active"
    directory = crashing.machine.path("/var/lib/headrace/crashes")
    for number in range(9):
        (directory / f"2020-01-01T00-00-0{number}Z-metrics@host.tar.gz").touch()
    before = crashing.pid(WORKER)
    crashing.machine.systemctl("kill", "--signal=ABRT", WORKER)
    until(lambda: crashing.pid(WORKER) not in (0, before), 60, "the worker runs again")
    assert of(crashing, "worker@smollm2.0.0")["cause"] == "killed by SIGABRT"
    kept = [each["process"] for each in reports(crashing)]
    assert len(kept) == 4
    assert "kv@host" in kept
    said = crashing.machine.run(
        "systemd-analyze", "security", "--no-pager", "headrace-crash-report.service", check=False
    )
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert score is not None
    assert float(score[1]) <= limit_of("headrace-crash-report.service"), said.stdout
    shown = crashing.machine.show("headrace-crash-report.service", "User", "Nice", "Result")
    assert shown == {"User": "headrace", "Nice": "19", "Result": "success"}
