"""Whatever our OpenAPI document allows, and what it does not: schemathesis finds no answer that is not described.

A short run, and a long one of a thousand requests for each operation; `HEADRACE_FUZZ_SEED` draws others than the usual.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from api_stage import Stage, staged, until
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from ingress.api.openapi import build

pytestmark = pytest.mark.system


def wrong_data_is_refused(context: Any, response: Any, case: Any) -> bool | None:
    """Of a body with too many items 413 is a refusal too, which is none to schemathesis."""
    return None if response.status_code == 413 else negative_data_rejection(context, response, case)


CHECKS = [
    not_a_server_error, content_type_conformance, wrong_data_is_refused, response_schema_conformance,
    status_code_conformance,
]  # fmt: skip
# Their answers depend on the rest of a host, which is not there: no worker makes metrics.
ABSENT = {"/metrics"}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(settings='max_body = "1MiB"\nmax_streams = 64\nresponse_ttl_s = 60.0') as stage:
        batches = stage.beside("batch@host")
        try:
            yield stage
        finally:
            batches.kill()
            batches.wait()
        assert "Traceback" not in stage.logs()


SCHEMA = schemathesis.openapi.from_dict(build())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations() if found.ok().path not in ABSENT]
NAMES = [f"{operation.method.upper()} {operation.path}" for operation in OPERATIONS]


def fuzz(stage: Stage, operation: Any, examples: int) -> None:
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    invalid = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    plain = not operation.body and not list(operation.iter_parameters())

    @seed(int(os.environ.get("HEADRACE_FUZZ_SEED", "0")))
    @given(valid if plain else valid | invalid)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def run(case: Any) -> None:
        served(case)
        case.call_and_validate(base_url=stage.url, checks=CHECKS, timeout=60)

    run()


def served(case: Any) -> None:
    """Ask for the model that is there, else nothing but 404 would come; and for an answer soon: the stage's scheduler
    takes the priority for the milliseconds between tokens."""
    if not isinstance(case.body, dict):
        return
    if isinstance(priority := case.body.get("priority"), int) and 0 < priority < 2**31:
        case.body["priority"] = 1
    model = case.body.get("model")
    if isinstance(model, str) and 1 <= len(model) <= 128:  # else it is meant to be wrong
        case.body["model"] = "m"


MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
STREAMS = {
    "/v1/chat/completions": {**MESSAGES, "n": 2, "logprobs": True, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hi", "logprobs": 2, "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**MESSAGES, "max_tokens": 20},
}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("fails", [False, True])
def test_every_event_of_a_stream_is_described(stage: Stage, path: str, fails: bool) -> None:
    """Chance makes few streams that succeed."""
    body = {"model": "m", "stream": True, "max_tokens": 20, **STREAMS[path]}
    if path == "/v1/responses":
        body["max_output_tokens"] = body.pop("max_tokens")
    case = SCHEMA[path]["POST"].Case(body=body, media_type="application/json")
    before = len(stage.player.submits)
    if fails:
        case.body["priority"] = 50
        failing = threading.Thread(target=fail, args=(stage, before))
        failing.start()
    reply = case.call_and_validate(base_url=stage.url, checks=CHECKS, timeout=60)
    assert reply.text.count("data: ") > 2
    if fails:
        failing.join()
        assert "error" in reply.text


def fail(stage: Stage, before: int) -> None:
    """Fail the next request in its middle."""
    until(lambda: len(stage.player.submits) > before, stage.logs)
    time.sleep(0.2)
    stage.player.fail(stage.player.submits[before].request)


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_every_answer_is_described(stage: Stage, operation: Any) -> None:
    fuzz(stage, operation, 10)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_every_answer_is_described_at_length(stage: Stage, operation: Any) -> None:
    fuzz(stage, operation, 1000)
