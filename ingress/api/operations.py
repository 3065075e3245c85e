"""The operations that generate, in one table: how each is decoded, planned and rendered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from bus.messages.clients import Operation
from ingress.api import validate
from ingress.api.answer import Head, Renderer
from ingress.api.jobs import Caller, Plan, Settled, plan_chat, plan_completion
from ingress.api.render_chat import ChatRenderer
from ingress.api.render_completion import CompletionRenderer
from ingress.api.schema_common import Generation
from ingress.engine import ServedModel


class Kind(NamedTuple):
    """One of them. The request that `decode` returns is what `plan` and `render` take.

    Attributes:
        prefix: of its responses' ids.
    """

    prefix: str
    decode: Callable[[bytes], Generation]
    plan: Callable[[Any, ServedModel, Caller, Settled | None], Awaitable[Plan]]
    render: Callable[[Head, Any, Plan, ServedModel], Renderer]


KINDS: Final[dict[Operation, Kind]] = {
    "chat.completions": Kind(
        "chatcmpl",
        validate.chat_request,
        plan_chat,
        lambda head, request, plan, _: ChatRenderer(head, request, plan),
    ),
    "completions": Kind(
        "cmpl",
        validate.completion_request,
        plan_completion,
        lambda head, request, plan, model: CompletionRenderer(head, request, plan, model.tokenizer),
    ),
}
