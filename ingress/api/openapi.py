"""The OpenAPI 3.1 document, written from the routes and the schemas, so that it says what is served. Pure."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec

from bus.build import BUILD
from ingress.api.from_messages import VERSIONS
from ingress.api.once import MAX_KEY
from ingress.api.request import RESUMABLE_NO, RESUMABLE_YES
from ingress.api.routes import ROUTES, Route
from ingress.api.schema_common import ErrorEnvelope
from ingress.api.schema_messages import AnthropicError
from ingress.api.schema_responses import EasyMessage, Item
from ingress.api.surfaces import ANTHROPIC, of_path

_PARAMETERS: dict[str, str] = {
    "model": "Name of a served model.",
    "response_id": "The id that the answer's chunks carry.",
    "file_id": "The id of a file.",
    "batch_id": "The id of a batch.",
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
    "schema": {"type": "string", "enum": [*RESUMABLE_YES, *RESUMABLE_NO]},
    "description": "Generation goes on for a while when the connection is lost, and `/v1/streams` has the rest.",
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": MAX_KEY},
    "description": "The same call made again with the same key is answered once, even by another process.",
}


_ANTHROPIC_VERSION = {
    "name": "anthropic-version",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": list(VERSIONS)},
    "description": "The version of the API that the client speaks.",
}
_ONCE = frozenset({"files.create", "batches.create"})
_MEDIA = {"files.create": "multipart/form-data"}  # of what is sent
_PHRASES = {529: "Overloaded"}


@lru_cache(maxsize=1)
def document() -> bytes:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(build()), indent=1)


def build() -> dict[str, Any]:
    """The document as plain values."""
    kinds: dict[Any, None] = dict.fromkeys(
        kind
        for route in ROUTES
        for kind in (route.request, route.reply, *_several(route.chunk))
        if kind not in (None, dict)
    )
    # Items are read one by one, so their schemas are named here and not in the request's.
    ordered = [*sorted(kinds, key=str), ErrorEnvelope, AnthropicError, Item, EasyMessage]
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    named = dict(zip(ordered, schemas, strict=True))
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
    error = {"content": {"application/json": {"schema": named[_envelope(route)]}}}
    for status in route.errors:
        operation["responses"][str(status)] = {
            "description": _PHRASES.get(status) or HTTPStatus(status).phrase,
            **error,
        }
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {_MEDIA.get(route.does, "application/json"): {"schema": named[route.request]}},
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
    description = "Success."
    if route.chunk is not None:
        content["text/event-stream"] = {"schema": _event(route, named)}
        description = "Of a stream, the schema is each event's" + (
            ", and the last one's data is [DONE]." if route.done else "."
        )
    return {"description": description, "content": content}


def _event(route: Route, named: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """One event of a stream: OpenAPI 3.1 has no words for all of it. An error stands in the place of the rest."""
    told = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [*(named[kind] for kind in _several(route.chunk)), named[_envelope(route)]]},
    }
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"anyOf": [{"const": "[DONE]"}, told]} if route.done else told,
            "event": {"type": "string"},
            "id": {"type": "string"},
        },
    }


def _envelope(route: Route) -> type:
    return AnthropicError if of_path(route.path) is ANTHROPIC else ErrorEnvelope


def _several(kinds: Any) -> tuple[Any, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    _, brace, rest = route.path.partition("{")
    if brace:
        name = rest.partition("}")[0]
        parameters.append({
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": _PARAMETERS[name],
        })  # fmt: skip
    for name, schema in route.query:
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if route.does == "stream":
        parameters.append(_LAST_EVENT_ID)
    if of_path(route.path) is ANTHROPIC:
        parameters.append(_ANTHROPIC_VERSION)
    if route.chunk is not None and route.method == "POST":
        parameters.append(_RESUMABLE)
    if route.does in _ONCE or (route.chunk is not None and route.method == "POST"):
        parameters.append(_IDEMPOTENCY_KEY)
    return parameters
