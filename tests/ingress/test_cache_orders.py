"""What operators see of the cache and order, through the command and a real ingress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_stage import Stage, staged, until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(2) as stage:
        yield stage


def command(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEADRACE_RUN": str(stage.run), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "cache", *arguments], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def ask(stage: Stage, text: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 0, "max_tokens": 9}
    return stage.visits.post("/v1/chat/completions", json=body).headers["x-cache"]


def default(stage: Stage) -> dict[str, Any]:
    told = json.loads(command(stage, "status", "--json").stdout)
    space: dict[str, Any] = told["spaces"][0]
    return space


def test_status_counts_the_hosts_and_flush_holds_everywhere(stage: Stage) -> None:
    ask(stage, "orders")
    until(lambda: all(ask(stage, "orders") == "exact" for _ in range(20)))
    until(lambda: default(stage)["counts"].get("exact", 0) >= 8)
    seen = default(stage)
    assert (seen["name"], seen["entries"], seen["state"]) == ("default", 1, "off")
    assert seen["counts"]["saved_generated_tokens"] == 9 * seen["counts"]["exact"]
    assert "default" in command(stage, "status").stdout
    flushed = command(stage, "flush", "default", "--reason", "a test")
    assert (flushed.returncode, "default" in flushed.stdout) == (0, True), flushed.stderr
    assert ask(stage, "orders") == "miss"


def test_orders_that_make_no_sense_say_why(stage: Stage) -> None:
    assert "there is no namespace 'faq'; there are: default" in command(stage, "flush", "faq").stderr
    assert "does not match by meaning" in command(stage, "calibrate", "default").stderr
    assert command(stage, "flush").returncode == 2
    assert json.loads(command(stage, "report", "default", "--json").stdout)["observations"] == 0
