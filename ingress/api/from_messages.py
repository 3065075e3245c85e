"""A request for an Anthropic message, checked, and as the chat that it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ingress.api import validate
from ingress.api.schema_chat import (
    AssistantMessage,
    ChatRequest,
    FunctionCall,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from ingress.api.schema_messages import (
    CountRequest,
    MessagesRequest,
    TextBlock,
    ThinkingInput,
    ThinkingSettings,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from ingress.errors import ApiError, invalid_request, unsupported_parameter

# Of `anthropic-version`. They differ in what they refuse: what the newer one took away is honoured in both.
VERSIONS: Final = ("2023-06-01", "2026-10-21")

_THINKING_REFUSALS: validate.Refusals = {"display": (("summarized",), "thoughts are told whole")}
_OUTPUT_REFUSALS: validate.Refusals = {"format": ((), "see tools, or response_format of chat completions")}
_OURS: Final = {"thinking_token_budget": "thinking.budget_tokens", "reasoning_effort": "output_config.effort"}
_REFUSALS: validate.Refusals = {
    "container": ((), "there are no containers"),
    "context_management": ((), "prompts are not shortened"),
    "diagnostics": ((), "there are none; see headrace explain"),
    "inference_geo": ((), "there is one place"),
    "mcp_servers": (([],), "tools are not called"),
    "prefill": ((), "end messages with one of the assistant instead"),
    "service_tier": (("auto", "standard_only"), "there is one tier; see priority"),
    "speed": (("standard",), "there is one speed"),
}


def messages_request(body: bytes) -> MessagesRequest:
    """Decode and check the body of a request for a message.

    Raises:
        ApiError: 400.
    """
    request = validate.decode(body, MessagesRequest)
    validate.refuse(request, _REFUSALS)
    _check(request)
    return request


def count_request(body: bytes) -> CountRequest:
    """The same for a count of its tokens.

    Raises:
        ApiError: 400.
    """
    request = validate.decode(body, CountRequest)
    _check(request)
    return request


def check_version(version: str | None) -> None:
    """Whether this surface is the one that a client speaks; one that says nothing is believed to.

    Raises:
        ApiError: 400.
    """
    if version is not None and version not in VERSIONS:
        served = " and ".join(VERSIONS)
        raise invalid_request(f"anthropic-version: {served} are served, not {version!r}.", param="anthropic-version")


def as_chat(request: CountRequest) -> ChatRequest:
    """The same for chats. An assistant's last message is gone on with."""
    continues = request.messages[-1].role == "assistant"
    limits: dict[str, Any] = {}
    if isinstance(request, MessagesRequest):
        limits = {
            "stream": request.stream,
            "max_completion_tokens": request.max_tokens,
            "stop": request.stop_sequences or None,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
        }
    chat = ChatRequest(
        model=request.model,
        messages=list(_messages(request)),
        continue_final_message=continues or None,
        **limits,
        **_tools(request),
        **_thinking(request),
        **request.extensions,
    )
    try:
        validate.check_answer(chat)
    except ApiError as error:
        raise in_own_words(error) from None
    validate.check_template(None, chat.continue_final_message, chat.messages)
    return chat


def in_own_words(error: ApiError) -> ApiError:
    """An error about the chat that a message is, by the parameter's name here."""
    if (theirs := error.param) is None:
        return error
    ours = _OURS.get(theirs) or theirs.replace(".function.parameters", ".input_schema").replace(".function", "")
    return ApiError(error.status, error.type, error.message.replace(theirs, ours), code=error.code, param=ours)


def _tools(request: CountRequest) -> dict[str, Any]:
    """Tools and what is said about calling them, in OpenAI's form."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
                "strict": tool.strict,
            },
        }
        for tool in request.tools or ()
    ]
    choice = request.tool_choice
    if choice is None:
        return {"tools": tools or None}
    named = {"type": "function", "function": {"name": choice.name}}
    return {
        "tools": tools or None,
        "tool_choice": {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice.type],
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }


def _thinking(request: CountRequest) -> dict[str, Any]:
    """How much to think, in the words of chats."""
    effort = request.output_config.effort if request.output_config is not None else None
    named = {"reasoning_effort": "xhigh" if effort == "max" else effort}
    match request.thinking:
        case ThinkingSettings(type="disabled"):
            return {"reasoning_effort": "none"}
        case ThinkingSettings(type="enabled", budget_tokens=budget):
            return {**named, "thinking_token_budget": budget}
        case ThinkingSettings():
            return {"reasoning_effort": named["reasoning_effort"] or "high"}
        case _:
            return named


def _check_thinking(request: CountRequest) -> None:
    if request.output_config is not None:
        validate.refuse(request.output_config, _OUTPUT_REFUSALS, "output_config.")
    if (thinking := request.thinking) is None:
        return
    validate.refuse(thinking, _THINKING_REFUSALS, "thinking.")
    budget = thinking.budget_tokens
    if (thinking.type == "enabled") != (budget is not None):
        raise invalid_request(
            'thinking: budget_tokens belongs to the type "enabled", and to no other.', param="thinking.budget_tokens"
        )
    limit = request.max_tokens if isinstance(request, MessagesRequest) else None
    if budget is not None and limit is not None and budget >= limit:
        raise invalid_request(
            f"thinking.budget_tokens: {budget} is not less than max_tokens, {limit}.", param="thinking.budget_tokens"
        )


def _check(request: CountRequest) -> None:
    _check_thinking(request)
    choice = request.tool_choice
    if choice is not None and (choice.type == "tool") != (choice.name is not None):
        raise invalid_request('tool_choice: a name belongs to the type "tool", and to no other.', param="tool_choice")
    for index, turn in enumerate(request.messages):
        for at, block in enumerate(turn.content if isinstance(turn.content, list) else ()):
            _check_block(block, turn.role, f"messages[{index}].content[{at}]")


def _check_block(block: Any, role: str, where: str) -> None:
    kind = block.__struct_config__.tag
    if isinstance(block, ToolResultBlock):
        for at, part in enumerate(block.content if isinstance(block.content, list) else ()):
            if not isinstance(part, TextBlock):
                raise _unread(part.__struct_config__.tag, f"{where}.content[{at}]")
    elif not isinstance(block, (TextBlock, ToolUseBlock, ThinkingInput)):
        raise _unread(kind, where)
    if isinstance(block, (ToolUseBlock, ThinkingInput)) and role != "assistant":
        raise invalid_request(f"A block of type {kind} belongs to the assistant.", param=where)
    if isinstance(block, ToolResultBlock) and role != "user":
        raise invalid_request(f"A block of type {kind} belongs to the user.", param=where)


def _unread(kind: object, where: str) -> Exception:
    return unsupported_parameter(where, f"Content of type {kind} is not served: text only.")


def _messages(request: CountRequest) -> Iterator[Message]:
    if request.system is not None:
        yield SystemMessage(request.system if isinstance(request.system, str) else _text_parts(request.system))
    for turn in request.messages:
        yield from _user(turn) if turn.role == "user" else [_assistant(turn)]


def _user(turn: Turn) -> Iterator[Message]:
    """What tools answered comes first, each as a message of its own."""
    if isinstance(turn.content, str):
        yield UserMessage(turn.content)
        return
    for block in turn.content:
        if isinstance(block, ToolResultBlock):
            content = block.content if isinstance(block.content, str) else _text_parts(block.content)
            yield ToolMessage(content, block.tool_use_id)
    if (said := _text_parts(turn.content)) or not turn.content:
        yield UserMessage(said)


def _assistant(turn: Turn) -> Message:
    if isinstance(turn.content, str):
        return AssistantMessage(content=turn.content)
    calls = [
        ToolCall(block.id, FunctionCall(block.name, msgspec.json.encode(block.input).decode()))
        for block in turn.content
        if isinstance(block, ToolUseBlock)
    ]
    thoughts = [block.thinking for block in turn.content if isinstance(block, ThinkingInput)]
    return AssistantMessage(
        content=_text_parts(turn.content) or ("" if not calls else None),
        tool_calls=calls or None,
        reasoning_content="".join(thoughts) or None,
    )


def _text_parts(blocks: Sequence[Any]) -> list[Any]:
    return [TextPart(block.text) for block in blocks if isinstance(block, TextBlock)]
