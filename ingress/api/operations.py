"""The operations that generate, in one table: how each is decoded, planned, rendered and kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple

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
from ingress.api.schema_messages import MessagesRequest
from ingress.api.schema_responses import ResponsesRequest
from ingress.engine import ServedModel
from ingress.errors import ApiError
from ingress.replay import Keeping


def not_stored(_: Any) -> Keeping:
    """For the grace time only."""
    return Keeping()


class Kind(NamedTuple):
    """One of them. The request that `decode` returns is what the others take.

    Attributes:
        prefix: of its responses' ids.
        keeping: how long its events are kept.
        read: one body from the events of a call that does not stream.
    """

    prefix: str
    decode: Callable[[bytes], Any]
    plan: Callable[[Any, ServedModel, Caller, Settled | None], Awaitable[Plan]]
    render: Callable[[Head, Any, Plan, ServedModel], Renderer]
    keeping: Callable[[Any], Keeping] = not_stored
    read: Callable[[Any, Events], Coroutine[Any, Any, bytes]] = lambda _, events: only(events)


async def _plan_response(
    request: ResponsesRequest, model: ServedModel, caller: Caller, settled: Settled | None
) -> Plan:
    earlier = from_responses.earlier_items(caller.earlier)
    try:
        return await plan_chat(from_responses.as_chat(request, earlier), model, caller, settled)
    except ApiError as error:
        raise from_responses.in_own_words(error) from None


async def _plan_message(request: MessagesRequest, model: ServedModel, caller: Caller, settled: Settled | None) -> Plan:
    return await plan_chat(from_messages.as_chat(request), model, caller, settled)


KINDS: Final[dict[Operation, Kind]] = {
    "chat.completions": Kind(
        "chatcmpl-",
        validate.chat_request,
        plan_chat,
        lambda head, request, plan, _: ChatRenderer(head, request, plan),
    ),
    "completions": Kind(
        "cmpl-",
        validate.completion_request,
        plan_completion,
        lambda head, request, plan, model: CompletionRenderer(head, request, plan, model.tokenizer),
    ),
    "responses": Kind(
        "resp_",
        from_responses.responses_request,
        _plan_response,
        lambda head, request, *_: ResponsesRenderer(head, request),
        keeping=lambda request: Keeping(request.stores, bool(request.background)),
        read=lambda request, events: begun(events) if request.background else ended(events),
    ),
    "messages": Kind(
        "msg_",
        from_messages.messages_request,
        _plan_message,
        lambda head, _, plan, *__: MessagesRenderer(head, plan),
    ),
}
