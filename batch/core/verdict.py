"""Whether an answer is the line's own, or the line is tried again. One table, and what is read of an answer."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from bus.messages.batches import BatchUsage, CachedTokens, ReasoningTokens

MAX_ATTEMPTS: Final = 3  # of a line whose answer failed by no fault of its own
_LATER: Final = frozenset({429, 503})  # not taken: nothing was tried
_AGAIN: Final = frozenset({408, 500, 502, 504})
_FINAL_CODES: Final = frozenset({"quarantined", "request_exceeds_limit"})  # would do the same again

Verdict = Literal[
    "kept",  # this is the answer
    "later",  # it was not taken: when the window opens again
    "again",  # it failed, and may not the next time
]


class Outcome(NamedTuple):
    """What a call came to.

    Attributes:
        status: as over HTTP.
        body: the answer, or OpenAI's error envelope.
        retry_after_s: 0 where nothing was said.
    """

    status: int
    body: bytes
    retry_after_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the line was answered."""
        return self.status == 200


def verdict(outcome: Outcome, attempts: int) -> Verdict:
    """What an outcome means for a line that has been tried `attempts` times, this one included."""
    if outcome.good or error_code(outcome.body) in _FINAL_CODES:
        return "kept"
    if outcome.status in _LATER:
        return "later"
    return "again" if outcome.status in _AGAIN and attempts < MAX_ATTEMPTS else "kept"


class _Error(msgspec.Struct):
    code: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    """Of any of the endpoints: two names for everything."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    id: str = ""
    usage: _Usage | None = None


_NOTHING: Final = _Details()
_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_decode_answer: Final = msgspec.json.Decoder(_Answer).decode


def error_code(body: bytes) -> str:
    """Of an error; empty where it has none."""
    try:
        return _decode_envelope(body).error.code or ""
    except msgspec.DecodeError:
        return ""


def told(body: bytes) -> tuple[str, BatchUsage]:
    """The id of an answer, empty where it has none, and what it used."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError:
        return "", BatchUsage()
    if (used := answer.usage) is None:
        return answer.id, BatchUsage()
    into, out = used.prompt_tokens or used.input_tokens, used.completion_tokens or used.output_tokens
    cached = (used.prompt_tokens_details or used.input_tokens_details or _NOTHING).cached_tokens
    reasoned = (used.completion_tokens_details or used.output_tokens_details or _NOTHING).reasoning_tokens
    return answer.id, BatchUsage(into, CachedTokens(cached), out, ReasoningTokens(reasoned), into + out)
