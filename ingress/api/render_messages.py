"""An answer as Anthropic writes it: events of a stream, or one message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ingress.api import schema_messages as schema
from ingress.api.answer import Head, Mould, call_id, encode
from ingress.api.jobs import Plan
from ingress.engine import Finish, Piece, TokenText
from ingress.streams import ContentKind, Part, parts_of

# Of a block of each kind: what its events add, and the key of that.
_DELTAS: Final[dict[ContentKind, tuple[schema.TextDelta | schema.ThinkingDelta | schema.InputDelta, str]]] = {
    "text": (schema.TextDelta(""), "text"),
    "reasoning": (schema.ThinkingDelta(""), "thinking"),
    "tool": (schema.InputDelta(""), "partial_json"),
}


class MessagesRenderer:
    """One call's message.

    Args:
        head: what every message begins with.
        plan: for the length of the prompt.
    """

    def __init__(self, head: Head, plan: Plan) -> None:
        self._head = head
        self._prompt_tokens = plan.prompts[0].tokens
        self._block: tuple[ContentKind, int] | None = None  # what the block that is open has
        self._blocks = 0  # that have begun
        self._mould: Mould | None = None  # of the block's events
        self._calls = False

    @property
    def id(self) -> str:
        """Of the message."""
        return self._head.id

    def first(self) -> list[bytes]:
        """The message without content. What was found in the cache is known at the end."""
        usage = schema.MessageUsage(self._prompt_tokens, 0, service_tier="standard")
        return [encode(schema.MessageStart(self._message([], None, None, usage))), encode(schema.Ping())]

    def piece(self, index: int, piece: Piece, prompt: Sequence[TokenText | None]) -> list[bytes]:  # noqa: ARG002
        """Events of what is new; at the end, all that follow."""
        if piece.finish is None and not piece.parts and self._block == ("text", -1) and self._mould is not None:
            return [self._mould.fill(piece.text)] if piece.text else []
        events: list[bytes] = []
        for part in parts_of(piece):
            events += self._part(part)
        if piece.finish is not None:
            events += self._end(piece.finish)
        return events

    def last(self, finishes: Sequence[Finish]) -> list[bytes]:  # noqa: ARG002
        """Nothing: the one choice has said all."""
        return []

    def whole(self, answers: Sequence[Piece], prompts: Sequence[Sequence[TokenText | None]]) -> bytes:  # noqa: ARG002
        """The body of a call that does not stream."""
        (answer,) = answers
        assert answer.finish is not None
        content = [self._content(part, part.text) for part in parts_of(answer)]
        reason, sequence = self._stop(answer.finish)
        return encode(self._message(content, reason, sequence, _usage(answer.finish, "standard")))

    def _part(self, part: Part) -> list[bytes]:
        events: list[bytes] = []
        if self._block != (part.kind, part.call):
            events += self._close()
            self._block, self._blocks = (part.kind, part.call), self._blocks + 1
            delta, key = _DELTAS.get(part.kind, _DELTAS["text"])
            self._mould = Mould(encode(schema.BlockDelta(self._blocks - 1, delta)), key)
            events.append(encode(schema.BlockStart(self._blocks - 1, self._content(part, ""))))
        assert self._mould is not None
        return [*events, self._mould.fill(part.text)] if part.text else events

    def _content(self, part: Part, text: str) -> schema.AnswerBlock:
        match part.kind:
            case "reasoning":
                return schema.AnswerThinking(text)
            case "tool":
                self._calls = True
                called = call_id(self._head.id, 0, part.call).replace("call_", "toolu_")
                return schema.AnswerToolUse(called, part.name, _input(text))
            case _:
                return schema.AnswerText(text)

    def _stop(self, finish: Finish) -> tuple[schema.StopReason, str | None]:
        if finish.reason == "length":
            return "max_tokens", None
        if isinstance(finish.stop_reason, str):
            return "stop_sequence", finish.stop_reason
        return "tool_use" if self._calls and finish.reason == "stop" else "end_turn", None

    def _close(self) -> list[bytes]:
        if self._block is None:
            return []
        self._block = None
        return [encode(schema.BlockStop(self._blocks - 1))]

    def _end(self, finish: Finish) -> list[bytes]:
        delta = schema.MessageDelta(schema.StopDelta(*self._stop(finish)), _usage(finish))
        return [*self._close(), encode(delta), encode(schema.MessageStop())]

    def _message(
        self,
        content: list[schema.AnswerBlock],
        reason: schema.StopReason | None,
        sequence: str | None,
        usage: schema.MessageUsage,
    ) -> schema.AnthropicMessage:
        return schema.AnthropicMessage(
            id=self._head.id,
            model=self._head.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=usage,
        )


def _input(text: str) -> dict[str, Any]:
    """Of a call; of one that was cut off, nothing: half an object is none."""
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(finish: Finish, tier: Literal["standard"] | UnsetType = UNSET) -> schema.MessageUsage:
    usage = finish.usage
    return schema.MessageUsage(
        usage.prompt_tokens - usage.cached_tokens,
        usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens_details=schema.ThinkingTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        service_tier=tier,
    )
