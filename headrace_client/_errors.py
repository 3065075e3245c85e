"""Everything that a call can raise. The tree is drawn in the package's docstring."""

from __future__ import annotations

from typing import Any

import msgspec

from bus.messages.clients import CallFailed


class HeadraceError(Exception):
    """Base of all."""


class ConnectionFailed(HeadraceError):
    """No server could be reached, or it was lost and none could go on."""


class CallTimeout(HeadraceError):
    """Nothing was heard of a call for the client's `timeout`."""


class StreamBroken(HeadraceError):
    """An answer was begun again after its server was lost, and came out different."""


class ApiStatusError(HeadraceError):
    """The server refused a call, or failed.

    Attributes:
        status: as over HTTP.
        message, type, code, param: OpenAI's error object.
        retry_after: seconds after which the same call may succeed; 0 where waiting does not help.
    """

    def __init__(self, status: int, error: dict[str, Any], retry_after: float = 0.0) -> None:
        self.status = status
        self.message = str(error.get("message") or f"status {status}")
        self.type: str | None = error.get("type")
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")
        self.retry_after = retry_after
        super().__init__(self.message)


class BadRequest(ApiStatusError):
    """The call is wrong as it is; sending it again will not help."""


class Unauthorized(ApiStatusError):
    """The key is missing, unknown, or not for this."""


class NotFound(ApiStatusError):
    """No such model, or stream."""


class Overloaded(ApiStatusError):
    """Too much work is waiting: come back after `retry_after` seconds."""


class Unavailable(ApiStatusError):
    """Not ready now, and probably soon."""


class ServerFault(ApiStatusError):
    """The server failed."""


def from_failure(failed: CallFailed) -> ApiStatusError:
    """The exception of a failed call."""
    try:
        error = msgspec.json.decode(failed.body)["error"]
    except (msgspec.DecodeError, LookupError, TypeError):
        error = {}
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: Overloaded, 503: Unavailable}
    kind = kinds.get(failed.status, BadRequest if failed.status < 500 else ServerFault)
    return kind(failed.status, error if isinstance(error, dict) else {}, failed.retry_after_s)
