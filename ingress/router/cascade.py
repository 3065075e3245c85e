"""Whether an answer passes, or another model is asked. Only what can be checked is: form, an outright refusal, how sure
the model was of its first tokens. Whether an answer is right is not among that. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from bus.config.routes import CascadeConfig
from ingress.streams import Finish, Part, Piece, TokenText, parts_of

Verdict = Literal["wait", "pass", "fail"]

_REFUSES: Final = re.compile(
    r"\W*(?:(?:i(?:'|’)m|i am) (?:very |really |so )?sorry\b[^.]{0,40}\b(?:but|can(?:'|’)?t|cannot|unable)"
    r"|sorry, (?:but )?i (?:can|am|do)"
    r"|i (?:can(?:'|’)t|cannot|can not|am unable to|am not able to|won(?:'|’)t|will not)"
    r" (?:help|assist|answer|provide|comply|do (?:that|this)|fulfil|create|write|discuss)"
    r"|as an ai(?: language)?(?: model)?, i (?:can|do|am)"
    r"|i do(?:n(?:'|’)t| not) (?:know|have (?:access|enough|information|the ability)))",
    re.IGNORECASE,
)
Fits = Callable[[Any], bool]


class Checking:
    """The check of one answer while it comes.

    Args:
        fits: whether a value fits the schema of `[route.cascade]`.
        margins: whether log probabilities of two alternatives come with the tokens.

    Attributes:
        failed: the check that failed; empty is none.
    """

    def __init__(self, config: CascadeConfig, fits: Fits | None = None, *, margins: bool = True) -> None:
        self._config, self._fits = config, fits
        self._margin = margins and "margin" in config.checks
        self._whole = any(check != "margin" for check in config.checks)
        self._parts: list[Part] = []
        self._margins: list[float] = []
        self.failed = ""

    def hear(self, piece: Piece) -> Verdict:
        """What has come by now. After another word than "wait" nothing more is to be heard."""
        self._parts += parts_of(piece)
        if self._margin:
            self._margins += map(margin, piece.logprobs)
            enough = len(self._margins) >= self._config.tokens or piece.finish is not None
            if enough and self._margins:
                first = self._margins[: self._config.tokens]
                if sum(first) / len(first) < self._config.margin:
                    self.failed = "margin"
                    return "fail"
            if enough and not self._whole:
                return "pass"
        if piece.finish is None:
            return "wait" if self._whole or self._margin else "pass"
        self.failed = self._end(piece.finish)
        return "fail" if self.failed else "pass"

    def _end(self, finish: Finish) -> str:
        """The first check that the whole answer does not pass."""
        if finish.reason in ("error", "abort"):
            return "error"
        checks = self._config.checks
        text = self._of("text")
        if "refusal" in checks and (self._of("refusal") or finish.reason == "content_filter" or refuses(text)):
            return "refusal"
        if "truncated" in checks and finish.reason == "length":
            return "truncated"
        if "empty" in checks and not text.strip() and not self._calls():
            return "empty"
        if "tool_arguments" in checks and not all(map(is_object, self._calls())):
            return "tool_arguments"
        if "json" in checks and value_of(text) is msgspec.UNSET:
            return "json"
        if "schema" in checks and self._fits is not None:
            value = value_of(text)
            if value is msgspec.UNSET or not self._fits(value):
                return "schema"
        return ""

    def _calls(self) -> list[str]:
        """What each tool is called with."""
        calls: dict[int, str] = {}
        for part in self._parts:
            if part.kind == "tool":
                calls[part.call] = calls.get(part.call, "") + part.text
        return list(calls.values())

    def _of(self, kind: str) -> str:
        return "".join(part.text for part in self._parts if part.kind == kind)


def margin(token: TokenText) -> float:
    """By how much the best alternative of a position is better than the second best: of their log probabilities. Where
    only one is told, there was no other of note."""
    values: Sequence[float] = sorted((value for _, _, value in token.top), reverse=True)
    return values[0] - values[1] if len(values) > 1 else 20.0


def refuses(text: str) -> bool:
    """Whether an answer begins by saying that it is none. Phrases, in English."""
    return _REFUSES.match(text[:400]) is not None


def value_of(text: str) -> Any:
    """The JSON that an answer is, also within one fence of Markdown; UNSET where it is none."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].removeprefix("json")
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return msgspec.UNSET


def is_object(text: str) -> bool:
    """Whether arguments are what a tool can be called with."""
    return isinstance(value_of(text), dict)
