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
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from ingress.errors import ApiError, invalid_request, unsupported_parameter

# Of `anthropic-version`. They differ in what they refuse: what the newer one took away is honoured in both.
VERSIONS: Final = ("2023-06-01", "2026-10-21")

_THINKS_ITSELF: Final = "there is no setting for how models think"
_COUNT_REFUSALS: validate.Refusals = {
    "thinking": (({"type": "disabled"},), _THINKS_ITSELF),
    "output_config": (({},), "there is no setting for effort or format"),
}
_REFUSALS: validate.Refusals = {
    **_COUNT_REFUSALS,
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
    validate.refuse(request, _COUNT_REFUSALS)
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
    theirs = error.param or ""
    ours = theirs.replace(".function.parameters", ".input_schema").replace(".function", "")
    return ApiError(error.status, error.type, error.message.replace(theirs, ours), code=error.code, param=ours or None)


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


def _check(request: CountRequest) -> None:
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
