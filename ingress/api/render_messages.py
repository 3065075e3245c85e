"""An answer as Anthropic writes it: events of a stream, or one message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, UnsetType

from ingress.api import schema_messages as schema
from ingress.api.answer import Head, Mould, encode
from ingress.api.jobs import Plan
from ingress.engine import Finish, Piece, TokenText
from ingress.streams import ContentKind, Part, parts_of


class MessagesRenderer:
    """One call's message.

    Args:
        head: what every message begins with.
        plan: for the length of the prompt.
    """

    def __init__(self, head: Head, plan: Plan) -> None:
        self._head = head
        self._prompt_tokens = plan.prompts[0].tokens
        self._block: ContentKind | None = None  # of the block that is open
        self._blocks = 0  # that have begun
        self._mould: Mould | None = None  # of the block's events

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
        if piece.finish is None and not piece.parts and self._block == "text" and self._mould is not None:
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
        content = [_content(part.kind, part.text) for part in parts_of(answer)]
        reason, sequence = _stop(answer.finish)
        return encode(self._message(content, reason, sequence, _usage(answer.finish, "standard")))

    def _part(self, part: Part) -> list[bytes]:
        events: list[bytes] = []
        if self._block != part.kind:
            events += self._close()
            self._block, self._blocks = part.kind, self._blocks + 1
            thinks = part.kind == "reasoning"
            delta = schema.ThinkingDelta("") if thinks else schema.TextDelta("")
            event = encode(schema.BlockDelta(self._blocks - 1, delta))
            self._mould = Mould(event, "thinking" if thinks else "text")
            events.append(encode(schema.BlockStart(self._blocks - 1, _content(part.kind, ""))))
        assert self._mould is not None
        return [*events, self._mould.fill(part.text)]

    def _close(self) -> list[bytes]:
        if self._block is None:
            return []
        self._block = None
        return [encode(schema.BlockStop(self._blocks - 1))]

    def _end(self, finish: Finish) -> list[bytes]:
        delta = schema.MessageDelta(schema.StopDelta(*_stop(finish)), _usage(finish))
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


def _content(kind: ContentKind, text: str) -> schema.AnswerBlock:
    return schema.AnswerThinking(text) if kind == "reasoning" else schema.AnswerText(text)


def _stop(finish: Finish) -> tuple[schema.StopReason, str | None]:
    if finish.reason == "length":
        return "max_tokens", None
    if isinstance(finish.stop_reason, str):
        return "stop_sequence", finish.stop_reason
    return "end_turn", None


def _usage(finish: Finish, tier: Literal["standard"] | UnsetType = UNSET) -> schema.MessageUsage:
    usage = finish.usage
    return schema.MessageUsage(
        usage.prompt_tokens - usage.cached_tokens,
        usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens_details=schema.ThinkingTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        service_tier=tier,
    )
