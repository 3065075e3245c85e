"""Whatever our OpenAPI document allows, and what it does not: schemathesis finds no answer that is not described.

A short run, and a long one of a thousand requests for each operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from api_stage import Stage, staged
from hypothesis import HealthCheck, Phase, given, settings
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

CHECKS = [
    not_a_server_error, content_type_conformance, negative_data_rejection, response_schema_conformance,
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

    @given(valid if plain else valid | invalid)
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
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


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_every_answer_is_described(stage: Stage, operation: Any) -> None:
    fuzz(stage, operation, 10)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_every_answer_is_described_at_length(stage: Stage, operation: Any) -> None:
    fuzz(stage, operation, 1000)
