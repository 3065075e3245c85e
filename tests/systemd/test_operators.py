"""Operators who are not root, under a real systemd: what they order is carried out through systemctl and polkit, by
command and from the screen, and written down as theirs; who may only look is refused, whatever polkit would say.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import HEADRACE, Installation, until
from machine import Failed

pytestmark = [
    pytest.mark.machine,
    pytest.mark.model,
    pytest.mark.skipif(not Path("/usr/lib/polkit-1/polkitd").exists(), reason="polkitd is not installed"),
]

METRICS = "headrace-metrics.service"


@pytest.fixture(scope="module")
def people(here: Installation) -> Iterator[Installation]:
    """ada may act, eve may look; polkit lets both restart."""
    for user, groups in (("ada", "headrace-admin,headrace-bus"), ("eve", "headrace-bus"), ("mallory", "nogroup")):
        here.machine.run("useradd", "--groups", groups, "--no-create-home", "--home-dir", f"/tmp/{user}", user)
        here.machine.run("install", "-d", "-o", user, f"/tmp/{user}")
    until(here.ready, 120, "every model answers")
    until(lambda: here.machine.show(METRICS, "ActiveState")["ActiveState"] == "active", 60, "so do screens")
    yield here
    for user in ("ada", "eve", "mallory"):
        here.machine.run("userdel", user, check=False)


def as_user(here: Installation, user: str, *words: str) -> str:
    place = [f"HOME=/tmp/{user}", "HEADRACE_RUN=/run/headrace"]
    return here.machine.run("env", *place, HEADRACE, *words, user=user).stdout


def records(here: Installation, user: str, asker: str = "") -> list[dict[str, object]]:
    """What the audit log says that a user did."""
    said = as_user(here, asker or user, "audit-log", "--json")
    return [each for line in said.splitlines() if (each := json.loads(line))["user"] == user]


def test_who_may_look_sees_everything_and_restarts_nothing(people: Installation) -> None:
    names = {each["name"] for each in json.loads(as_user(people, "eve", "status", "--json"))["processes"]}
    assert {"kv@host", "ingress@0", "scheduler@smollm2", "worker@smollm2.0.0"} <= names
    before = people.pid(METRICS)
    with pytest.raises(Failed, match="eve may look and not act"):
        as_user(people, "eve", "restart", "metrics@host")
    assert people.pid(METRICS) == before
    (denied,) = records(people, "eve")
    assert (denied["verb"], denied["object"], denied["result"]) == ("restart", "metrics@host", "denied")
    with pytest.raises(Failed, match=r"Permission denied|does not run|nothing"):
        as_user(people, "mallory", "audit-log")


def test_a_restart_by_command_is_in_the_audit_log_with_who_and_why(people: Installation) -> None:
    before = people.pid(METRICS)
    as_user(people, "ada", "restart", "metrics@host", "--reason", "new disk")
    assert people.pid(METRICS) not in (0, before)
    (done,) = records(people, "ada", asker="eve")
    assert (done["verb"], done["object"], done["result"]) == ("restart", "metrics@host", "done")
    assert done["reason"] == "new disk"
    assert done["process"] != "metrics@host"
    assert "new disk" in people.machine.journal("--namespace=headrace", "--grep=^audit: restart")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_restart_from_the_screen_is_carried_out_by_systemd(people: Installation) -> None:
    pane = ""

    def shows(text: str) -> bool:
        nonlocal pane
        pane = tmux("capture-pane", "-p")
        return text in pane

    def tmux(*words: str) -> str:
        return people.machine.run("tmux", "-S", "/tmp/ada/tmux", *words, user="ada").stdout

    unit = "headrace-worker@smollm2.0.0.service"
    before = people.pid(unit)
    show = f"env HOME=/tmp/ada HEADRACE_RUN=/run/headrace TEXTUAL_ANIMATIONS=none LC_ALL=C.UTF-8 {HEADRACE} top"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "34", show)
    try:
        until(lambda: shows("live"), 60, "the screen is there")
        tmux("send-keys", ":")
        until(lambda: shows("drain worker@... --reason why"), 30, "the command line is open")
        tmux("send-keys", "-l", 'restart worker@smollm2.0.0 --reason "from the screen"')
        until(lambda: shows("from the screen"), 30, "it is typed")
        tmux("send-keys", "Enter")
        until(lambda: shows("Drains for at most"), 30, "it is asked first")
        assert people.pid(unit) == before
        tmux("send-keys", "Tab")
        tmux("send-keys", "Enter")
        until(lambda: people.pid(unit) not in (0, before), 60, "the worker is started again")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{pane}") from None
    finally:
        tmux("kill-server")
    until(lambda: len(records(people, "ada")) == 2, 30, "it is written down")
    done = records(people, "ada")[-1]
    assert (done["verb"], done["object"], done["result"]) == ("restart", "worker@smollm2.0.0", "done")
    assert (done["reason"], done["program"]) == ("from the screen", "cli")
    until(people.ready, 120, "every model answers")
