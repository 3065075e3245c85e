"""What an upstream's refusal is to our client, whether another should be asked, and whose fault it was. Pure.

An upstream's own words are passed on only where the client's request is what is wrong: all else may name keys,
addresses and accounts that are the operator's business.
"""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ingress.errors import ApiError

Blame = Literal["upstream", "client", "nobody"]

DEFAULT_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 600.0
MAX_MESSAGE: Final = 500

_TOO_LONG: Final = ("context_length", "context length", "context window", "maximum context", "prompt is too long",
                    "exceed_context_size", "too many tokens")  # fmt: skip


class UpstreamError(ApiError):
    """An attempt at an upstream that came to nothing.

    Attributes:
        elsewhere: another model may do better.
        blame: who is counted as having failed.
        wait_s: for which the upstream asks to be left alone; 0 where it does not.
        recorded: the attempt has a row in the ledger.
    """

    def __init__(
        self, status: int, type: str, message: str, *, code: str, elsewhere: bool = True, blame: Blame = "upstream",
        wait_s: float = 0.0, retry_after_s: float | None = None, param: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, type, message, code=code, param=param, retry_after_s=retry_after_s)
        self.elsewhere, self.blame, self.wait_s = elsewhere, blame, wait_s
        self.recorded = False


def failed(model: str, why: str) -> UpstreamError:
    """502: it cannot be spoken with, or sends what cannot be understood."""
    return UpstreamError(502, "server_error", f"The server of {model!r} failed: {why}.", code="upstream_failed")


def late(model: str, what: str, seconds: float) -> UpstreamError:
    """504: it is silent."""
    return UpstreamError(
        504, "server_error", f"The server of {model!r} sent no {what} within {seconds:g} s.", code="upstream_timeout"
    )


def unavailable(model: str, wait_s: float) -> UpstreamError:
    """503: it is not asked at present."""
    return UpstreamError(
        503, "service_unavailable_error", f"The server of {model!r} is not asked at present: its last calls failed.",
        code="upstream_unavailable", blame="nobody", retry_after_s=max(1.0, wait_s),
    )  # fmt: skip


def busy(model: str, most: int) -> UpstreamError:
    """503: as many calls as are allowed are under way."""
    return UpstreamError(
        503, "service_unavailable_error", f"{most} calls to the server of {model!r} are under way.",
        code="upstream_busy", blame="nobody", retry_after_s=1.0,
    )  # fmt: skip


def from_status(model: str, status: int, body: bytes, headers: Mapping[str, str], now_s: float) -> UpstreamError:
    """An answer that is none.

    Args:
        headers: names in lower case.
        now_s: Unix time, for a `Retry-After` that is a date.
    """
    kind, message = _told(body)
    if status in (400, 422, 413) or (status == 404 and "context" in kind):
        return _wrong(status, kind, message)
    wait_s = wait_of(headers, now_s)
    if status == 429 or status == 529 or (status == 503 and wait_s is not None):
        wait = DEFAULT_WAIT_S if wait_s is None else wait_s
        return UpstreamError(
            429 if status == 429 else 503,
            "rate_limit_error" if status == 429 else "service_unavailable_error",
            f"The server of {model!r} has too much to do.", code="upstream_overloaded", blame="nobody", wait_s=wait,
            retry_after_s=max(1.0, wait),
        )  # fmt: skip
    if status in (401, 403):
        return failed(model, f"it does not accept the credential that it is shown ({status}); the operator has to act")
    if status == 404:
        return failed(model, "it does not know the model, or the address is wrong (404); the operator has to act")
    return failed(model, f"it answered {status}")


def from_complaint(model: str, kind: str) -> UpstreamError:
    """An error inside of its stream."""
    if "overloaded" in kind or "rate_limit" in kind:
        return UpstreamError(
            503, "service_unavailable_error", f"The server of {model!r} has too much to do.",
            code="upstream_overloaded", blame="nobody", wait_s=DEFAULT_WAIT_S, retry_after_s=DEFAULT_WAIT_S,
        )  # fmt: skip
    return failed(model, "it broke the answer off")


def wait_of(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds that an answer asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date. None where it
    says nothing that makes sense."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_WAIT_S)
    told = headers.get("retry-after", "").strip()
    seconds = _number(told)
    if seconds is None and told:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return None
    return None if seconds is None else min(max(0.0, seconds), LONGEST_WAIT_S)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _wrong(status: int, kind: str, message: str) -> UpstreamError:
    """The request is what is wrong, in the upstream's words."""
    said = message.lower()
    long = status == 413 or any(sign in kind or sign in said for sign in _TOO_LONG)
    return UpstreamError(
        400, "invalid_request_error", message or f"The model does not take this request ({status}).",
        code="context_length_exceeded" if long else "upstream_refused", elsewhere=long, blame="client",
    )  # fmt: skip


def _told(body: bytes) -> tuple[str, str]:
    """Kind and message of an error's body, in any of the field's shapes; empty where it has none."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "", ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, str):
        return "", error[:MAX_MESSAGE]
    if not isinstance(error, dict):
        return "", ""
    # Of llama.cpp the code is the status again, and the type is what says something.
    kind = next((told for told in (error.get("code"), error.get("type")) if isinstance(told, str) and told), "")
    message = error.get("message") or error.get("detail")
    return kind, (message[:MAX_MESSAGE] if isinstance(message, str) else "")
