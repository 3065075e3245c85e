"""Shapes of `/v1/chat/completions`: request, answer, chunk. Structs only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingress.api.schema_common import (
    MAX_TOP_LOGPROBS,
    Effort,
    FinishReason,
    Generation,
    PromptLogprobs,
    Refused,
    RequestTiming,
    Usage,
)


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text. Parts of one message are joined by a line feed."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    """A refusal of an earlier answer; read as text."""

    refusal: str


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """Refused: no served model reads images."""

    image_url: Refused = None


class AudioPart(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """Refused: no served model hears."""

    input_audio: Refused = None


class FilePart(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    """Refused: files are not kept."""

    file: Refused = None


Content = str | list[TextPart | RefusalPart | ImagePart | AudioPart | FilePart]


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system", forbid_unknown_fields=True):
    """Instructions."""

    content: Content
    name: str | None = None


class DeveloperMessage(msgspec.Struct, frozen=True, tag_field="role", tag="developer", forbid_unknown_fields=True):
    """Instructions, under OpenAI's newer name; templates see the role `system`."""

    content: Content
    name: str | None = None


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user", forbid_unknown_fields=True):
    """What a person says."""

    content: Content
    name: str | None = None


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that an earlier answer made; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call of an earlier answer, as it was given out."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """An earlier answer. Takes back every key that an answer has, so that clients can append what they were given."""

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    annotations: list[Any] | None = None
    audio: Refused = None


class ToolMessage(msgspec.Struct, frozen=True, tag_field="role", tag="tool", forbid_unknown_fields=True):
    """What a tool answered."""

    content: Content
    tool_call_id: str
    name: str | None = None


class FunctionMessage(msgspec.Struct, frozen=True, tag_field="role", tag="function", forbid_unknown_fields=True):
    """What a function answered (deprecated form of `tool`)."""

    content: Content | None
    name: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
Messages = Annotated[list[Message], Meta(min_length=1, max_length=10_000)]


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Anything."""


class ObjectFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON Schema. It is followed whether `strict` or not; without one, any JSON object is."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class SchemaFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    """JSON of a schema."""

    json_schema: NamedSchema


class ChatRequest(Generation, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages
    max_tokens: (
        Annotated[int, Meta(ge=1, lt=2**31, description="Most tokens to generate. Default: what fits.")] | None
    ) = None
    max_completion_tokens: Annotated[int, Meta(ge=1, lt=2**31, description="Newer name of max_tokens.")] | None = None
    logprobs: Annotated[bool, Meta(description="Log probability of each token.")] | None = None
    top_logprobs: (
        Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS, description="Alternatives per token; needs logprobs.")] | None
    ) = None
    add_generation_prompt: Annotated[bool, Meta(description="Default true.")] | None = None
    continue_final_message: (
        Annotated[bool, Meta(description="Go on with the last message instead of starting a new one.")] | None
    ) = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="More variables of the template.")] | None = None
    allow_special_tokens: (
        Annotated[bool, Meta(description="Names of control tokens in messages become these tokens. Default false.")]
        | None
    ) = None

    tools: (
        Annotated[list[dict[str, Any]], Meta(description="Functions that the answer may call.", max_length=128)] | None
    ) = None
    tool_choice: (
        Annotated[
            str | dict[str, Any],
            Meta(description='"none", "auto" (default), "required", or {"type": "function", "function": {"name": …}}.'),
        ]
        | None
    ) = None
    parallel_tool_calls: Annotated[bool, Meta(description="The answer may call several. Default true.")] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    reasoning_effort: Annotated[Effort, Meta(description="How much the model thinks before it answers.")] | None = None
    thinking_token_budget: (
        Annotated[int, Meta(ge=0, lt=2**31, description="Tokens of the thought, after which it is closed.")] | None
    ) = None

    # Accepted: they change nothing here.
    metadata: Annotated[dict[str, str], Meta(description="Accepted, not kept.")] | None = None
    safety_identifier: Annotated[str, Meta(description="Accepted, not used.")] | None = None
    prompt_cache_key: Annotated[str, Meta(description="Accepted: every prompt's prefix is cached.")] | None = None
    functions: Annotated[list[dict[str, Any]], Meta(description='Refused unless function_call is "none".')] | None = (
        None
    )

    audio: Refused = None
    function_call: Refused = None
    modalities: Refused = None
    moderation: Refused = None
    prediction: Refused = None
    prompt_cache_options: Refused = None
    prompt_cache_retention: Refused = None
    enable_thinking: Refused = None
    include_reasoning: Refused = None
    reasoning: Refused = None
    service_tier: Refused = None
    store: Refused = None
    thinking: Refused = None
    thinking_budget: Refused = None
    verbosity: Refused = None
    web_search_options: Refused = None

    @property
    def limit(self) -> int | None:
        """Most tokens to generate, under either name; None is as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """An alternative at one position. `bytes` are the token's own, as a token may be part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """A drawn token and the alternatives at its position, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a choice, or of a chunk's part of it."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and the thought before it where the model thinks. A refusal stands in place of content."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `stop_reason` is the stop string or stop token id that ended it, null for any other end."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    token_ids: list[int] | UnsetType = UNSET
    guards: dict[str, str] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a call that does not stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default", "flex"] = "default"
    system_fingerprint: str | None
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    headrace: RequestTiming | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, gc=False):
    """What a chunk adds to a call: its name, with the first, or more of its arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class CallDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a chunk adds to the call of that index. Its id comes with the first."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a chunk adds to a choice's message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to a choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    guards: dict[str, str] | UnsetType = UNSET


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. With `stream_options.include_usage` all but the last have `usage: null`. `headrace` is in
    the chunk that ends a choice, and of that choice."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    service_tier: Literal["default", "flex"] = "default"
    system_fingerprint: str | None
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    headrace: RequestTiming | UnsetType = UNSET
