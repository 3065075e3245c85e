"""Whether a model can answer a call at all. What is checked here is hard: no weight and no score goes over it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ingress.errors import ApiError, context_length_exceeded, invalid_request, unsupported_parameter
from ingress.router.candidate import Asked, Candidate

Why = Literal["not_allowed", "surface", "parameter", "context", "shut"]


class Unfit(NamedTuple):
    """Why not.

    Attributes:
        detail: the parameter, where it is one.
        retry_s: after which it may be otherwise; 0 is never.
    """

    why: Why
    detail: str = ""
    retry_s: float = 0.0


def why_not(candidate: Candidate, asked: Asked) -> Unfit | None:
    """The first reason why a model cannot answer; None where it can, as far as is known.

    The length of the prompt is an estimate, so it counts only where it is wrong by a factor for a prompt to fit all the
    same: what is close is for the model itself to refuse, and then the next one is asked.
    """
    if not candidate.allowed:
        return Unfit("not_allowed")
    if asked.surface not in candidate.surfaces:
        return Unfit("surface")
    for capability, parameter in asked.needs.items():
        if capability not in candidate.offers:
            return Unfit("parameter", parameter)
    if candidate.refused:
        return Unfit("parameter", candidate.refused)
    room = candidate.context_tokens - (asked.max_tokens or 1)
    if candidate.context_tokens and (room < 1 or asked.prompt_tokens > 1.5 * room):
        return Unfit("context")
    if candidate.standing == "shut":
        return Unfit("shut", retry_s=candidate.retry_s)
    return None


def refusal(name: str, unfit: Mapping[str, Unfit]) -> ApiError:
    """What a client is told where no model is fit: what could change soonest comes first."""
    by_why = {one.why: one for one in unfit.values()}
    if "shut" in by_why:
        wait_s = max(1.0, min(one.retry_s for one in unfit.values() if one.why == "shut"))
        return ApiError(
            503, "service_unavailable_error", f"No server that {name!r} leads to can be reached now.",
            code="upstream_unavailable", retry_after_s=wait_s,
        )  # fmt: skip
    if "context" in by_why:
        return context_length_exceeded(f"The prompt, with max_tokens, is too long for {name!r}.")
    if "parameter" in by_why:
        parameter = by_why["parameter"].detail
        return unsupported_parameter(parameter, f"{parameter}: not served by {name!r}.")
    if "surface" in by_why:
        return invalid_request(
            f"{name!r} answers chats, responses and messages; not this endpoint.", param="model",
            code="unsupported_endpoint",
        )  # fmt: skip
    return ApiError(
        403, "permission_error", f"This API key may use none of the models that {name!r} leads to.",
        code="model_not_allowed", param="model",
    )  # fmt: skip
