"""The operations that generate, in one table: how each is decoded, planned, rendered and kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

from bus.messages.clients import Operation
from ingress.api import from_messages, from_responses, validate
from ingress.api.answer import Head, Renderer
from ingress.api.events import Events
from ingress.api.jobs import Caller, Plan, Settled, plan_chat, plan_completion
from ingress.api.once import only
from ingress.api.render_chat import ChatRenderer
from ingress.api.render_completion import CompletionRenderer
from ingress.api.render_messages import MessagesRenderer
from ingress.api.render_responses import ResponsesRenderer
from ingress.api.response_events import begun, ended
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_completion import CompletionRequest
from ingress.api.schema_messages import MessagesRequest
from ingress.api.schema_responses import ResponsesRequest
from ingress.api.validate import NOTHING, Offers
from ingress.engine import ServedModel
from ingress.errors import ApiError
from ingress.replay import Keeping
from ingress.text.tokenizer import Tokenizer


def not_stored(_: Any) -> Keeping:
    """For the grace time only."""
    return Keeping()


class Decode(Protocol):
    """The request of a body, for a model that offers something beyond what those of this host can do."""

    def __call__(self, body: bytes, offers: Offers = NOTHING) -> Any: ...


class Kind(NamedTuple):
    """One of them. The request that `decode` returns is what the others take.

    Attributes:
        prefix: of its responses' ids.
        chat: the call as a chat, which models elsewhere are asked; None where it is none.
        keeping: how long its events are kept.
        read: one body from the events of a call that does not stream.
    """

    prefix: str
    decode: Decode
    plan: Callable[[Any, ServedModel, Caller, Settled | None], Awaitable[Plan]]
    chat: Callable[[Any, Caller], ChatRequest] | None
    render: Callable[[Head, Any, Plan, Tokenizer | None], Renderer]
    keeping: Callable[[Any], Keeping] = not_stored
    read: Callable[[Any, Events], Coroutine[Any, Any, bytes]] = lambda _, events: only(events)


def _response_as_chat(request: ResponsesRequest, caller: Caller) -> ChatRequest:
    return from_responses.as_chat(request, from_responses.earlier_items(caller.earlier))


async def _plan_response(
    request: ResponsesRequest, model: ServedModel, caller: Caller, settled: Settled | None
) -> Plan:
    try:
        return await plan_chat(_response_as_chat(request, caller), model, caller, settled)
    except ApiError as error:
        raise from_responses.in_own_words(error) from None


async def _plan_message(request: MessagesRequest, model: ServedModel, caller: Caller, settled: Settled | None) -> Plan:
    try:
        return await plan_chat(from_messages.as_chat(request), model, caller, settled)
    except ApiError as error:
        raise from_messages.in_own_words(error) from None


def _of_this_host(decode: Callable[[bytes], Any]) -> Decode:
    """For a surface on which no model offers more than those of this host."""

    def decoded(body: bytes, offers: Offers = NOTHING) -> Any:  # noqa: ARG001 (the same shape for all)
        return decode(body)

    return decoded


def _render_completion(head: Head, request: CompletionRequest, plan: Plan, tokenizer: Tokenizer | None) -> Renderer:
    assert tokenizer is not None  # models elsewhere are not asked for completions
    return CompletionRenderer(head, request, plan, tokenizer)


KINDS: Final[dict[Operation, Kind]] = {
    "chat.completions": Kind(
        "chatcmpl-",
        validate.chat_request,
        plan_chat,
        lambda request, _: request,
        lambda head, request, plan, _: ChatRenderer(head, request, plan),
    ),
    "completions": Kind(
        "cmpl-",
        _of_this_host(validate.completion_request),
        plan_completion,
        None,
        _render_completion,
    ),
    "responses": Kind(
        "resp_",
        _of_this_host(from_responses.responses_request),
        _plan_response,
        _response_as_chat,
        lambda head, request, plan, _: ResponsesRenderer(head, request, plan.drawing),
        keeping=lambda request: Keeping(request.stores, bool(request.background)),
        read=lambda request, events: begun(events) if request.background else ended(events),
    ),
    "messages": Kind(
        "msg_",
        _of_this_host(from_messages.messages_request),
        _plan_message,
        lambda request, _: from_messages.as_chat(request),
        lambda head, _, plan, *__: MessagesRenderer(head, plan),
    ),
}
