"""What is said to a client whose request cannot be served: OpenAI's envelope, and a status."""

from __future__ import annotations

import msgspec


class Refusal(Exception):
    """A request that cannot be served.

    Attributes:
        status: HTTP status.
        body: `{"error": {message, type, param, code}}`, all four always present.
        retry_after_s: 0 where waiting does not help.
    """

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after_s = status, message, code, retry_after_s
        kind = {429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error"}
        error = {
            "message": message,
            "type": kind.get(status, "invalid_request_error"),
            "param": param,
            "code": code,
        }
        self.body = msgspec.json.encode({"error": error})


def no_file(id: str) -> Refusal:
    """404: there is none, or it is another project's."""
    return Refusal(404, f"There is no file {id[:80]!r}.", code="file_not_found", param="file_id")


def no_batch(id: str) -> Refusal:
    """404: there is none, or it is another project's."""
    return Refusal(404, f"There is no batch {id[:80]!r}.", code="batch_not_found", param="batch_id")


def no_room(why: object) -> Refusal:
    """503: the disk is full, or does not take what is written."""
    return Refusal(503, f"Files cannot be written now: {why}", code="storage_unavailable", retry_after_s=10.0)
