"""What the flight recorder has of a real stack: one request through every process, a worker killed in the middle of it,
and no word of the prompt."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import SMOLLM2, Stack, running, until

from cli.blackbox.entries import Entry, load, merged, told
from cli.blackbox.following import request_numbers

pytestmark = [pytest.mark.system, pytest.mark.model]

PROMPT = "Zanzibar quokka xylophone"
WORKER = "worker@smollm2.0.0"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2) as started:
        yield started


def stream(stack: Stack, tokens: int) -> Iterator[dict[str, object]]:
    body = {"model": "smollm2", "prompt": PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    call = urllib.request.Request(
        f"{stack.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=120) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def recorded(run: Path, request: str) -> list[Entry]:
    wanted = request_numbers(request)
    return merged(told(each, requests=wanted) for each in load(run))


def test_a_request_is_seen_in_every_process_and_over_a_death(stack: Stack) -> None:
    events = stream(stack, 60)
    answer = str(next(events)["id"])
    for _ in range(10):
        next(events)
    killed = stack.kill(WORKER)
    assert len(list(events)) > 0, "the answer goes on"
    entries = recorded(stack.run, answer)
    told_by = {(entry.process, entry.message, entry.kind) for entry in entries}
    assert {
        ("ingress@0", "Submit", "sent"), ("scheduler@smollm2", "Submit", "received"),
        ("scheduler@smollm2", "StepPlan", "sent"), (WORKER, "StepPlan", "received"), (WORKER, "StepResult", "sent"),
        ("scheduler@smollm2", "Deltas", "sent"), ("ingress@0", "Deltas", "received"),
    } <= told_by  # fmt: skip
    its = [entry.epoch for entry in entries if entry.process == WORKER]
    assert its == sorted(its)
    assert len(set(its)) == 2, "the dead worker's part, and its successor's"
    assert entries[0].message == "Submit"
    shown = stack.headrace("blackbox", "--last-death").stdout
    assert shown.startswith(f"{WORKER}, epoch {min(its)}, pid {killed}, ")
    assert "SIGKILL" in shown.splitlines()[1]
    assert "StepPlan" in shown


def test_no_prompt_is_in_any_recording_nor_in_reports(stack: Stack) -> None:
    list(stream(stack, 5))
    files = list((stack.run / "blackbox").iterdir())
    assert len(files) >= 6
    ids = json.loads(_post(stack, "/tokenize", {"model": "smollm2", "prompt": PROMPT}))["tokens"]
    packed = b"".join(int(token).to_bytes(4, "little") for token in ids)
    for file in files:
        data = file.read_bytes()
        for word in PROMPT.split():
            assert word.encode() not in data, file.name
        assert packed not in data, file.name
    crashes = stack.home / "s" / "crashes"
    until(lambda: crashes.is_dir() and list(crashes.glob("[!.]*")), 90, "the worker's death was reported")
    kept = stack.headrace("report", "list", "--json").stdout
    assert [each["process"] for each in json.loads(kept)] == [WORKER]


def test_capacity_counts_the_pages_that_kv_has(stack: Stack) -> None:
    """kv's own word for it is in the scheduler's recording."""
    opened = [
        entry.fields["capacity"]
        for each in load(stack.run, "scheduler@smollm2")
        for entry in told(each).entries
        if entry.message == "PoolOpened"
    ]
    counted = json.loads(stack.headrace("capacity", "--json").stdout)
    assert opened
    assert set(opened) == {counted["models"][0]["pages"]}
    assert counted["arena_bytes"] == stack.pages().arena_bytes
    assert counted["slabs"] == stack.pages().slabs
    assert counted["models"][0]["slots"] == 16


def _post(stack: Stack, path: str, body: dict[str, object]) -> bytes:
    call = urllib.request.Request(stack.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as answer:
        data: bytes = answer.read()
    return data
