"""What a chat asks of its answer beside its content: what it may call, what it shall be, how long it may think."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus.messages.requests import Grammar, Thought
from bus.packed import pack_u32
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_common import Generation
from ingress.engine import ServedModel
from ingress.errors import ApiError, invalid_request
from ingress.grammar import writing
from ingress.grammar.wanted import wanted
from ingress.text.effort import Asked
from ingress.text.reasoning import Thinking
from ingress.tools.offered import Offered, offered
from ingress.tools.styles import Style


class Calling(NamedTuple):
    """What an answer may call, and how its model writes that."""

    offer: Offered
    style: Style


def calling_of(request: ChatRequest, model: ServedModel) -> Calling | None:
    """None where nothing may be called.

    Raises:
        ApiError: 400, the model calls no tools.
    """
    offer = offered(request.tools, request.tool_choice, parallel=request.parallel_tool_calls)
    if offer is None:
        return None
    if model.calls is None:
        raise invalid_request(
            f"tools: the chat template of {model.name!r} knows no tools, or writes calls in a way that is not known "
            "([[model]] tool_parser names one).", param="tools", code="no_tools",
        )  # fmt: skip
    return Calling(offer, model.calls)


def reasoning_of(request: ChatRequest, model: ServedModel) -> Asked:
    """How much a chat's answer shall think.

    Raises:
        ApiError: 400, the model cannot be asked for it.
    """
    return model.reasoning.asked(request.reasoning_effort, request.thinking_token_budget, request.chat_template_kwargs)


def thinking_of(request: ChatRequest, model: ServedModel, prompt: Sequence[int]) -> Thinking | None:
    """How a chat's answer may think, before it says anything; None where it does not."""
    begun = request.messages[-1].content if request.continue_final_message else None
    parts = [begun] if isinstance(begun, str) else [getattr(part, "text", "") for part in begun or ()]
    return model.reasoning.thinking(prompt, "".join(parts))


def bounded(thinking: Thinking | None, budget: int | None, model: ServedModel) -> Thought | None:
    """A budget of thinking tokens, as a request carries it."""
    if thinking is None or budget is None:
        return None
    opens, closes = thinking.tags
    vocabulary = model.trials.vocabulary(model.tokenizer, model.eos_ids)
    return Thought(budget, "" if thinking.opened else opens, closes, pack_u32(model.reasoning.closing), vocabulary)


async def calls_grammar(
    calling: Calling, request: ChatRequest, model: ServedModel, tenant: str, thinking: Thinking | None
) -> str:
    """What an answer that may call shall be, as a grammar that was tried. Where a schema cannot be followed that need
    not be, its tool is given any object.

    Raises:
        ApiError: 400, one that must be cannot be; 429.
    """
    offer, style = calling
    asked = wanted(request)
    answer = writing.answer(asked) if asked is not None else ""
    strict = offer._replace(tools=tuple(tool._replace(parameters=tool.followed) for tool in offer.tools))
    loose = offer._replace(
        tools=tuple(tool if tool.strict else tool._replace(parameters={"type": "object"}) for tool in strict.tools)
    )
    try:
        return await model.trials.tried(style.grammar(strict, thinking, model.control_tokens, answer), "tools", tenant)
    except ApiError as error:
        if error.status != 400 or loose == strict:
            raise
    return await model.trials.tried(style.grammar(loose, thinking, model.control_tokens, answer), "tools", tenant)


async def grammar(request: Generation, model: ServedModel, tenant: str, thinking: Thinking | None = None) -> str:
    """What the answer shall be, as a grammar that was tried; empty where it may be anything.

    Raises:
        ApiError: 400, it cannot be used; 429.
    """
    if (asked := wanted(request)) is None:
        return ""
    return await model.trials.tried(writing.grammar(asked, thinking, model.control_tokens), asked.param, tenant)


def followed(text: str, model: ServedModel) -> Grammar | None:
    """A grammar that was tried, as a request carries it."""
    return model.trials.grammar(text, model.tokenizer, model.eos_ids) if text else None
