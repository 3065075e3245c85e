"""What a request for a stored response asks, in its path and query string. Pure."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

from bus.messages.clients import Operation
from ingress.api.answer import encode
from ingress.errors import invalid_request, unsupported_parameter

_KNOWN: Final[dict[Operation, frozenset[str]]] = {
    "responses.retrieve": frozenset({"stream", "starting_after", "include_obfuscation", "include", "include[]"}),
    "responses.input_items": frozenset({"after", "limit", "order", "include", "include[]"}),
}
_BOOLEAN: Final = {"true": True, "false": False}


def wanted_stream(query: str) -> int | None:
    """The number of the event after which a stream is asked for; None where the response itself is.

    Raises:
        ApiError: 400, see `reference`.
    """
    given = _parameters("responses.retrieve", query)
    if not _boolean(given, "stream"):
        if "starting_after" in given:
            raise invalid_request("starting_after needs stream to be true.", param="starting_after")
        return None
    after = given.get("starting_after")
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit()) or len(after) > 18:
        raise invalid_request("starting_after is the sequence_number of an event.", param="starting_after")
    # Sequence numbers count from 0, events of a stream from 1.
    return int(after) + 1


def reference(operation: Operation, response: str, query: str, body: bytes) -> bytes:
    """The call's body for the pipeline.

    Raises:
        ApiError: 400, a parameter is unknown, not served, or wrong.
    """
    if body.strip() not in (b"", b"{}", b"null"):
        raise invalid_request("Nothing is expected in the body.", code="invalid_type")
    given: dict[str, Any] = {
        name: value for name, value in _parameters(operation, query).items() if name in ("after", "limit", "order")
    }
    if "limit" in given:
        if not (given["limit"].isascii() and given["limit"].isdigit()) or len(given["limit"]) > 9:
            raise invalid_request("limit is a number from 1 to 100.", param="limit")
        given["limit"] = int(given["limit"])
    return encode({"response_id": response, **given})


def _parameters(operation: Operation, query: str) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=32, errors="strict")
    except ValueError as error:
        raise invalid_request(f"The query string cannot be read: {error}.") from None
    known = _KNOWN.get(operation, frozenset())
    for name, value in given:
        if name not in known:
            raise invalid_request(f"Unknown parameter: {name!r}.", param=name[:256], code="unknown_parameter")
        if name.startswith("include") and name != "include_obfuscation":
            raise unsupported_parameter(name, f"{name}: everything that is kept is in the answer.")
        if name == "include_obfuscation" and value != "false":
            raise unsupported_parameter(name, f"{name}: events are not padded.")
    return dict(given)


def _boolean(given: dict[str, str], name: str) -> bool:
    try:
        return _BOOLEAN[given.get(name, "false")]
    except KeyError:
        raise invalid_request(f"{name} is true or false.", param=name) from None
