"""Shapes of `/v1/completions`: request, answer (which is also the chunk). Structs only."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingress.api.schema_common import (
    MAX_TOP_LOGPROBS,
    FinishReason,
    Generation,
    PromptLogprobs,
    Refused,
    RequestTiming,
    TokenId,
    Usage,
)

# Text, token ids, or a list of either. One array type here, as msgspec tells unions apart by JSON type; `validate`
# refuses mixtures.
Prompt = (
    str
    | Annotated[
        list[str | TokenId | list[TokenId]],
        Meta(
            min_length=1,
            description="Text, token ids, a list of texts, or a list of lists of token ids; not a mixture.",
        ),
    ]
)


class CompletionRequest(Generation, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/completions`. `max_tokens` is 16 where it is absent."""

    prompt: Prompt
    max_tokens: (
        Annotated[
            int,
            Meta(ge=0, lt=2**31, description="Most tokens to generate; 0, with echo and logprobs, scores the prompt."),
        ]
        | None
    ) = None
    echo: Annotated[bool, Meta(description="Put the prompt before the answer.")] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS, description="Alternatives per token.")] | None = None
    suffix: Refused = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Lists of one entry per token. A token that is no whole text is written `bytes:\\xe2\\x80`.

    `text_offset` counts characters from the start of the choice's text.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, or what a chunk adds to it. `finish_reason` is null in all but a choice's last chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    guards: dict[str, str] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, or one event of a stream. There `headrace` is in the chunk that ends a choice, and of that
    choice."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str | None
    usage: Usage | UnsetType | None = UNSET
    headrace: RequestTiming | UnsetType = UNSET
