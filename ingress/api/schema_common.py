"""Shapes that chat completions and completions share. Structs only; checks between fields are in `validate`.

Every parameter of OpenAI's schema is declared: one that is not served is declared as refused, so that it is answered
by name. Ranges are in the types, so the OpenAPI document states them too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128  # prompts of one call times their samples: each is a stream of its own in the engine

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

# Kept as anything: `validate` accepts only values that change nothing, and refuses the others by name.
Refused = Annotated[Any, Meta(description="Not served: refused with 400 unless null or a value that changes nothing.")]

ModelName = Annotated[str, Meta(min_length=1, max_length=128, description="Name of a served model; see /v1/models.")]
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
TokenId = Annotated[int, Meta(ge=0, lt=2**32)]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream holds besides the text."""

    include_usage: Annotated[bool, Meta(description="One more chunk with the usage before the end.")] | None = None
    include_obfuscation: Refused = None
    continuous_usage_stats: Refused = None


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What `Cache-Control` says in a header, for clients that cannot send one."""

    no_cache: Annotated[bool, Meta(description="Generate anew; the answer replaces what is kept.")] | None = None
    no_store: Annotated[bool, Meta(description="Neither look up nor keep.")] | None = None
    max_age: Annotated[float, Meta(ge=0, description="Oldest answer that will do, in seconds.")] | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the answer shall be: one of these."""

    json: Annotated[dict[str, Any] | str | bool, Meta(description="A JSON Schema.")] | None = None
    regex: Annotated[str, Meta(min_length=1, description="The whole answer matches it.")] | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=4096, description="It is one of these.")] | None = None
    grammar: Annotated[str, Meta(min_length=1, description="A grammar, as Lark or GBNF have them.")] | None = None
    json_object: Annotated[bool, Meta(description="Any JSON object.")] | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters that both generation endpoints take."""

    model: ModelName
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] | None = None
    stream_options: StreamOptions | None = None
    n: (
        Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Choices per prompt; choice i draws with seed + i.")]
        | None
    ) = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 is greedy. Default: the model's, or 1.")] | None = (
        None
    )
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, Meta(ge=-100, le=100)]],
            Meta(max_length=1024, description="Token id to bias."),
        ]
        | None
    ) = None
    seed: (
        Annotated[
            int, Meta(ge=-(2**63), le=2**63 - 1, description="The same seed draws the same tokens. Default random.")
        ]
        | None
    ) = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None
    user: Annotated[str, Meta(description="Accepted, not used.")] | None = None

    # Extensions of the field, under their usual names.
    top_k: Annotated[int, Meta(ge=-1, lt=2**31, description="0 and -1 are off.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, lt=2**31, description="No end before so many tokens.")] | None = None
    ignore_eos: Annotated[bool, Meta(description="The end-of-sequence token does not end the answer.")] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: Annotated[bool, Meta(description="Default true.")] | None = None
    return_token_ids: Annotated[bool, Meta(description="Adds prompt_token_ids and token_ids.")] | None = None
    prompt_logprobs: (
        Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS, description="Alternatives per prompt token.")] | None
    ) = None
    best_of: (
        Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Samples per prompt, of which the n best are answered.")]
        | None
    ) = None
    best_of_scorer: (
        Annotated[
            str,
            Meta(min_length=1, max_length=128, description="mean_logprob (default), or a served model that judges."),
        ]
        | None
    ) = None
    max_total_tokens: (
        Annotated[int, Meta(ge=1, lt=2**31, description="Most tokens that all samples of the call draw together.")]
        | None
    ) = None
    use_beam_search: Annotated[bool, Meta(description="Search for the most probable answers.")] | None = None
    beam_width: (
        Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Beams that run at once. Default best_of, or n.")] | None
    ) = None
    length_penalty: (
        Annotated[float, Meta(ge=-10, le=10, description="Power of the length that a beam's score is divided by.")]
        | None
    ) = None
    early_stopping: bool | Literal["never"] | None = None
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31, description="Lower runs earlier. Default 0.")] | None = None
    include_timing: Annotated[bool, Meta(description="Adds `headrace`: where the time of the answer went.")] | None = (
        None
    )
    structured_outputs: StructuredOutputs | None = None
    guided_json: Annotated[dict[str, Any] | str | bool, Meta(description="structured_outputs.json.")] | None = None
    guided_regex: Annotated[str, Meta(min_length=1, description="structured_outputs.regex.")] | None = None
    guided_choice: (
        Annotated[list[str], Meta(min_length=1, max_length=4096, description="structured_outputs.choice.")] | None
    ) = None
    guided_grammar: Annotated[str, Meta(min_length=1, description="structured_outputs.grammar.")] | None = None
    cache: Annotated[CacheOptions, Meta(description="How this call is cached.")] | None = None
    cache_salt: (
        Annotated[
            str,
            Meta(min_length=1, max_length=256, description="Prefixes are shared only with requests of the same salt."),
        ]
        | None
    ) = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.stream)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` in its long form."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CachedTokens(msgspec.Struct, frozen=True, gc=False):
    """Tokens whose KV was found instead of computed, by where."""

    memory: int
    disk: int


class IngressTiming(msgspec.Struct, frozen=True, gc=False):
    """Work of the server's front, in milliseconds; `wait_ms` is until the model's scheduler could be told."""

    parse_ms: float
    template_ms: float
    tokenize_ms: float
    wait_ms: float
    text_ms: float


class RequestTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one answer went, in milliseconds, over all processes that had it and died.

    `total_ms` ends with the last token. `held_ms` is by cause the part of `queue_ms` that was not just its turn.
    `longest_gap_*`: between two tokens, the step that ended it, and how many tokens came before. `chunks` and
    `computed_tokens` are of the prompt, and of what had to be computed again. `accepted_draft_tokens` had no step of
    their own; the other drafts were wrong. `headrace explain` takes `request`.
    """

    request: str
    total_ms: float
    ttft_ms: float | None
    queue_ms: float
    held_ms: dict[str, float]
    prefill_ms: float
    decode_ms: float
    recovery_ms: float
    longest_gap_ms: float
    longest_gap_step: int | None
    longest_gap_after: int | None
    cached_tokens: CachedTokens
    computed_tokens: int
    chunks: int
    steps: int
    draft_tokens: int
    accepted_draft_tokens: int
    tokens: int
    preemptions: int
    resumptions: int
    ingress: IngressTiming
    choices: list[RequestTiming] | UnsetType = UNSET


class PromptTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """Part of `Usage`."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """Part of `Usage`: tokens of the answer that were thought and not said, and tokens that were drawn for it and are
    in none of its choices, where samples were chosen from. Beams share tokens, so of those it may be below zero."""

    reasoning_tokens: int
    unchosen_tokens: int | UnsetType = UNSET


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What the call cost. `cached_tokens` are prompt tokens whose KV was found instead of computed. `estimated` is
    there where a server elsewhere did not say, or said what cannot be. `max_total_tokens` is what `completion_tokens`
    were not to exceed, where the call said so."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    estimated: bool | UnsetType = UNSET
    max_total_tokens: int | UnsetType = UNSET


class PromptTokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """One candidate for a prompt token. `rank` counts from 1 among the reported, and is absent below them."""

    logprob: float
    decoded_token: str
    rank: int | UnsetType = UNSET


# One entry per prompt token, by token id; the first token has none.
PromptLogprobs = list[dict[str, PromptTokenLogprob] | None]


class ErrorDetail(msgspec.Struct, frozen=True):
    """All four keys are always there, as in OpenAI's envelope."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success, and of an error inside a stream."""

    error: ErrorDetail
