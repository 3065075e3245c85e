"""A chat completion as OpenAI writes it: chunks of a stream, or one body. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from ingress.api import schema_chat as schema
from ingress.api.answer import (
    Head,
    Mould,
    call_id,
    encode,
    finish_reason,
    finite,
    guards,
    prompt_logprobs,
    readable,
    total_usage,
)
from ingress.api.jobs import Plan, tier_of
from ingress.api.ledger import ledger, together
from ingress.api.schema_common import RequestTiming, Usage
from ingress.engine import Finish, Piece, TokenText
from ingress.streams import ContentKind, Part, parts_of

_ROLE = schema.Delta(role="assistant", content="", refusal=None)
_NOTHING = schema.Delta()
_NO_TEXT = schema.Delta(content="")


class ChatRenderer:
    """One call's answer.

    Args:
        head: what every body begins with.
        request: decides which optional parts there are.
        plan: for the prompt's ids.
    """

    def __init__(self, head: Head, request: schema.ChatRequest, plan: Plan) -> None:
        self._head = head
        self._plan = plan
        self._logprobs = bool(request.logprobs)
        self._token_ids = bool(request.return_token_ids)
        self._include_usage = request.include_usage
        self._prompt_logprobs = request.prompt_logprobs is not None
        self._only_text = not self._token_ids and not self._logprobs
        self._tier = tier_of(request)
        self._moulds: dict[int, Mould] = {}  # by choice
        # A call that the client has named is no reason to end of the model's own.
        self._named = isinstance(request.tool_choice, dict)
        self._called: dict[int, int] = {}  # how many calls of each choice have begun

    @property
    def id(self) -> str:
        """Of the response."""
        return self._head.id

    def first(self) -> list[bytes]:
        """The chunks that open each choice, with the role."""
        prompt_ids = self._plan.prompts[0].ids if self._token_ids else UNSET
        return [
            self._chunk(schema.ChunkChoice(index=index, delta=_ROLE), prompt_ids=prompt_ids if index == 0 else UNSET)
            for index in range(self._plan.n)
        ]

    def piece(self, index: int, piece: Piece, prompt: Sequence[TokenText | None]) -> list[bytes]:  # noqa: ARG002
        """The chunks of a piece of choice `index`: what is new, then the end. Chats do not echo their prompt."""
        if self._only_text and piece.finish is None and not piece.parts:
            return [self._mould(index).fill(piece.text)] if piece.text else []
        chunks = []
        token_ids = list(piece.tokens) if self._token_ids else UNSET
        *before, delta = self._deltas(index, piece)
        chunks += [self._chunk(schema.ChunkChoice(index=index, delta=other)) for other in before]
        if delta is not _NO_TEXT or piece.logprobs or token_ids:
            choice = schema.ChunkChoice(
                index=index,
                delta=delta,
                logprobs=_logprobs(piece.logprobs) if self._logprobs else None,
                token_ids=token_ids,
            )
            chunks.append(self._chunk(choice))
        if piece.finish is not None:
            choice = schema.ChunkChoice(
                index=index,
                delta=_NOTHING,
                finish_reason=finish_reason(piece.finish, calls=index in self._called and not self._named),
                stop_reason=piece.finish.stop_reason,
                guards=guards(piece.finish),
            )
            chunks.append(self._chunk(choice, timing=ledger(piece.finish)))
        return chunks

    def last(self, finishes: Sequence[Finish]) -> list[bytes]:
        """The chunk with the usage, where it was asked for."""
        return [self._chunk(None, usage=total_usage(finishes, self._plan.n))] if self._include_usage else []

    def whole(self, answers: Sequence[Piece], prompts: Sequence[Sequence[TokenText | None]]) -> bytes:
        """The body of a call that does not stream; `answers` are whole, in order of choices."""
        finishes = [answer.finish for answer in answers if answer.finish is not None]
        return encode(
            schema.ChatCompletion(
                id=self._head.id,
                created=self._head.created,
                model=self._head.model,
                system_fingerprint=self._head.fingerprint,
                choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
                usage=total_usage(finishes, self._plan.n),
                prompt_token_ids=self._plan.prompts[0].ids if self._token_ids else UNSET,
                prompt_logprobs=prompt_logprobs(prompts[0]) if self._prompt_logprobs else UNSET,
                service_tier=self._tier,
                headrace=together([ledger(finish) for finish in finishes]),
            )
        )

    def _choice(self, index: int, answer: Piece) -> schema.ChatChoice:
        assert answer.finish is not None
        return schema.ChatChoice(
            index=index,
            message=self._message(index, answer),
            logprobs=_logprobs(answer.logprobs) if self._logprobs else None,
            finish_reason=finish_reason(answer.finish, calls=index in self._called and not self._named),
            stop_reason=answer.finish.stop_reason,
            token_ids=list(answer.tokens) if self._token_ids else UNSET,
            guards=guards(answer.finish),
        )

    def _deltas(self, index: int, piece: Piece) -> list[schema.Delta]:
        """At least one, of one kind of content each."""
        return [self._delta(index, part) for part in parts_of(piece)] or [_NO_TEXT]

    def _delta(self, index: int, part: Part) -> schema.Delta:
        match part.kind:
            case "reasoning":
                return schema.Delta(reasoning_content=part.text)
            case "refusal":
                return schema.Delta(refusal=part.text)
            case "tool":
                return schema.Delta(tool_calls=[self._call(index, part)])
            case _:
                return schema.Delta(content=part.text)

    def _call(self, index: int, part: Part) -> schema.CallDelta:
        if part.call < self._called.get(index, 0):
            return schema.CallDelta(index=part.call, function=schema.FunctionDelta(part.text))
        self._called[index] = part.call + 1
        return schema.CallDelta(
            index=part.call, id=call_id(self._head.id, index, part.call), type="function",
            function=schema.FunctionDelta(part.text, part.name),
        )  # fmt: skip

    def _message(self, index: int, answer: Piece) -> schema.ChatMessage:
        said: dict[ContentKind, str] = {}
        calls: dict[int, schema.ToolCall] = {}
        for part in answer.parts:
            if part.kind != "tool":
                said[part.kind] = said.get(part.kind, "") + part.text
                continue
            before = calls[part.call].function.arguments if part.call in calls else ""
            function = schema.FunctionCall(part.name, before + part.text)
            calls[part.call] = schema.ToolCall(call_id(self._head.id, index, part.call), function)
        self._called |= {index: len(calls)} if calls else {}
        refused = said.get("refusal") or None
        return schema.ChatMessage(
            content=answer.text or None if refused or calls else answer.text,
            refusal=refused,
            reasoning_content=said.get("reasoning") or UNSET,
            tool_calls=list(calls.values()) or UNSET,
        )

    def _mould(self, index: int) -> Mould:
        if (mould := self._moulds.get(index)) is None:
            empty = schema.ChunkChoice(index=index, delta=schema.Delta(content=""))
            mould = self._moulds[index] = Mould(self._chunk(empty), "content")
        return mould

    def _chunk(
        self,
        choice: schema.ChunkChoice | None,
        usage: Usage | None = None,
        prompt_ids: list[int] | UnsetType = UNSET,
        timing: RequestTiming | UnsetType = UNSET,
    ) -> bytes:
        return encode(
            schema.ChatCompletionChunk(
                id=self._head.id,
                created=self._head.created,
                model=self._head.model,
                system_fingerprint=self._head.fingerprint,
                choices=[choice] if choice is not None else [],
                usage=usage if self._include_usage else UNSET,
                prompt_token_ids=prompt_ids,
                service_tier=self._tier,
                headrace=timing,
            )
        )


def _logprobs(tokens: Iterable[TokenText]) -> schema.ChatLogprobs:
    return schema.ChatLogprobs(
        [
            schema.ChatTokenLogprob(
                readable(token.text),
                finite(token.logprob),
                list(token.text),
                [schema.TopLogprob(readable(text), finite(value), list(text)) for _, text, value in token.top],
            )
            for token in tokens
        ]
    )
