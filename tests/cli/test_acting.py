"""`headrace limit`, `audit-log`, `logs`, `cancel`, `ack`, `silence`, `reload`: words, and on real processes."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from bus.actionlog import ActionRecord
from bus.logread.query import BadQuery
from bus.messages.control import LimitValues
from cli.actions import cells
from cli.limits import BadLimit, parse_limits
from cli.logs import make_query


def test_limits_are_named_numbers() -> None:
    assert parse_limits(["slots=16", "inter_token_target_ms=80.5", "queue_tokens=1_000"]) == LimitValues(
        slots=16, inter_token_target_ms=80.5, queue_tokens=1000
    )
    for word, says in (
        ("slots", "NAME=NUMBER"),
        ("slot=1", "slots"),
        ("slots=4.5", "whole number"),
        ("slots=", "whole"),
    ):
        with pytest.raises(BadLimit, match=says):
            parse_limits([word])


def test_what_logs_cannot_look_for_is_told() -> None:
    query = make_query("kv@", "chatcmpl-0000000000001f", "warning", "", "1h")
    assert (query.unit, query.request, query.level) == ("kv@", "1f", "warning")
    with pytest.raises(BadQuery, match="debug, info"):
        make_query("", "", "loud", "", "")


def test_a_record_says_what_was_missed() -> None:
    record = ActionRecord(
        at=1.0, process="kv@host", uid=1, user="eve", pid=2, program="cli", verb="drain", object="kv@host",
        result="denied", detail="may look", missed=3,
    )  # fmt: skip
    assert cells(record)[4] == "denied: may look (and 3 before it)"


@pytest.mark.system
def test_an_operator_acts_and_finds_it_in_the_audit_log(host: Any) -> None:
    assert host.up().returncode == 0
    drained = host.headrace("drain", "ingress@0", "--no-wait", "--reason", "new [red]disk[/red]")
    assert drained.returncode == 0, drained.stderr
    again = host.headrace("drain", "ingress@0", "--no-wait")
    assert "asked for the same" in again.stdout
    silenced = host.headrace("silence", "late", "ingress@0", "--for", "2h", "--comment", "batch")
    assert silenced.stdout == "for 7200 s\n"
    for command in (["ack", "late", "nobody"], ["cancel", "1f"], ["reload", "kv@host"]):
        refused = host.headrace(*command)
        assert refused.returncode == 1, command
        assert refused.stderr
    listed = host.headrace("audit-log", "--json")
    records = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(record["verb"], record["result"]) for record in records][:3] == [
        ("drain", "done"), ("drain", "done"), ("silence", "done"),
    ]  # fmt: skip
    assert records[0]["reason"] == "new [red]disk[/red]"
    assert {record["uid"] for record in records} == {os.getuid()}
    assert "new [red]disk[/red]" in host.headrace("audit-log").stdout
    assert host.headrace("audit-log", "--since", "soon").returncode == 2


@pytest.mark.system
def test_logs_are_read_and_followed_by_process(host: Any) -> None:
    assert host.up().returncode == 0
    told = host.headrace("logs", "kv@", "--json", "-n", "50")
    records = [json.loads(line) for line in told.stdout.splitlines()]
    assert records
    assert {record["unit"] for record in records} == {"kv@host"}
    assert any("ready after" in record["text"] for record in records)
    host.kill("kv@host", signal.SIGKILL)
    gone = host.headrace("logs", "supervisor@", "--level", "warning", "--grep", "KV@HOST")
    assert gone.returncode == 0
    assert host.headrace("logs", "--request", "zz").returncode == 2
