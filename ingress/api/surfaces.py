"""What differs between the surfaces once an answer is rendered: how its events are framed, and how errors look. Pure.

Within the server an error is OpenAI's envelope, also in a journal; it becomes the surface's own where it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ingress.api.answer import encode, envelope
from ingress.api.schema_messages import AnthropicError, AnthropicErrorDetail
from ingress.api.schema_responses import ErrorEvent
from ingress.errors import ApiError

Fail = Callable[[ApiError, int], bytes]


class Surface(NamedTuple):
    """One of them.

    Attributes:
        names_events: an event says its type in a line of its own; the body begins with it.
        done: what says that a stream is whole, beside its last event.
        status: of an error.
        error: body of an error that is all of the answer to the request of that name.
        broken: body of an error that is an event; the number is the event's.
    """

    names_events: bool
    done: bytes
    status: Callable[[ApiError], int]
    error: Callable[[ApiError, str], bytes]
    broken: Fail

    def event(self, response: str, number: int, body: bytes) -> bytes:
        """One event of a response. Bodies are JSON on one line, so they need no splitting."""
        if not self.names_events:
            return b"id: %b:%d\ndata: %b\n\n" % (response.encode(), number, body)
        return b"event: %b\nid: %b:%d\ndata: %b\n\n" % (_type(body), response.encode(), number, body)

    def failure(self, error: ApiError, number: int) -> bytes:
        """The event of an error. It has no id: one cannot go on after it."""
        body = self.broken(error, number)
        return b"event: error\ndata: %b\n\n" % body if self.names_events else b"data: %b\n\n" % body


def of_path(path: str) -> Surface:
    """The surface that a path belongs to."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return RESPONSES if path == "/v1/responses" or path.startswith("/v1/responses/") else OPENAI


def of_response(response: str) -> Surface:
    """The surface of an answer, by its id."""
    return _BY_PREFIX.get(response.partition("_")[0], OPENAI)


def _type(body: bytes) -> bytes:
    """Of a body that begins with `{"type":"…"`."""
    return body[9 : body.index(b'"', 9)]


def _event_error(error: ApiError, number: int) -> bytes:
    """Events of a response count from 0, as its `sequence_number` does."""
    detail = error.envelope()["error"]
    return encode(ErrorEvent(error.code or error.type, error.message, error.param, number - 1, detail))


def _openai_error(error: ApiError, _: str) -> bytes:
    """The name is in its header."""
    return envelope(error)


_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


def _anthropic_status(error: ApiError) -> int:
    return 529 if error.status == 503 else error.status


def _anthropic_error(error: ApiError, name: str | None = None) -> bytes:
    status = _anthropic_status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return encode(AnthropicError(AnthropicErrorDetail(kind, error.message, error.code, error.param), name))  # type: ignore[arg-type]


OPENAI: Final = Surface(
    False, b"data: [DONE]\n\n", lambda error: error.status, _openai_error, lambda error, _: envelope(error)
)
RESPONSES: Final = Surface(True, b"", lambda error: error.status, _openai_error, _event_error)
ANTHROPIC: Final = Surface(True, b"", _anthropic_status, _anthropic_error, lambda error, _: _anthropic_error(error))
_BY_PREFIX: Final = {"resp": RESPONSES, "msg": ANTHROPIC}
