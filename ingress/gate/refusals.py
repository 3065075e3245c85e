"""What a caller is told who does not get through. Nothing here tells a stranger whether a key exists."""

from __future__ import annotations

from bus.orders import allowance_in_words
from ingress.errors import ApiError, unauthorized
from ingress.gate.leases import Bucket

DOWN_RETRY_S = 2.0


def no_key() -> ApiError:
    """401: nothing that looks like a key was shown."""
    return unauthorized("No API key was given. Send one as `Authorization: Bearer sk-...`.")


def wrong_key() -> ApiError:
    """401: there is no such key, or its secret is another one."""
    return unauthorized("The API key is not valid. Ask your operator for one (headrace keys create).")


def revoked(id: str) -> ApiError:
    """401; told to those only who have its secret."""
    return unauthorized(f"The API key sk-{id}-... has been revoked.")


def expired(id: str) -> ApiError:
    """401; told to those only who have its secret."""
    return unauthorized(f"The API key sk-{id}-... has expired.")


def forbidden(message: str, *, code: str, param: str | None = None) -> ApiError:
    """403: a good key that may not do this."""
    return ApiError(403, "permission_error", message, code=code, param=param)


def not_this_model(model: str) -> ApiError:
    """403: the key is for other models."""
    return forbidden(f"This API key may not use the model {model!r}.", code="model_not_allowed", param="model")


def too_many_failures() -> ApiError:
    """429: so many wrong keys are shown that their answers cannot all be held back."""
    return ApiError(
        429, "rate_limit_error", "Too many wrong API keys.", code="rate_limit_exceeded", retry_after_s=DOWN_RETRY_S
    )


def unavailable(message: str) -> ApiError:
    """503: who may do what is not known now. Never 401: the key may be good."""
    return ApiError(503, "service_unavailable_error", message, code="accounts_unavailable", retry_after_s=DOWN_RETRY_S)


def never_fits(bucket: Bucket, needs: int) -> ApiError:
    """400: it is more than the limit lets through at all."""
    return ApiError(
        400, "invalid_request_error",
        f"This request needs {needs} {_unit(bucket)}, and never gets more at once than {_limit(bucket)}.",
        code="request_exceeds_limit", should_retry=False,
    )  # fmt: skip


def limited(bucket: Bucket) -> ApiError:
    """429: the limit is used up for now, or the budget until its next period."""
    allowance = bucket.allowance
    if allowance.dimension == "money":
        when = "for good" if allowance.period == "total" else f"in this {_period(allowance.period)}"
        return ApiError(
            429, "insufficient_quota", f"The budget of {allowance.kind} {allowance.scope} is used up {when}.",
            code="insufficient_quota", should_retry=False,
        )  # fmt: skip
    wait_s = max(0.001, bucket.next_ms / 1000)
    return ApiError(
        429, "rate_limit_error",
        f"The limit of {allowance.kind} {allowance.scope} is used up: {_limit(bucket)}. Try again in {wait_s:.3g} s.",
        code="rate_limit_exceeded", retry_after_s=wait_s,
    )  # fmt: skip


def _limit(bucket: Bucket) -> str:
    return allowance_in_words(bucket.allowance)


def _unit(bucket: Bucket) -> str:
    dimension = bucket.allowance.dimension
    return {"concurrency": "answers at once", "requests": "requests"}.get(dimension, dimension.replace("_", " "))


def _period(period: str) -> str:
    return f"time of {period} s" if period.isdigit() else period
