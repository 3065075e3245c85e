"""The OpenAPI document describes exactly what is served."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate as validate_document

from ingress.api.openapi import build, document
from ingress.api.routes import ROUTES, match
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_completion import CompletionRequest
from ingress.api.schema_messages import CountRequest, MessagesRequest
from ingress.api.schema_other import DetokenizeRequest, TokenizeRequest
from ingress.api.schema_responses import ResponsesRequest

REQUESTS = [
    ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, ResponsesRequest, MessagesRequest, CountRequest,
]  # fmt: skip


def test_it_is_valid_openapi_3_1() -> None:
    served: dict[str, Any] = json.loads(document())
    assert served["openapi"].startswith("3.1")
    validate_document(served)


def test_it_has_every_route_and_no_other() -> None:
    described = {(method.upper(), path) for path, methods in build()["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    for method, path in described:
        found = match(path.replace("{", "").replace("}", ""))
        assert found is not None
        assert found.methods[method].path == path


@pytest.mark.parametrize("kind", REQUESTS)
def test_it_has_every_parameter_of_every_request(kind: type[msgspec.Struct]) -> None:
    schema = build()["components"]["schemas"][kind.__name__]
    assert set(schema["properties"]) == {field.encode_name for field in msgspec.structs.fields(kind)}
    assert schema["additionalProperties"] is False


def test_every_reference_is_there() -> None:
    text = document().decode()
    components = build()["components"]["schemas"]
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(components)


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for methods in build()["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))
