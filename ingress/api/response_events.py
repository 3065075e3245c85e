"""A response from its events, at any time: what is begun, how it stands, how it ended. Pure but for waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ingress.api.answer import encode, is_failure, told_failure
from ingress.api.events import Events
from ingress.api.once import only
from ingress.errors import ApiError, internal

_LAST = ("response.completed", "response.incomplete")


class _Event(msgspec.Struct, frozen=True):
    type: str
    response: Raw | UnsetType = UNSET
    item_id: str = ""
    delta: str = ""


_decoder = msgspec.json.Decoder(_Event)


async def begun(events: Events) -> bytes:
    """The response as it is made.

    Raises:
        ApiError: it is not kept any more.
    """
    first = b""

    def hear(_: int, body: bytes) -> bool:
        nonlocal first
        first = body
        return False

    if await events.follow(0, hear):
        raise internal("The response was not kept.")
    if is_failure(first):
        raise told_failure(first)
    return _response(first)


async def ended(events: Events) -> bytes:
    """The response at its end.

    Raises:
        ApiError: it failed, or is not kept any more.
    """
    return _response(await only(events))


def current(events: Sequence[bytes]) -> bytes:
    """The response as it stands."""
    last = events[-1]
    if is_failure(last):
        failed = told_failure(last)
        return _changed(events, status="failed", error={"code": "server_error", "message": failed.message})
    if _decoder.decode(last).type in _LAST:
        return _response(last)
    return _response(events[min(1, len(events) - 1)])


def output_of(response: bytes) -> list[dict[str, Any]]:
    """The output items of a response that came to its end.

    Raises:
        ApiError: 400, it did not.
    """
    told: dict[str, Any] = msgspec.json.decode(response)
    if told["status"] not in ("completed", "incomplete"):
        raise ApiError(
            400,
            "invalid_request_error",
            f"The response {told['id']!r} is {told['status']}: one can only go on with one that came to its end.",
            param="previous_response_id",
            code="previous_response_not_complete",
        )
    output: list[dict[str, Any]] = told["output"]
    return output


def cancelled(events: Sequence[bytes]) -> bytes:
    """The event that ends a response which is not wanted any more, with the text so far."""
    texts: dict[str, str] = {}
    for body in events:
        event = _decoder.decode(body)
        if event.type == "response.output_text.delta":
            texts[event.item_id] = texts.get(event.item_id, "") + event.delta
    output = [
        {
            "type": "message", "id": item, "status": "incomplete", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        }
        for item, text in texts.items()
    ]  # fmt: skip
    response = Raw(_changed(events, status="cancelled", output=output))
    # OpenAI has no event of its own for it; the response's status says what it was.
    return encode({"type": "response.incomplete", "response": response, "sequence_number": len(events)})


def _changed(events: Sequence[bytes], **values: Any) -> bytes:
    """The response as it was made, but for some values."""
    made: dict[str, Any] = msgspec.json.decode(_response(events[0]))
    return encode({**made, **values})


def _response(body: bytes) -> bytes:
    found = _decoder.decode(body).response
    if isinstance(found, UnsetType):
        raise internal("The response was not kept.")
    return bytes(found)
