"""docs/api.md names every endpoint, request field, refusal (with its reason) and error code, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from ingress.api import from_messages, from_responses, validate
from ingress.api.routes import ROUTES
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_common import StreamOptions
from ingress.api.schema_completion import CompletionRequest
from ingress.api.schema_encoding import EmbeddingRequest, RerankRequest
from ingress.api.schema_messages import CountRequest, MessagesRequest
from ingress.api.schema_other import DetokenizeRequest, TokenizeRequest
from ingress.api.schema_responses import ResponsesRequest

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
ENCODING = (EmbeddingRequest, RerankRequest)
REQUESTS = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, StreamOptions)
# By the heading under which they are.
SURFACES = {"Responses": (ResponsesRequest,), "Messages": (MessagesRequest, CountRequest)}


def section(heading: str) -> str:
    """What stands under a heading of level 2."""
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def _within(name: str, refusals: validate.Refusals) -> validate.Refusals:
    return {f"{name}.{parameter}": why for parameter, why in refusals.items()}


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_field_is_named(kind: type[msgspec.Struct]) -> None:
    prefix = "stream_options." if kind is StreamOptions else ""
    missing = [
        field.encode_name for field in msgspec.structs.fields(kind) if f"`{prefix}{field.encode_name}`" not in PAGE
    ]
    assert not missing


def test_first_columns_name_nothing_else() -> None:
    known = {field.encode_name for kind in REQUESTS for field in msgspec.structs.fields(kind)}
    tables = section("Parameters of both generation endpoints")
    named = {name for row in re.findall(r"^\| (`.+?) \|", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named <= known


@pytest.mark.parametrize("heading", SURFACES)
def test_every_field_of_the_other_surfaces_is_named_and_nothing_else(heading: str) -> None:
    fields = {field.encode_name for kind in SURFACES[heading] for field in msgspec.structs.fields(kind)}
    page = section(heading) + section("Refused parameters")
    assert {name for name in fields if f"`{name}`" not in page} == set()
    rows = re.findall(r"^\| (`.+?) \|", section(heading), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {name for name in named if not name.endswith("_error")} <= fields


def test_parameters_of_encoders_are_named_and_no_others() -> None:
    tables = section("Embeddings and reranking")
    known = {field.encode_name for kind in ENCODING for field in msgspec.structs.fields(kind)}
    named = {name for row in re.findall(r"^\| (`.+?) \|", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == known


def test_the_endpoints_are_those_that_are_served() -> None:
    named = re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", section("Endpoints"), re.MULTILINE)
    assert sorted(named) == sorted((route.method, route.path) for route in ROUTES)


def test_refusals_have_the_reasons_that_clients_are_told() -> None:
    chat = {**validate._CHAT_REFUSALS, **validate._COMPLETION_REFUSALS}
    tables = {
        "": chat | _within("stream_options", validate._STREAM_REFUSALS),
        "Responses:": {
            **from_responses._REFUSALS,
            **_within("reasoning", from_responses._REASONING_REFUSALS),
            **_within("text", from_responses._TEXT_REFUSALS),
            **_within("stream_options", from_responses._STREAM_REFUSALS),
        },
        "Messages:": {
            **from_messages._REFUSALS,
            **_within("thinking", from_messages._THINKING_REFUSALS),
            **_within("output_config", from_messages._OUTPUT_REFUSALS),
        },
    }
    page = re.split(r"^(Responses:|Messages:)$", section("Refused parameters"), flags=re.MULTILINE)
    found = {"": page[0], **dict(zip(page[1::2], page[2::2], strict=True))}
    for heading, refusals in tables.items():
        expected = {
            name: (", ".join(f"`{json.dumps(value)}`" for value in harmless), why)
            for name, (harmless, why) in refusals.items()
        }
        rows = re.findall(r"^\| `([\w.]+)` \|(.*?)\| (.+) \|$", found[heading], re.MULTILINE)
        assert {name: (passes.strip(), why) for name, passes, why in rows} == expected


def test_every_error_code_is_there() -> None:
    sources = Path(validate.__file__).parents[1].rglob("*.py")
    codes = {code for source in sources for code in re.findall(r'code="(\w+)"', source.read_text(encoding="utf-8"))}
    assert {code for code in codes if f"`{code}`" not in section("Errors")} == set()
