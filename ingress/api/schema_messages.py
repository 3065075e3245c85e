"""Shapes of Anthropic's `/v1/messages`: request, message, events, errors. Structs only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingress.api.schema_common import ModelName, Refused, StopString
from ingress.api.schema_extensions import Extensions

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "refusal", "tool_use"]
CacheControl = Annotated[Any, Meta(description="Accepted: every prompt's prefix is cached.")]

# --- what is asked ---------------------------------------------------------------------------------------------------


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text. Blocks of one message are joined by a line feed."""

    text: str
    cache_control: CacheControl = None
    citations: list[Any] | None = None


class ImageBlock(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    """Refused: no served model reads images."""

    source: Refused = None


class DocumentBlock(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    """Refused: documents are not read."""

    source: Refused = None


class SearchResultBlock(msgspec.Struct, frozen=True, tag_field="type", tag="search_result"):
    """Refused: say it in the prompt."""

    source: Refused = None


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use", forbid_unknown_fields=True):
    """A call that an earlier answer made."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl = None
    caller: Any = None


class ToolResultBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result", forbid_unknown_fields=True):
    """What a tool answered."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] = ""
    is_error: bool | None = None
    cache_control: CacheControl = None


class ThinkingInput(msgspec.Struct, frozen=True, tag_field="type", tag="thinking", forbid_unknown_fields=True):
    """A thought of an earlier answer, as it was given out; given to the template with its answer."""

    thinking: str
    signature: str = ""


class RedactedThinking(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    """Refused: nothing of the kind was ever given out here."""

    data: Refused = None


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingInput
    | RedactedThinking
)


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one side said. The last of an assistant is gone on with."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Meta(max_length=10_000)]


class RequestMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accepted, not used."""

    user_id: str | None = None


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the answer may call. Its input is a JSON object of that schema."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether and what to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether and how much to think."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: (
        Annotated[int, Meta(ge=1, lt=2**31, description="Tokens of the thought, after which it is closed.")] | None
    ) = None
    display: Refused = None


class OutputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to put into the answer."""

    effort: (
        Annotated[Literal["low", "medium", "high", "xhigh", "max"], Meta(description="How much to think.")] | None
    ) = None
    format: Refused = None


class CountRequest(Extensions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/messages/count_tokens`."""

    model: ModelName
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=10_000)]
    system: str | list[TextBlock] | None = None
    cache_control: CacheControl = None
    tools: Annotated[list[ToolDefinition], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingSettings | None = None
    output_config: OutputSettings | None = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Meta(ge=1, lt=2**31, description="Most tokens to generate.")]
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] | None = None
    stop_sequences: Annotated[list[StopString], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1, description="0 is greedy. Default: the model's, or 1.")] | None = (
        None
    )
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    metadata: RequestMetadata | None = None

    container: Refused = None
    context_management: Refused = None
    diagnostics: Refused = None
    inference_geo: Refused = None
    mcp_servers: Refused = None
    prefill: Refused = None
    service_tier: Refused = None
    speed: Refused = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.stream)


# --- what is answered ------------------------------------------------------------------------------------------------


class AnswerText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text of the answer."""

    text: str
    citations: None = None


class AnswerThinking(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """The thought before the answer. Nothing is signed here."""

    thinking: str
    signature: str = ""


class AnswerToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool. In a stream its input comes in pieces of JSON text, after it has begun with none."""

    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse


class ThinkingTokens(msgspec.Struct, frozen=True, gc=False):
    """Part of `MessageUsage`."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, gc=False):
    """What the message cost. The prompt is `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens_details: ThinkingTokens | UnsetType = UNSET
    service_tier: Literal["standard"] | UnsetType = UNSET


class AnthropicMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """The answer."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    """Begins a stream."""

    message: AnthropicMessage


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Nothing."""


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: AnswerBlock


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More of a thought."""

    thinking: str


class InputDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of a call's input, as JSON text."""

    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | InputDelta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is complete."""

    index: int


class StopDelta(msgspec.Struct, frozen=True):
    """How the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    """How the message ended, and what it cost in all."""

    delta: StopDelta
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    """Ends a stream."""


MessageStreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class TokenCount(msgspec.Struct, frozen=True):
    """The answer of `POST /v1/messages/count_tokens`."""

    input_tokens: int


class AnthropicErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong. `code` and `param` are those of the other surfaces."""

    type: Literal[
        "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
        "request_too_large", "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
    ]  # fmt: skip
    message: str
    code: str | None = None
    param: str | None = None


class AnthropicError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of every answer that is not a success, and of an error inside a stream."""

    error: AnthropicErrorDetail
    request_id: str | None = None
