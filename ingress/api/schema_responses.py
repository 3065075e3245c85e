"""Shapes of `/v1/responses`: request, response, items, events. Structs only.

A struct with a tag begins with its `type`, so an event says what it is in its first bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingress.api.schema_chat import ObjectFormat, TextFormat
from ingress.api.schema_common import MAX_TOP_LOGPROBS, Effort, ModelName, Refused, StopString
from ingress.api.schema_extensions import Extensions

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]

# --- what is asked ---------------------------------------------------------------------------------------------------


class InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text", forbid_unknown_fields=True):
    """Text. Parts of one message are joined by a line feed."""

    text: str
    prompt_cache_breakpoint: Any = None


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text", forbid_unknown_fields=True):
    """Text of an earlier answer, as it was given out."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalText(msgspec.Struct, frozen=True, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    """A refusal of an earlier answer; read as text."""

    refusal: str


class InputImage(msgspec.Struct, frozen=True, tag_field="type", tag="input_image"):
    """Refused: no served model reads images."""

    image_url: Refused = None


class InputFile(msgspec.Struct, frozen=True, tag_field="type", tag="input_file"):
    """Refused: files are not read."""

    file_id: Refused = None


InputContent = str | list[InputText | OutputText | RefusalText | InputImage | InputFile]


class MessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message", forbid_unknown_fields=True):
    """A message: of a person, of the system, or an earlier answer."""

    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent
    id: Identifier | None = None
    status: ItemStatus | None = None
    phase: str | None = None


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call", forbid_unknown_fields=True):
    """A call that an earlier answer made; `arguments` is JSON text."""

    call_id: Identifier
    name: str
    arguments: str
    id: Identifier | None = None
    status: ItemStatus | None = None


class FunctionOutputItem(
    msgspec.Struct, frozen=True, tag_field="type", tag="function_call_output", forbid_unknown_fields=True
):
    """What the function answered."""

    call_id: Identifier
    output: str | list[InputText]
    id: Identifier | None = None
    status: ItemStatus | None = None


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text", forbid_unknown_fields=True):
    """A thought."""

    text: str


class ReasoningInput(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning", forbid_unknown_fields=True):
    """An earlier thought, as it was given out: given to the template with the answer that follows it."""

    summary: list[Any]
    id: Identifier | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: ItemStatus | None = None


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningInput


class EasyMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message without its type."""

    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent
    phase: str | None = None


_ITEM: dict[str, Any] = {
    "anyOf": [
        {"$ref": f"#/components/schemas/{kind.__name__}"}
        for kind in (MessageItem, FunctionCallItem, FunctionOutputItem, ReasoningInput, EasyMessage)
    ]
}


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to think."""

    effort: Annotated[Effort, Meta(description="How much to think before the answer.")] | None = None
    summary: Refused = None
    generate_summary: Refused = None
    context: Refused = None
    mode: Refused = None


class ResponseSchemaFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON of a schema. It is followed whether `strict` or not."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


ResponseFormat = TextFormat | ObjectFormat | ResponseSchemaFormat


class TextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the answer's text shall be."""

    format: ResponseFormat | None = None
    verbosity: Refused = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream holds besides the text."""

    include_obfuscation: Refused = None


class ResponsesRequest(Extensions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/responses`."""

    model: ModelName
    input: (
        Annotated[
            str | Annotated[list[Annotated[Any, Meta(extra_json_schema=_ITEM)]], Meta(min_length=1, max_length=10_000)],
            Meta(description="What the user says, or items: messages, function calls, their outputs, reasoning."),
        ]
        | None
    ) = None
    instructions: Annotated[str, Meta(description="The system's message; not carried over.")] | None = None
    previous_response_id: (
        Annotated[Identifier, Meta(description="Go on with that stored response's conversation.")] | None
    ) = None
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] | None = None
    stream_options: ResponseStreamOptions | None = None
    background: Annotated[bool, Meta(description="Answer at once with the queued response; needs store.")] | None = None
    store: Annotated[bool, Meta(description="Keep the response for [ingress] response_ttl_s. Default true.")] | None = (
        None
    )
    max_output_tokens: (
        Annotated[int, Meta(ge=1, lt=2**31, description="Most tokens to generate. Default: what fits.")] | None
    ) = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 is greedy. Default: the model's, or 1.")] | None = (
        None
    )
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: (
        Annotated[
            int,
            Meta(ge=0, le=MAX_TOP_LOGPROBS, description='Alternatives; needs "message.output_text.logprobs" included.'),
        ]
        | None
    ) = None
    include: Annotated[list[str], Meta(description='"message.output_text.logprobs".', max_length=16)] | None = None
    metadata: Metadata | None = None

    top_k: Annotated[int, Meta(ge=-1, lt=2**31, description="0 and -1 are off.")] | None = None
    thinking_token_budget: (
        Annotated[int, Meta(ge=0, lt=2**31, description="Tokens of the thought, after which it is closed.")] | None
    ) = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None

    # Accepted: they change nothing here.
    user: Annotated[str, Meta(description="Accepted, not used.")] | None = None
    safety_identifier: Annotated[str, Meta(description="Accepted, not used.")] | None = None
    prompt_cache_key: Annotated[str, Meta(description="Accepted: every prompt's prefix is cached.")] | None = None
    parallel_tool_calls: Annotated[bool, Meta(description="The answer may call several. Default true.")] | None = None
    tools: (
        Annotated[list[dict[str, Any]], Meta(description="Functions that the answer may call.", max_length=128)] | None
    ) = None
    tool_choice: (
        Annotated[
            str | dict[str, Any],
            Meta(description='"none", "auto" (default), "required", or {"type": "function", "name": …}.'),
        ]
        | None
    ) = None

    context_management: Refused = None
    conversation: Refused = None
    max_tool_calls: Refused = None
    moderation: Refused = None
    prompt: Refused = None
    prompt_cache_options: Refused = None
    prompt_cache_retention: Refused = None
    reasoning: Reasoning | None = None
    service_tier: Refused = None
    text: TextSettings | None = None
    truncation: Refused = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.stream)

    @property
    def stores(self) -> bool:
        """Whether the response can be asked for later."""
        return self.store is not False

    @property
    def kept(self) -> bool:
        """Whether it is told as events, to whoever listens."""
        return self.streams or self.stores


# --- what is answered ------------------------------------------------------------------------------------------------


class ResponseTopLogprob(msgspec.Struct, frozen=True, gc=False):
    """An alternative at one position."""

    token: str
    logprob: float
    bytes: list[int]


class ResponseTokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """A drawn token and the alternatives at its position, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ResponseTopLogprob]


class OutputTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of the answer."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ResponseTokenLogprob] = []


class OutputRefusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """A refusal to answer."""

    refusal: str


class OutputMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """The answer."""

    id: str
    status: ItemStatus
    content: list[OutputTextPart | OutputRefusal]
    role: Literal["assistant"] = "assistant"


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """The thought before the answer."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[Any] = []


class CallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call that the answer makes; `arguments` is JSON text."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem = OutputMessage | ReasoningItem | CallItem


class InputTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """Part of `ResponseUsage`. Writing to the cache is counted as nothing: every prompt is, and it costs nothing."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """Part of `ResponseUsage`."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, gc=False):
    """What the response cost."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class ReasoningReply(msgspec.Struct, frozen=True):
    """How it was asked to think. There are no summaries."""

    effort: Effort | None = None
    summary: None = None


class TextReply(msgspec.Struct, frozen=True):
    """How the answer's text is."""

    format: ResponseFormat = TextFormat()


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response, complete or under way."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    completed_at: int | None = None
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningReply = ReasoningReply()
    service_tier: Literal["default", "flex"] = "default"
    store: bool
    temperature: float
    text: TextReply = TextReply()
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | UnsetType = UNSET
    user: str | UnsetType = UNSET
    metadata: dict[str, str]


class ResponseEvent(msgspec.Struct, frozen=True):
    """An event with the whole response: how a stream begins and ends."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.completed", "response.incomplete"
    ]
    response: Response
    sequence_number: int


class ItemEvent(msgspec.Struct, frozen=True):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem
    sequence_number: int


class PartEvent(msgspec.Struct, frozen=True):
    """A part of an item's content begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int
    part: OutputTextPart | OutputRefusal | ReasoningText
    sequence_number: int


class DeltaEvent(msgspec.Struct, frozen=True):
    """More text of a part. Text of an answer has log probabilities, of the tokens that begin in it."""

    type: Literal["response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    sequence_number: int
    logprobs: list[ResponseTokenLogprob] | UnsetType = UNSET


class DoneEvent(msgspec.Struct, frozen=True):
    """All text of a part."""

    type: Literal["response.output_text.done", "response.refusal.done", "response.reasoning_text.done"]
    item_id: str
    output_index: int
    content_index: int
    sequence_number: int
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    logprobs: list[ResponseTokenLogprob] | UnsetType = UNSET


class ArgumentsDelta(msgspec.Struct, frozen=True, tag_field="type", tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    item_id: str
    output_index: int
    delta: str
    sequence_number: int


class ArgumentsDone(msgspec.Struct, frozen=True, tag_field="type", tag="response.function_call_arguments.done"):
    """All arguments of a call."""

    item_id: str
    name: str
    output_index: int
    arguments: str
    sequence_number: int


class ErrorEvent(msgspec.Struct, frozen=True):
    """The stream ends here. `error` says the same as in an answer that does not stream; clients look for it."""

    code: str | None
    message: str
    param: str | None
    sequence_number: int
    error: dict[str, str | None]
    type: Literal["error"] = "error"


ResponseStreamEvent = (
    ResponseEvent, ItemEvent, PartEvent, DeltaEvent, DoneEvent, ArgumentsDelta, ArgumentsDone, ErrorEvent,
)  # fmt: skip


class ResponseDeleted(msgspec.Struct, frozen=True):
    """A response is no longer kept."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/responses/{id}/input_items`."""

    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"


class ResponseRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which stored response is meant, and of its input items which."""

    response_id: Identifier
    after: Identifier | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
