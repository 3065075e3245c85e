"""An answer as OpenAI's Responses has it: numbered events, or one response. Pure.

All that follows the end of the one choice is said with it, so that who takes a stream over never has to say an end
whose text it has not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from ingress.api import schema_responses as schema
from ingress.api.answer import Head, call_id, encode, finite, readable
from ingress.api.from_responses import LOGPROBS
from ingress.api.jobs import tier_of
from ingress.api.schema_chat import TextFormat
from ingress.drawing import Drawing
from ingress.engine import Finish, Piece, TokenText
from ingress.streams import ContentKind, Part, parts_of

# Of a part of each kind: its events' names, and the key of its text.
_NAMES: Final[dict[ContentKind, tuple[str, str]]] = {
    "text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning": ("response.reasoning_text", "text"),
}
_NO_LOGPROBS: Final[list[schema.ResponseTokenLogprob]] = []


class ResponsesRenderer:
    """One response.

    Args:
        head: its id and when it was made.
        request: what the response says again.
        drawing: what it is drawn with.
    """

    def __init__(self, head: Head, request: schema.ResponsesRequest, drawing: Drawing) -> None:
        self._head, self._request, self._drawing = head, request, drawing
        self._logprobs = LOGPROBS in (request.include or ())
        self._number = itertools.count()
        self._output: list[schema.OutputItem] = []  # items that are complete
        self._call: Part | None = None  # the one that is open
        self._content: list[schema.OutputTextPart | schema.OutputRefusal] = []  # of the message that is open
        self._kind: ContentKind | None = None  # of the part that is open
        self._texts: list[str] = []  # of that part
        self._tokens: list[schema.ResponseTokenLogprob] = []
        self._delta = b""  # of that part's events, up to the text
        self._response = self._said("queued" if request.background else "in_progress")

    @property
    def id(self) -> str:
        """Of the response."""
        return self._head.id

    def first(self) -> list[bytes]:
        """The response, made and under way."""
        under_way = msgspec.structs.replace(self._response, status="in_progress")
        return [self._event("response.created", self._response), self._event("response.in_progress", under_way)]

    def piece(self, index: int, piece: Piece, prompt: Sequence[TokenText | None]) -> list[bytes]:  # noqa: ARG002
        """Events of what is new; at the end, all that follow."""
        if piece.finish is None and not piece.parts and self._kind == "text" and not self._logprobs:
            return [self._more(piece.text)] if piece.text else []
        events: list[bytes] = []
        fresh = _logprobs(piece.logprobs) if self._logprobs else _NO_LOGPROBS
        for part in parts_of(piece):
            if part.kind == "tool":
                events += self._calls(part)
                continue
            events += self._part(part.kind, part.text, fresh if part.kind == "text" else _NO_LOGPROBS)
            fresh = _NO_LOGPROBS if part.kind == "text" else fresh
        if piece.finish is not None:
            events += self._end(piece.finish)
        return events

    def last(self, finishes: Sequence[Finish]) -> list[bytes]:  # noqa: ARG002
        """Nothing: see the head of this module."""
        return []

    def whole(self, answers: Sequence[Piece], prompts: Sequence[Sequence[TokenText | None]]) -> bytes:
        """The body of a call that does not stream and is not kept."""
        self.piece(0, answers[0], prompts[0])
        return encode(self._response)

    # --- calls -----------------------------------------------------------------------------------------------------

    def _calls(self, part: Part) -> list[bytes]:
        """A call, or more of its arguments."""
        events: list[bytes] = []
        if self._call is None or self._call.call != part.call:
            events += [*self._close_part(), *self._close_message()]
            self._call = part
            item = self._called(part, "", "in_progress")
            events.append(self._encode(schema.ItemEvent, "response.output_item.added", len(self._output), item))
        if part.text:
            self._texts.append(part.text)
            events.append(self._encode(schema.ArgumentsDelta, self._item("tool"), len(self._output), part.text))
        return events

    def _close_call(self, status: schema.ItemStatus = "completed") -> list[bytes]:
        if (call := self._call) is None:
            return []
        arguments, self._texts, self._call = "".join(self._texts), [], None
        item = self._called(call, arguments, status)
        done = self._encode(schema.ArgumentsDone, item.id, item.name, len(self._output), arguments)
        return [done, *self._close_item(item)]

    def _called(self, part: Part, arguments: str, status: schema.ItemStatus) -> schema.CallItem:
        return schema.CallItem(
            self._item("tool"), call_id(self._head.id, 0, part.call), part.name, arguments, status
        )  # fmt: skip

    # --- parts and items -------------------------------------------------------------------------------------------

    def _part(self, kind: ContentKind, text: str, logprobs: list[schema.ResponseTokenLogprob]) -> list[bytes]:
        events: list[bytes] = []
        if self._kind != kind:
            events += self._begin(kind)
        self._tokens += logprobs
        return [*events, self._more(text, logprobs)]

    def _begin(self, kind: ContentKind) -> list[bytes]:
        events = self._close_part()
        if self._content and kind == "reasoning":
            events += self._close_message()
        item: schema.OutputItem | None = None
        if kind == "reasoning":
            item = schema.ReasoningItem(self._item("reasoning"), "in_progress", [])
        elif not self._content:
            item = schema.OutputMessage(self._item(kind), "in_progress", [])
        self._kind = kind
        if item is not None:
            events.append(self._encode(schema.ItemEvent, "response.output_item.added", len(self._output), item))
        delta = schema.DeltaEvent(f"{_NAMES[kind][0]}.delta", *self._place(kind), "", 0)  # type: ignore[arg-type]
        self._delta = encode(delta).partition(b'""')[0]
        added: schema.OutputTextPart | schema.OutputRefusal | schema.ReasoningText = _content(kind, "", _NO_LOGPROBS)
        events.append(self._encode(schema.PartEvent, "response.content_part.added", *self._place(kind), added))
        return events

    def _more(self, text: str, logprobs: list[schema.ResponseTokenLogprob] = _NO_LOGPROBS) -> bytes:
        self._texts.append(text)
        rest = b"}"
        if self._kind == "text":
            rest = b',"logprobs":%b}' % (encode(logprobs) if logprobs else b"[]")
        return b'%b%b,"sequence_number":%d%b' % (self._delta, encode(text), next(self._number), rest)

    def _close_part(self) -> list[bytes]:
        kind = self._kind
        if kind is None:
            return self._close_call()
        text, tokens = "".join(self._texts), self._tokens
        self._kind, self._texts, self._tokens = None, [], []
        place, (name, key) = self._place(kind), _NAMES[kind]
        told = {key: text, **({"logprobs": tokens} if kind == "text" else {})}
        done = schema.DoneEvent(f"{name}.done", *place, next(self._number), **told)  # type: ignore[arg-type]
        part = _content(kind, text, tokens)
        events = [encode(done), self._encode(schema.PartEvent, "response.content_part.done", *place, part)]
        if isinstance(part, schema.ReasoningText):
            return events + self._close_item(schema.ReasoningItem(place[0], "completed", [part]))
        self._content.append(part)
        return events

    def _close_message(self, status: schema.ItemStatus = "completed") -> list[bytes]:
        content, self._content = self._content, []
        return self._close_item(schema.OutputMessage(self._item("text"), status, content)) if content else []

    def _close_item(self, item: schema.OutputItem) -> list[bytes]:
        self._output.append(item)
        return [self._encode(schema.ItemEvent, "response.output_item.done", len(self._output) - 1, item)]

    def _end(self, finish: Finish) -> list[bytes]:
        cut = finish.reason == "length"
        events = self._close_call("incomplete" if cut else "completed")
        calls = any(isinstance(item, schema.CallItem) for item in self._output)
        if self._kind is None and not self._content and not calls:
            events = self._begin("text")
        events += self._close_part()
        events += self._close_message("incomplete" if cut else "completed")
        usage = finish.usage
        self._response = msgspec.structs.replace(
            self._response,
            status="incomplete" if cut else "completed",
            incomplete_details=schema.IncompleteDetails("max_output_tokens") if cut else None,
            output=list(self._output),
            usage=schema.ResponseUsage(
                usage.prompt_tokens,
                schema.InputTokensDetails(usage.cached_tokens),
                usage.completion_tokens,
                schema.OutputTokensDetails(usage.reasoning_tokens),
                usage.prompt_tokens + usage.completion_tokens,
            ),
        )
        return [*events, self._event("response.incomplete" if cut else "response.completed", self._response)]

    # --- what events say -------------------------------------------------------------------------------------------

    def _said(self, status: schema.Status) -> schema.Response:
        request = self._request
        return schema.Response(
            id=self._head.id,
            created_at=self._head.created,
            status=status,
            background=bool(request.background),
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            model=self._head.model,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            previous_response_id=request.previous_response_id,
            reasoning=schema.ReasoningReply(request.reasoning.effort if request.reasoning is not None else None),
            store=request.stores,
            text=schema.TextReply((request.text.format if request.text is not None else None) or TextFormat()),
            service_tier=tier_of(request),
            temperature=self._drawing.temperature,
            tool_choice="auto" if request.tool_choice is None else request.tool_choice,
            tools=request.tools or [],
            top_logprobs=request.top_logprobs or 0,
            top_p=self._drawing.top_p,
            user=request.user if request.user is not None else msgspec.UNSET,
            metadata=request.metadata or {},
        )

    def _event(self, kind: Any, response: schema.Response) -> bytes:
        return encode(schema.ResponseEvent(kind, response, next(self._number)))

    def _encode(self, event: Callable[..., msgspec.Struct], *fields: Any) -> bytes:
        return encode(event(*fields, next(self._number)))

    def _item(self, kind: ContentKind) -> str:
        """The id of the item that is open, from the response's own."""
        prefix = {"reasoning": "rs", "tool": "fc"}.get(kind, "msg")
        return f"{prefix}_{self._head.id.partition('_')[2]}{len(self._output):02d}"

    def _place(self, kind: ContentKind) -> tuple[str, int, int]:
        return self._item(kind), len(self._output), 0 if kind == "reasoning" else len(self._content)


def _content(
    kind: ContentKind, text: str, tokens: list[schema.ResponseTokenLogprob]
) -> schema.OutputTextPart | schema.OutputRefusal | schema.ReasoningText:
    match kind:
        case "reasoning":
            return schema.ReasoningText(text)
        case "refusal":
            return schema.OutputRefusal(text)
        case _:
            return schema.OutputTextPart(text, [], tokens)


def _logprobs(tokens: Iterable[TokenText]) -> list[schema.ResponseTokenLogprob]:
    return [
        schema.ResponseTokenLogprob(
            readable(token.text),
            finite(token.logprob),
            list(token.text),
            [schema.ResponseTopLogprob(readable(text), finite(value), list(text)) for _, text, value in token.top],
        )
        for token in tokens
    ]
