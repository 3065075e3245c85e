"""Batches on a whole stack, with the official package as their client, while everything in it is killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from stack import HEADRACE, SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2, ingresses=2) as stack:
        yield stack


@pytest.fixture
def gpt(stack: Stack) -> openai.OpenAI:
    headers = {"connection": "close"}  # each request may land at another ingress
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="k", max_retries=8, timeout=120, default_headers=headers)


def line(custom_id: str, text: str, **more: Any) -> str:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": text}], "max_tokens": 24, **more}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body})


def questions(count: int) -> list[str]:
    """Greedy ones and seeded ones, so the answers are known beforehand."""
    return [line(f"q{n}", f"Tell me about the number {n}.", temperature=n % 2, seed=n) for n in range(count)]


def make(gpt: openai.OpenAI, lines: list[str], **more: Any) -> Any:
    content = "\n".join(lines).encode()
    file = gpt.files.create(file=("lines.jsonl", content), purpose="batch")
    return gpt.batches.create(
        input_file_id=file.id, endpoint=more.pop("endpoint", CHAT), completion_window="24h", **more
    )


def ended(gpt: openai.OpenAI, id: str, seconds: float = 200) -> Any:
    found: list[Any] = []

    def over() -> bool:
        try:
            found.append(gpt.batches.retrieve(id))
        except (openai.APIConnectionError, openai.InternalServerError):
            return False
        return found[-1].status in OVER

    until(over, seconds, f"{id} is over")
    return found[-1]


def results(gpt: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [] if file is None else [json.loads(row) for row in gpt.files.content(file).text.splitlines()]


def said(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was answered, by line; ids and dates are each run's own."""
    return {row["custom_id"]: row["response"]["body"]["choices"] for row in rows}


def test_every_line_is_answered_once_whoever_is_killed(stack: Stack, gpt: openai.OpenAI) -> None:
    lines = questions(60)
    calm = ended(gpt, make(gpt, lines).id)
    expected = said(results(gpt, calm.output_file_id))
    assert len(expected) == 60
    batch = make(gpt, lines, metadata={"run": "killed"})
    for name in ("batch@host", "ingress@0", "scheduler@smollm2", "worker@smollm2.0.0", "ingress@1", "batch@host"):
        before = gpt.batches.retrieve(batch.id).request_counts
        assert before is not None
        if before.completed >= 55:
            break
        until(lambda name=name: stack.pid(name) != 0, 60, f"{name} is back")  # type: ignore[misc]
        stack.kill(name, signal.SIGKILL)
        time.sleep(1.0)
    batch = ended(gpt, batch.id)
    assert batch.status == "completed"
    rows = results(gpt, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"q{n}" for n in range(60)], "each once, in order"
    assert said(rows) == expected
    assert batch.error_file_id is None
    assert (batch.request_counts.total, batch.request_counts.completed) == (60, 60)
    assert batch.usage.output_tokens == sum(row["response"]["body"]["usage"]["completion_tokens"] for row in rows)


def test_lines_that_cannot_be_answered_cost_the_others_nothing(gpt: openai.OpenAI) -> None:
    lines = [*questions(3), line("wrong", "hi", nonsense=1), line("long", "hi", max_tokens=10**6)]
    batch = ended(gpt, make(gpt, lines).id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 3, 2)
    wrong, long = results(gpt, batch.error_file_id)
    assert wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["param"] == "nonsense"
    assert long["custom_id"] == "long"


def test_a_hostile_file_is_told_of_by_line(gpt: openai.OpenAI) -> None:
    lines = [line("a", "x"), "nonsense", line("a", "x"), '{"custom_id":"d","body":' + "[" * 10_000]
    batch = ended(gpt, make(gpt, lines).id)
    assert batch.status == "failed"
    told = [(error.line, error.code) for error in batch.errors.data]
    assert told == [(2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "invalid_json_line")]
    with pytest.raises(openai.BadRequestError):
        gpt.files.create(file=("x.jsonl", b""), purpose="batch")
    with pytest.raises(openai.BadRequestError) as purpose:
        gpt.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    assert purpose.value.code == "invalid_purpose"


@pytest.mark.slow
def test_what_is_cancelled_keeps_what_was_answered(gpt: openai.OpenAI, stack: Stack) -> None:
    batch = make(gpt, [line(f"q{n}", f"Count to {n}.", max_tokens=100, ignore_eos=True) for n in range(80)])

    def some() -> bool:
        counts = gpt.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    until(some, 100, "some lines are answered")
    assert gpt.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(gpt, batch.id, 30)
    assert batch.status == "cancelled"
    good, bad = results(gpt, batch.output_file_id), results(gpt, batch.error_file_id)
    assert good
    assert len(good) + len(bad) == 80
    assert {row["error"]["code"] for row in bad} == {"batch_cancelled"}
    until(lambda: stack.status()["models"][0]["running"] == 0, 20, "what was under way is aborted")


@pytest.mark.slow
def test_what_expires_while_nobody_looks_keeps_what_was_answered(gpt: openai.OpenAI, stack: Stack) -> None:
    batch = make(gpt, [line(f"q{n}", f"Count to {n}.", max_tokens=100, ignore_eos=True) for n in range(80)])
    until(lambda: gpt.batches.retrieve(batch.id).request_counts.completed > 0, 100, "some are answered")  # type: ignore[union-attr]
    with sqlite3.connect(stack.home / "s" / "batch.db", timeout=10) as database:
        database.execute("UPDATE batches SET body = json_set(body, '$.window_s', 0) WHERE id = ?", (batch.id,))
    stack.kill("batch@host")  # it knows nothing but what is written
    batch = ended(gpt, batch.id, 60)
    assert batch.status == "expired"
    good, bad = results(gpt, batch.output_file_id), results(gpt, batch.error_file_id)
    assert len(good) + len(bad) == 80
    assert {row["error"]["code"] for row in bad} == {"batch_expired"}


def test_files_and_batches_are_listed_in_pages_and_deleted(gpt: openai.OpenAI) -> None:
    files = [gpt.files.create(file=(f"{n}.jsonl", line("a", "x").encode()), purpose="batch").id for n in range(3)]
    listed = [file.id for file in gpt.files.list(limit=2, purpose="batch")]
    assert listed[:3] == files[::-1]
    gpt.files.delete(files[0])
    with pytest.raises(openai.NotFoundError):
        gpt.files.retrieve(files[0])
    with pytest.raises(openai.BadRequestError):
        gpt.batches.create(input_file_id=files[0], endpoint=CHAT, completion_window="24h")
    made = [gpt.batches.create(input_file_id=id, endpoint=CHAT, completion_window="24h").id for id in files[1:]]
    assert [batch.id for batch in gpt.batches.list(limit=1)][:2] == made[::-1]
    for id in made:
        ended(gpt, id)


def test_the_same_key_makes_one_file_and_one_batch(gpt: openai.OpenAI) -> None:
    keyed = {"Idempotency-Key": "once"}
    content = line("a", "x").encode()
    files = {
        gpt.files.create(file=("x.jsonl", content), purpose="batch", extra_headers=keyed).id for _ in range(2)
    }  # fmt: skip
    (file,) = files
    other = gpt.files.create(file=("x.jsonl", content + b"\n"), purpose="batch", extra_headers=keyed)
    assert other.id != file
    batches = {
        gpt.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h", extra_headers=keyed).id
        for _ in range(2)
    }
    (batch,) = batches
    ended(gpt, batch)


def test_the_command_goes_on_after_it_was_interrupted(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(questions(40)))
    first = subprocess.Popen([*HEADRACE, "batch", str(file)], env=stack.environment, stderr=subprocess.PIPE)
    receipt = tmp_path / "questions.jsonl.batch"
    until(lambda: receipt.exists() and json.loads(receipt.read_text())["batch"] != "", 60, "the batch is made")
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 130
    batch = json.loads(receipt.read_text())["batch"]
    done = json.loads(stack.headrace("batch", str(file), "--json", timeout=200).stdout)
    assert done["batch"]["id"] == batch
    assert done["output"] == str(tmp_path / "questions.output.jsonl")
    assert len(Path(done["output"]).read_text().splitlines()) == 40
    assert not receipt.exists()
    assert batch in stack.headrace("batches", "--json").stdout
