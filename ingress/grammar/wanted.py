"""What a request asks its answer to be, under any of the names that the field has for it. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bus.grammars import MAX_TEXT
from ingress.api.schema_chat import ObjectFormat, SchemaFormat
from ingress.api.schema_common import Generation, StructuredOutputs
from ingress.errors import invalid_request
from ingress.grammar.schema import check

Kind = Literal["json", "regex", "choice", "grammar"]

_KINDS: Final[tuple[Kind, ...]] = ("json", "regex", "choice", "grammar")
_ANY_OBJECT: Final = {"type": "object"}


class Wanted(NamedTuple):
    """One thing that an answer shall be.

    Attributes:
        value: a JSON Schema; a regular expression; texts, one of which it shall be; a grammar, as Lark or GBNF.
        param: where the request says so.
    """

    kind: Kind
    value: Any
    param: str


def wanted(request: Generation) -> Wanted | None:
    """What is asked, checked; None where the answer may be anything.

    Raises:
        ApiError: 400, it cannot be followed, or two things are asked for at once.
    """
    found = [*_by_format(getattr(request, "response_format", None)), *_by_name(request)]
    if len(found) > 1:
        raise invalid_request(
            f"{found[1].param}: {found[0].param} says already what the answer shall be; give one.", param=found[1].param
        )
    if not found:
        return None
    _check(found[0])
    ends_whole(request, found[0].param)
    return found[0]


def ends_whole(request: Generation, param: str) -> None:
    """Refuse what would have an answer go on when it is whole.

    Raises:
        ApiError: 400.
    """
    if request.ignore_eos:
        raise invalid_request(f"ignore_eos: an answer with {param} ends where it is whole.", param="ignore_eos")


def schema_wanted(schema: dict[str, Any] | bool | None, param: str) -> Wanted:
    """A JSON Schema, or any object."""
    return Wanted("json", _ANY_OBJECT if schema is None else schema, param)


def _by_format(given: Any) -> list[Wanted]:
    match given:
        case ObjectFormat():
            return [schema_wanted(None, "response_format")]
        case SchemaFormat():
            return [schema_wanted(given.json_schema.schema, "response_format.json_schema.schema")]
        case _:
            return []


def _by_name(request: Generation) -> list[Wanted]:
    named = {f"guided_{kind}": (kind, getattr(request, f"guided_{kind}")) for kind in _KINDS}
    if (structured := request.structured_outputs) is not None:
        named |= {f"structured_outputs.{kind}": (kind, getattr(structured, kind)) for kind in _KINDS}
        if structured.json_object:
            named["structured_outputs.json_object"] = ("json", _ANY_OBJECT)
        if not any(value is not None for _, value in named.values()):
            raise _nothing(structured)
    return [
        Wanted(kind, _parsed(kind, value, name), name) for name, (kind, value) in named.items() if value is not None
    ]


def _nothing(structured: StructuredOutputs) -> Exception:
    names = ", ".join(structured.__struct_fields__)
    return invalid_request(f"structured_outputs: give one of {names}.", param="structured_outputs")


def _parsed(kind: Kind, value: Any, param: str) -> Any:
    """Clients send schemas as objects, or as text."""
    if kind != "json" or not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid_request(f"{param}: not JSON: {error}", param=param, code="invalid_schema") from None


def _check(asked: Wanted) -> None:
    if asked.kind == "json":
        check(asked.value, asked.param)
        size = len(json.dumps(asked.value, ensure_ascii=False))
    else:
        size = sum(map(len, asked.value)) if asked.kind == "choice" else len(asked.value)
    if size > MAX_TEXT // 2:
        raise invalid_request(
            f"{asked.param}: {size} characters are more than {MAX_TEXT // 2}.", param=asked.param,
            code="schema_too_complex",
        )  # fmt: skip
