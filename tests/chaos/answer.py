"""What is compared of an answer: text, token ids, finish reason, log probabilities of each choice, and the usage. Pure.

It grows from whatever a door gives: a whole body, the chunks of an event stream, or the pieces of `headrace_client`.
What may differ between two runs of the same request is left out: ids, times, how a stream is cut into events, and
which prompt tokens were found in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

Json = dict[str, Any]


class Choice(msgspec.Struct):
    """One choice, so far. `logprobs` has one entry a token, `prompt_logprobs` one a token of the prompt."""

    text: str = ""
    tokens: list[int] = []
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[Json] = []
    prompt_logprobs: list[Json | None] = []
    ends: int = 0  # how often it was said to have ended


class Answer(msgspec.Struct):
    """All choices by index, and what was counted."""

    choices: dict[int, Choice] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Generated tokens, over all choices."""
        return sum(len(choice.tokens) for choice in self.choices.values())

    def body(self, body: Json) -> None:
        """The body of a call that did not stream."""
        for choice in body["choices"]:
            self._choice(choice, choice["message"]["content"] if "message" in choice else choice["text"])
        for index, value in enumerate([body.get("prompt_logprobs")]):
            if value:
                self._at(index).prompt_logprobs = value
        self._usage(body["usage"])

    def chunk(self, body: Json) -> None:
        """One event of a stream."""
        for choice in body["choices"]:
            delta = choice.get("delta", {})
            self._choice(choice, delta.get("content") or choice.get("text") or "")
        if body.get("usage"):
            self._usage(body["usage"])

    def piece(
        self, index: int, text: str, tokens: Iterable[int], logprobs: Iterable[Json],
        finish_reason: str | None, stop_reason: str | int | None,
    ) -> None:  # fmt: skip
        """A piece as `headrace_client` gives it."""
        into = self._at(index)
        into.text += text
        into.tokens.extend(tokens)
        into.logprobs.extend(logprobs)
        self._finish(into, finish_reason, stop_reason)

    def used(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """The account."""
        self.prompt_tokens, self.completion_tokens, self.cached_tokens = prompt_tokens, completion_tokens, cached_tokens

    def _at(self, index: int) -> Choice:
        return self.choices.setdefault(index, Choice())

    def _choice(self, choice: Json, text: str) -> None:
        into = self._at(choice["index"])
        into.text += text
        into.tokens.extend(choice.get("token_ids") or ())
        into.logprobs.extend(_entries(choice.get("logprobs")))
        if choice.get("prompt_logprobs"):
            into.prompt_logprobs = choice["prompt_logprobs"]
        self._finish(into, choice.get("finish_reason"), choice.get("stop_reason"))

    def _finish(self, into: Choice, finish_reason: str | None, stop_reason: str | int | None) -> None:
        if finish_reason is not None:
            into.finish_reason, into.stop_reason, into.ends = finish_reason, stop_reason, into.ends + 1

    def _usage(self, usage: Json) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self.used(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens", 0))


def _entries(logprobs: Json | None) -> list[Json]:
    """Log probabilities of either endpoint, one entry a token."""
    if not logprobs:
        return []
    if "content" in logprobs:
        return list(logprobs["content"] or [])
    count = len(logprobs["tokens"])
    columns = [logprobs.get(name) or [None] * count for name in ("token_logprobs", "text_offset", "top_logprobs")]
    return [
        {"token": token, "logprob": logprob, "text_offset": offset, "top_logprobs": top}
        for token, logprob, offset, top in zip(logprobs["tokens"], *columns, strict=True)
    ]
