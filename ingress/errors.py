"""The one error that reaches a client: status, OpenAI envelope and, where it helps, when to come back.

How it is rendered is the fronts' business; here is what kinds there are and what they say.
"""

from __future__ import annotations

import math
from typing import Final

from bus.messages.requests import Refused

CROWDED_RETRY_S: Final = 1.0
DRAINING_RETRY_S: Final = 1.0


class ApiError(Exception):
    """A request that cannot be served.

    Attributes:
        status: HTTP status.
        type, code, param, message: the four members of OpenAI's error object.
        retry_after_s: seconds after which the same request may succeed; `None` where waiting does not help.
        should_retry: False tells clients that try again by themselves not to.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """`{"error": {message, type, param, code}}`, all four always present."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def retry_after_header(self) -> str | None:
        """The value of `Retry-After`: whole seconds, at least one; `None` where the header is left out."""
        return None if self.retry_after_s is None else str(max(1, math.ceil(self.retry_after_s)))

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """When to try again, if at all, as clients of OpenAI's API read it."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after_s is not None and (seconds := self.retry_after_header) is not None:
            found = [
                (b"retry-after", seconds.encode()),
                (b"retry-after-ms", b"%d" % math.ceil(self.retry_after_s * 1e3)),
            ]
        if self.should_retry is not None:
            found.append((b"x-should-retry", b"true" if self.should_retry else b"false"))
        return found


def invalid_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong; sending it again will not help."""
    return ApiError(400, "invalid_request_error", message, param=param, code=code)


def unsupported_parameter(param: str, message: str) -> ApiError:
    """400: a parameter that OpenAI's schema knows and this server refuses, by name."""
    return ApiError(400, "invalid_request_error", message, param=param, code="unsupported_parameter")


def context_length_exceeded(message: str, *, param: str | None = None) -> ApiError:
    """400: prompt, or prompt and output, do not fit the context."""
    return ApiError(400, "invalid_request_error", message, param=param, code="context_length_exceeded")


def unauthorized(message: str) -> ApiError:
    """401: no key, or one that is not known."""
    return ApiError(401, "invalid_request_error", message, code="invalid_api_key")


def not_found(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """404: no such path, or no such thing."""
    return ApiError(404, "invalid_request_error", message, param=param, code=code)


def model_not_found(model: str, known: tuple[str, ...]) -> ApiError:
    """404: the model is not served here."""
    served = ", ".join(known) or "none"
    message = f"The model {model!r} is not served here. Served: {served}."
    return ApiError(404, "invalid_request_error", message, param="model", code="model_not_found")


def too_large(message: str) -> ApiError:
    """413: the body is larger than `ingress.max_body`."""
    return ApiError(413, "invalid_request_error", message, code="request_too_large")


def overloaded(message: str, retry_after_s: float) -> ApiError:
    """429: too much work is waiting already."""
    return ApiError(429, "rate_limit_error", message, code="rate_limit_exceeded", retry_after_s=retry_after_s)


def internal(message: str, *, code: str | None = None) -> ApiError:
    """500: a fault of this server."""
    return ApiError(500, "server_error", message, code=code)


def not_ready(message: str, retry_after_s: float) -> ApiError:
    """503: the model cannot answer now, and probably can soon."""
    return ApiError(503, "service_unavailable_error", message, code="not_ready", retry_after_s=retry_after_s)


def adapter_unusable(name: str, trouble: str) -> ApiError:
    """503: an adapter that is configured cannot be read."""
    why = f"cannot be used: {trouble}" if trouble else "is not ready yet."
    return ApiError(
        503, "service_unavailable_error", f"The adapter {name!r} {why}", code="not_ready", retry_after_s=5.0
    )


def crowded() -> ApiError:
    """503: this process has as many connections as it takes."""
    return ApiError(
        503, "service_unavailable_error", "Too many connections.", code="overloaded", retry_after_s=CROWDED_RETRY_S
    )


def draining() -> ApiError:
    """503: this process takes nothing new; a new connection finds one that does."""
    return not_ready("This process is being taken out of service.", DRAINING_RETRY_S)


def deadline(message: str) -> ApiError:
    """503: the answer would come after the request's own deadline."""
    return ApiError(503, "service_unavailable_error", message, code="deadline_exceeded")


def from_refusal(refused: Refused) -> ApiError:
    """What a scheduler's refusal is to a client."""
    wait_s = max(refused.retry_after_s, 1.0)
    match refused.code:
        case "overloaded":
            return overloaded(refused.message, wait_s)
        case "not_ready" | "draining":
            return not_ready(refused.message, wait_s)
        case "deadline":
            return deadline(refused.message)
        case "too_long":
            return context_length_exceeded(refused.message)
        case "invalid":
            return invalid_request(refused.message)
        case "adapter":
            return ApiError(404, "invalid_request_error", refused.message, code="model_not_found", param="model")
        case "quarantined":
            return internal(refused.message, code="quarantined")
