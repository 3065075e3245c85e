"""What calls return, and how the server's JSON becomes it. Pure.

`Progress` puts the chunks of one streamed answer together, over connections and servers: it knows what has been given
out, so that an answer that is begun again continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from headrace_client._errors import StreamBroken


class Usage(msgspec.Struct, frozen=True):
    """What a call cost, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, int] = {}
    completion_tokens_details: dict[str, int] = {}

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the answer that were thought and not said."""
        return self.completion_tokens_details.get("reasoning_tokens", 0)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens whose KV was found instead of computed."""
        return self.prompt_tokens_details.get("cached_tokens", 0)


class Choice(msgspec.Struct, frozen=True):
    """One of the answers to a call. `logprobs` and `token_ids` are there where they were asked for; `reasoning` is what
    the model thought before it answered."""

    index: int
    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: dict[str, Any] | None = None
    token_ids: list[int] | None = None
    reasoning: str = ""


class Answer(msgspec.Struct, frozen=True):
    """The answer to a call. `raw` is the server's JSON, for what has no field here."""

    id: str
    model: str
    choices: list[Choice]
    usage: Usage
    raw: dict[str, Any]

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text

    @property
    def reasoning(self) -> str:
        """What was thought before it, of the first choice."""
        return self.choices[0].reasoning

    @property
    def finish_reason(self) -> str | None:
        """Of the first choice: "stop" or "length"."""
        return self.choices[0].finish_reason

    @property
    def timing(self) -> dict[str, Any] | None:
        """Where its time went, with `include_timing=True`."""
        return self.raw.get("headrace")


class Piece(msgspec.Struct, frozen=True):
    """What is new in one choice of a streamed answer. `logprobs` are the entries of the tokens in it; `reasoning` is
    what the model thinks before it answers."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[dict[str, Any]] = []
    token_ids: list[int] = []
    reasoning: str = ""


class Model(msgspec.Struct, frozen=True):
    """A served model. `ready` says whether it can answer now."""

    id: str
    created: int = 0
    max_model_len: int = 0
    ready: bool = True
    kind: str = "generate"


class Ranked(msgspec.Struct, frozen=True):
    """A document's score. `index` is its place in the call."""

    index: int
    relevance_score: float


class _Embedding(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct, frozen=True):
    data: list[_Embedding]


class _Rankings(msgspec.Struct, frozen=True):
    results: list[Ranked]


class Delta(msgspec.Struct, frozen=True):
    """What is new in a message."""

    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """What is new in a choice, on any surface."""

    index: int
    delta: Delta = Delta()
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: dict[str, Any] | None = None
    token_ids: list[int] | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a stream, on any surface. `id` is empty where the event does not say it."""

    id: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    headrace: dict[str, Any] | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[Model]


chat_chunk = msgspec.json.Decoder(Chunk).decode


def models(body: bytes) -> list[Model]:
    """The answer of the operation `models`."""
    return msgspec.json.decode(body, type=_Models).data


def embeddings(body: bytes) -> list[list[float]]:
    """The answer of the operation `embeddings`, in the order of the texts."""
    data = msgspec.json.decode(body, type=_Embeddings).data
    return [each.embedding for each in sorted(data, key=lambda each: each.index)]


def rankings(body: bytes) -> list[Ranked]:
    """The answer of the operation `rerank`."""
    return msgspec.json.decode(body, type=_Rankings).results


def chat_answer(body: bytes) -> Answer:
    """The answer of a chat completion or a completion."""
    raw = msgspec.json.decode(body, type=dict[str, Any])
    choices = [
        Choice(
            index=choice["index"],
            text=choice["message"]["content"] if "message" in choice else choice["text"],
            finish_reason=choice.get("finish_reason"),
            stop_reason=choice.get("stop_reason"),
            logprobs=choice.get("logprobs"),
            token_ids=choice.get("token_ids"),
            reasoning=choice.get("message", {}).get("reasoning_content") or "",
        )
        for choice in raw["choices"]
    ]
    return Answer(raw["id"], raw["model"], choices, msgspec.convert(raw["usage"], Usage), raw)


class _Given(msgspec.Struct):
    """What has been given out of one choice, and how much of it has come again."""

    text: str = ""
    thought: str = ""
    entries: int = 0
    tokens: int = 0
    finished: bool = False
    text_again: int = 0
    thought_again: int = 0
    entries_again: int = 0
    tokens_again: int = 0


class Progress:
    """One streamed answer, as far as it has come.

    Args:
        read: an event of its surface.
        response, event: of an answer that was begun elsewhere, which event was the last.

    Attributes:
        id: of the response; empty before the first chunk.
        event: number of the last chunk.
        usage: known at the end.
        timing: of the choice that ended last, with `include_timing`.
    """

    def __init__(self, read: Callable[[bytes], Chunk] = chat_chunk, *, response: str = "", event: int = 0) -> None:
        self.id = response
        self.event = event
        self._read = read
        self.usage: Usage | None = None
        self.timing: dict[str, Any] | None = None
        self._given: dict[int, _Given] = {}

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return self._given[0].text if 0 in self._given else ""

    def begin_again(self) -> None:
        """The same call will be made anew: what has been given out is not given out again."""
        self.id, self.event = "", 0
        for given in self._given.values():
            given.text_again = given.thought_again = given.entries_again = given.tokens_again = 0

    def chunk(self, event: int, body: bytes) -> Iterator[Piece]:
        """What is new in a chunk.

        Raises:
            StreamBroken: what came again is not what had come before.
        """
        if event <= self.event:
            return
        chunk = self._read(body)
        self.id, self.event = chunk.id or self.id, event
        self.usage = chunk.usage or self.usage
        self.timing = chunk.headrace or self.timing
        for choice in chunk.choices:
            piece = self._new(choice)
            if piece.text or piece.reasoning or piece.logprobs or piece.token_ids or piece.finish_reason:
                yield piece

    def _new(self, choice: ChunkChoice) -> Piece:
        given = self._given.setdefault(choice.index, _Given())
        text = choice.text or choice.delta.content or ""
        entries, tokens = _entries(choice.logprobs), choice.token_ids or []
        thought = choice.delta.reasoning_content or ""
        piece = Piece(
            text=_rest(given.text, given.text_again, text),
            reasoning=_rest(given.thought, given.thought_again, thought),
            index=choice.index,
            finish_reason=None if given.finished else choice.finish_reason,
            stop_reason=None if given.finished else choice.stop_reason,
            logprobs=entries[max(0, given.entries - given.entries_again) :],
            token_ids=tokens[max(0, given.tokens - given.tokens_again) :],
        )
        given.text += piece.text
        given.thought += piece.reasoning
        given.entries += len(piece.logprobs)
        given.tokens += len(piece.token_ids)
        given.text_again += len(text)
        given.thought_again += len(thought)
        given.entries_again += len(entries)
        given.tokens_again += len(tokens)
        given.finished = given.finished or choice.finish_reason is not None
        return piece


def _rest(given: str, again: int, text: str) -> str:
    """What of `text` is new, where so many characters have come again."""
    known = given[again : again + len(text)]
    if not text.startswith(known):
        raise StreamBroken(f"the answer was begun again and is different after {again} characters")
    return text[len(known) :]


def _entries(logprobs: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Log probabilities of either endpoint as one entry per token."""
    if not logprobs:
        return []
    if "content" in logprobs:
        return list(logprobs["content"] or [])
    columns = ("tokens", "token_logprobs", "text_offset", "top_logprobs")
    names = ("token", "logprob", "text_offset", "top_logprobs")
    count = len(logprobs["tokens"])
    rows = zip(*(logprobs.get(column) or [None] * count for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]
