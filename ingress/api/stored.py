"""Responses that are kept: asked for, cancelled, deleted, gone on with.

A response is its events (`replay`), at the ingress that tells it or has taken it over. Whoever is asked for one that it
does not have asks the other ingresses of the host with the same call; those do not ask further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from bus.messages.clients import Operation
from ingress.api import from_responses, validate
from ingress.api.answer import encode
from ingress.api.jobs import Caller
from ingress.api.response_events import cancelled, current, output_of
from ingress.api.schema_responses import Item, ItemList, ResponseDeleted, ResponseRef
from ingress.api.streaming import DYING_S, LOOK_AGAIN_S, Streaming
from ingress.errors import ApiError, invalid_request, not_found, not_ready
from ingress.replay import EventsGone, Replay

PREFIX: Final = "resp_"

Ask = Callable[[Operation, bytes, str], Awaitable[bytes | None]]
"""Asks the other ingresses: operation, body, authorization; None where none of them has it."""


class Stored:
    """The kept responses of one ingress, and the way to those of others.

    Args:
        streaming: keeps them.
        ask: reaches the others.
    """

    def __init__(self, streaming: Streaming, ask: Ask) -> None:
        self._streaming, self._ask = streaming, ask
        self.operations: dict[Operation, Callable[[Replay, ResponseRef], bytes]] = {
            "responses.retrieve": lambda replay, _: current(replay.after(0)),
            "responses.cancel": self._cancel,
            "responses.delete": self._delete,
            "responses.input_items": _input_items,
            "responses.conversation": _conversation,
        }

    async def act(self, operation: Operation, body: bytes, caller: Caller) -> bytes:
        """Do it, wherever the response is.

        Raises:
            ApiError: 404, it is not kept, or not the caller's; 400, it is not in a state for that; 503, whoever has it
                does not answer.
        """
        ref = validate.decode(body, ResponseRef)
        clock = asyncio.get_running_loop().time
        until = clock() + DYING_S
        while ref.response_id.startswith(PREFIX):
            if (replay := self._streaming.here(ref.response_id, caller.owner)) is not None:
                try:
                    return self.operations[operation](replay, ref)
                except EventsGone as gone:
                    raise ApiError(410, "invalid_request_error", f"{gone}", code="events_gone") from None
            if caller.sibling:
                break
            if (reply := await self._ask(operation, body, caller.authorization)) is not None:
                return reply
            if not self._streaming.knows(ref.response_id, caller.owner):
                break
            # Somebody has it who does not answer: it is about to die, or has just taken it over.
            if clock() > until:
                raise not_ready(f"The process that has the response {ref.response_id!r} does not answer.", 1.0)
            await asyncio.sleep(LOOK_AGAIN_S)
        raise not_found(
            f"There is no response {ref.response_id!r}: unknown, or kept no longer.",
            param="response_id",
            code="response_not_found",
        )

    async def conversation(self, response: str, caller: Caller) -> bytes:
        """All that was said up to a response's end, as items, for the one that goes on with it.

        Raises:
            ApiError: see `act`.
        """
        try:
            return await self.act("responses.conversation", encode(ResponseRef(response_id=response)), caller)
        except ApiError as error:
            if error.code != "response_not_found":
                raise
            raise invalid_request(
                error.message, param="previous_response_id", code="previous_response_not_found"
            ) from None

    def _cancel(self, replay: Replay, ref: ResponseRef) -> bytes:
        if not replay.keeping.unattended:
            raise invalid_request(
                f"The response {ref.response_id!r} is not one in the background; close its connection instead.",
                param="response_id",
            )
        if not replay.complete:
            self._streaming.end(replay, cancelled(replay.after(0)))
        return current(replay.after(0))

    def _delete(self, replay: Replay, ref: ResponseRef) -> bytes:
        self._streaming.forget(replay)
        return encode(ResponseDeleted(ref.response_id))


def _input_items(replay: Replay, ref: ResponseRef) -> bytes:
    """Its own input, not that of the responses before it."""
    items = _own_items(replay)
    identified = [{"id": f"item_{replay.response.partition('_')[2]}{at:04d}", **item} for at, item in enumerate(items)]
    ordered = identified if ref.order == "asc" else identified[::-1]
    if ref.after is not None:
        ids = [item["id"] for item in ordered]
        if ref.after not in ids:
            raise invalid_request(f"There is no item {ref.after!r} in this response's input.", param="after")
        ordered = ordered[ids.index(ref.after) + 1 :]
    page = ordered[: ref.limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    return encode(ItemList(page, first, last, len(ordered) > len(page)))


def _conversation(replay: Replay, _: ResponseRef) -> bytes:
    output = output_of(current(replay.after(0)))
    assert replay.opening is not None
    earlier = from_responses.earlier_items(replay.opening.earlier)
    given = from_responses.items_of(from_responses.responses_request(replay.opening.body))
    return encode([*earlier, *given, *msgspec.convert(output, list[Item])])


def _own_items(replay: Replay) -> list[dict[str, Any]]:
    """As OpenAI lists them: content in parts, everything with a status."""
    assert replay.opening is not None
    listed = []
    for item in from_responses.items_of(from_responses.responses_request(replay.opening.body)):
        plain = {name: value for name, value in msgspec.to_builtins(item).items() if value is not None}
        if plain["type"] == "message" and isinstance(plain["content"], str):
            kind = "output_text" if plain["role"] == "assistant" else "input_text"
            more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
            plain["content"] = [{"type": kind, "text": plain["content"], **more}]
        listed.append({**plain, "status": "completed"})
    return listed
