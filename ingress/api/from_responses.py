"""A request for a response, checked, and as the chat that it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ingress.api import validate
from ingress.api.schema_chat import (
    AssistantMessage,
    ChatRequest,
    Content,
    DeveloperMessage,
    FunctionCall,
    Message,
    NamedSchema,
    ObjectFormat,
    SchemaFormat,
    SystemMessage,
    TextFormat,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from ingress.api.schema_responses import (
    EasyMessage,
    FunctionCallItem,
    FunctionOutputItem,
    InputFile,
    InputImage,
    Item,
    MessageItem,
    ReasoningInput,
    RefusalText,
    ResponseSchemaFormat,
    ResponsesRequest,
)
from ingress.errors import ApiError, invalid_request, unsupported_parameter
from ingress.grammar.schema import check
from ingress.tools.offered import offered

LOGPROBS: Final = "message.output_text.logprobs"

_REFUSALS: validate.Refusals = {
    "context_management": ((), "prompts are not shortened"),
    "conversation": ((), "conversations are not kept; see previous_response_id"),
    "max_tool_calls": ((), "tools are not called"),
    "moderation": ((), "there is no moderation here"),
    "prompt": ((), "there are no prompts with an id"),
    "prompt_cache_options": ((), "the prefix cache has no options; see cache_salt"),
    "prompt_cache_retention": (("in_memory",), "prefixes are kept as long as there is room, no longer"),
    "service_tier": (("auto", "default", "flex"), "there are two tiers; see priority"),
    "truncation": (("disabled",), "prompts are not shortened"),
}
_REASONING_REFUSALS: validate.Refusals = {
    **dict.fromkeys(("summary", "generate_summary"), ((), "thoughts are told whole, there are no summaries")),
    **dict.fromkeys(("context", "mode"), ((), "see effort, and thinking_token_budget")),
}
_TEXT_REFUSALS: validate.Refusals = {
    "verbosity": (("medium",), "there is no setting for verbosity; say it in the prompt"),
}  # fmt: skip
_STREAM_REFUSALS: validate.Refusals = {"include_obfuscation": ((False,), "events are not padded")}
_ROLES: Final[dict[str, type[SystemMessage | DeveloperMessage | UserMessage]]] = {
    "system": SystemMessage,
    "developer": DeveloperMessage,
    "user": UserMessage,
}


def responses_request(body: bytes) -> ResponsesRequest:
    """Decode and check the body of a request for a response.

    Raises:
        ApiError: 400.
    """
    request = validate.decode(body, ResponsesRequest)
    validate.refuse(request, _REFUSALS)
    if request.reasoning is not None:
        validate.refuse(request.reasoning, _REASONING_REFUSALS, "reasoning.")
    if request.text is not None:
        validate.refuse(request.text, _TEXT_REFUSALS, "text.")
        if isinstance(form := request.text.format, ResponseSchemaFormat):
            check(form.schema, "text.format.schema")
    try:
        offered(_tools(request), _choice(request), parallel=request.parallel_tool_calls)
    except ApiError as error:
        raise in_own_words(error) from None
    for index, name in enumerate(request.include or ()):
        if name != LOGPROBS:
            raise unsupported_parameter(f"include[{index}]", f"include: only {LOGPROBS!r} is served.")
    if request.top_logprobs and LOGPROBS not in (request.include or ()):
        raise invalid_request(f"top_logprobs needs {LOGPROBS!r} in include.", param="top_logprobs")
    if request.stream_options is not None:
        if not request.streams:
            raise invalid_request("stream_options needs stream to be true.", param="stream_options")
        validate.refuse(request.stream_options, _STREAM_REFUSALS, "stream_options.")
    if request.background and not request.stores:
        raise invalid_request("background needs store to be true: how else would it be found?", param="store")
    if request.input is None and request.previous_response_id is None:
        raise invalid_request("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    items_of(request)
    return request


def items_of(request: ResponsesRequest) -> list[Item]:
    """Its input, each item with its type.

    Raises:
        ApiError: 400, by place.
    """
    if request.input is None:
        return []
    if isinstance(request.input, str):
        return [MessageItem("user", request.input)]
    items = [_item(value, f"input[{index}]") for index, value in enumerate(request.input)]
    for index, item in enumerate(items):
        content = item.content if isinstance(item, MessageItem) else None
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, (InputImage, InputFile)):
                kind = part.__struct_config__.tag
                where = f"input[{index}].content[{at}]"
                raise unsupported_parameter(where, f"Content of type {kind} is not served: text only.")
    return items


def earlier_items(stored: bytes) -> list[Item]:
    """Items as they were kept."""
    return msgspec.json.decode(stored, type=list[Item]) if stored else []


def as_chat(request: ResponsesRequest, earlier: Sequence[Item]) -> ChatRequest:
    """The same for chats, after the items of an earlier conversation."""
    messages: list[Message] = [SystemMessage(request.instructions)] if request.instructions is not None else []
    messages += _messages([*earlier, *items_of(request)])
    if not messages:
        raise invalid_request("There is nothing to answer.", param="input")
    wants_logprobs = LOGPROBS in (request.include or ())
    return ChatRequest(
        model=request.model,
        messages=messages,
        stream=request.kept,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop,
        max_completion_tokens=request.max_output_tokens,
        logprobs=wants_logprobs or None,
        top_logprobs=request.top_logprobs if wants_logprobs else None,
        service_tier=request.service_tier,
        response_format=_format(request),
        tools=_tools(request),
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning_effort=request.reasoning.effort if request.reasoning is not None else None,
        thinking_token_budget=request.thinking_token_budget,
        **request.extensions,
    )


def in_own_words(error: ApiError) -> ApiError:
    """An error about the chat that a response is, by the parameter's name here."""
    theirs = error.param or ""
    if theirs == "reasoning_effort" or theirs.startswith("tools"):
        ours = theirs.replace(".function", "").replace("reasoning_effort", "reasoning.effort")
        return ApiError(error.status, error.type, error.message.replace(theirs, ours), code=error.code, param=ours)
    if not theirs.startswith("response_format"):
        return error
    ours = theirs.replace("response_format.json_schema.schema", "text.format.schema")
    ours = ours.replace("response_format", "text.format")
    return invalid_request(error.message.replace(theirs, ours), param=ours, code=error.code)


def _tools(request: ResponsesRequest) -> list[dict[str, Any]] | None:
    """In the form that chats have: what a function is, a level below."""
    return [
        {"type": tool.get("type"), "function": {key: value for key, value in tool.items() if key != "type"}}
        for tool in request.tools or ()
    ] or None


def _choice(request: ResponsesRequest) -> str | dict[str, Any] | None:
    match request.tool_choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case choice:
            return choice


def _format(request: ResponsesRequest) -> TextFormat | ObjectFormat | SchemaFormat | None:
    form = request.text.format if request.text is not None else None
    if isinstance(form, ResponseSchemaFormat):
        return SchemaFormat(NamedSchema(form.name, form.description, form.schema, form.strict))
    return form


def _item(value: Any, where: str) -> Item:
    easy = isinstance(value, dict) and "type" not in value
    try:
        if easy:
            given = msgspec.convert(value, EasyMessage)
            return MessageItem(given.role, given.content)
        item: Item = msgspec.convert(value, Item)
    except msgspec.ValidationError as error:
        raise validate.wrong_type(str(error), where) from None
    except RecursionError:
        raise invalid_request("The body is nested too deeply.", param=where, code="invalid_json") from None
    return item


def _messages(items: Iterable[Item]) -> list[Message]:
    """As a template knows them: a thought and calls belong to the answer beside them."""
    messages: list[Message] = []
    thought: str | None = None
    for item in items:
        match item:
            case ReasoningInput():
                thought = "".join(part.text for part in item.content or ()) or None
            case MessageItem(role="assistant"):
                messages.append(AssistantMessage(content=_content(item.content), reasoning_content=thought))
                thought = None
            case MessageItem():
                messages.append(_ROLES[item.role](_content(item.content)))
            case FunctionCallItem():
                call = ToolCall(item.call_id, FunctionCall(item.name, item.arguments))
                last = messages[-1] if messages and thought is None else None
                if isinstance(last, AssistantMessage):
                    calls = [*(last.tool_calls or ()), call]
                    messages[-1] = msgspec.structs.replace(last, tool_calls=calls)
                else:
                    messages.append(AssistantMessage(tool_calls=[call], reasoning_content=thought))
                    thought = None
            case FunctionOutputItem():
                messages.append(ToolMessage(_content(item.output), item.call_id))
    return messages


def _content(content: Any) -> Content:
    if isinstance(content, str):
        return content
    texts: list[Any] = []
    for part in content:
        match part:
            case RefusalText():
                texts.append(TextPart(part.refusal))
            case InputImage() | InputFile():
                continue  # refused before
            case _:
                texts.append(TextPart(part.text))
    return texts
