"""The OpenAPI 3.1 document, written from the routes and the schemas, so that it says what is served. Pure."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec

from bus.build import BUILD
from ingress.api.once import MAX_KEY
from ingress.api.routes import ROUTES, Route
from ingress.api.schema_common import ErrorEnvelope

_PARAMETERS: dict[str, str] = {
    "model": "Name of a served model.",
    "response_id": "The id that the answer's chunks carry.",
}

_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The id of the last event that was received, `<response id>:<number>`.",
}
_RESUMABLE = {
    "name": "X-Resumable",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["true"]},
    "description": "Generation goes on for a while when the connection is lost, and `/v1/streams` has the rest.",
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": MAX_KEY},
    "description": "The same call made again with the same key is answered once, even by another process.",
}


@lru_cache(maxsize=1)
def document() -> bytes:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(build()), indent=1)


def build() -> dict[str, Any]:
    """The document as plain values."""
    kinds = {kind for route in ROUTES for kind in (route.request, route.reply, route.chunk) if kind not in (None, dict)}
    ordered = sorted((kind for kind in kinds if kind is not None), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        [*ordered, ErrorEnvelope], ref_template="#/components/schemas/{name}"
    )
    named = dict(zip([*ordered, ErrorEnvelope], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace",
            "version": BUILD,
            "summary": "Language models over OpenAI's API.",
            "description": "Parameters that are declared as refused are answered with 400 and their name.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, named: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.does.replace(".", "_"),
        "summary": route.summary,
        "responses": {"200": _success(route, named)},
    }
    error = {"content": {"application/json": {"schema": named[ErrorEnvelope]}}}
    for status in route.errors:
        operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase, **error}
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": named[route.request]}},
        }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    return operation


def _success(route: Route, named: dict[type, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.reply is not None:
        content[route.media] = {"schema": named.get(route.reply, {"type": "object"})}
    else:
        content[route.media] = {"schema": {"type": "string"}}
    if route.chunk is not None:
        # OpenAPI 3.1 has no words for a stream of events; the schema is that of each event's data.
        content["text/event-stream"] = {"schema": named[route.chunk]}
    return {"description": "Each event's data is of this schema, the last is [DONE]." if route.chunk else "Success.",
            "content": content}  # fmt: skip


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    _, brace, rest = route.path.partition("{")
    if brace:
        name = rest.rstrip("}")
        parameters.append({
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": _PARAMETERS[name],
        })  # fmt: skip
    if route.does == "stream":
        parameters.append(_LAST_EVENT_ID)
    if route.chunk is not None:
        parameters += [_RESUMABLE, _IDEMPOTENCY_KEY]
    return parameters
