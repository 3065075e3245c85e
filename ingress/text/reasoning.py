"""Thinking apart from the answer, in models that write it as `<think>…</think>` before what they say.

Pure and incremental: what comes out depends on the text alone, never on how it was cut. White space just after either
mark belongs to neither side. Only a block at the very beginning is one; later marks are text.
"""

from __future__ import annotations

from typing import Final, Literal

from ingress.streams import Part

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

Thinking = Literal["off", "may", "does"]
"""Whether an answer is looked through: not at all; it may begin with a block; its prompt has opened one."""

_State = Literal["before", "opened", "thought", "closed", "answer"]


class ThoughtParser:
    """The parser of one answer.

    Args:
        opened: the prompt ends with the mark that opens a block, so the answer begins inside of it.

    Attributes:
        inside: whether the text so far ends in a thought, or in a mark around it.
    """

    def __init__(self, *, opened: bool) -> None:
        self._state: _State = "opened" if opened else "before"
        self._held = ""  # what may become a mark, or white space that may be dropped

    @property
    def inside(self) -> bool:
        """Whether a token that comes now would be one of the thought."""
        return self._state in ("opened", "thought")

    def feed(self, text: str) -> list[Part]:
        """What is known to be thought or answer now."""
        parts: list[Part] = []
        self._held += text
        while self._held and self._step(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        """At the end: what was held back and became no mark."""
        held, self._held = self._held, ""
        kind: Literal["text", "reasoning"] = "reasoning" if self.inside else "text"
        if self._state in ("opened", "closed"):
            held = held.lstrip()
        return [Part(kind, held)] if held else []

    def _step(self, parts: list[Part]) -> bool:
        """Take what can be taken in this state; whether there may be more."""
        match self._state:
            case "before":
                return self._before()
            case "opened" | "closed":
                self._held = self._held.lstrip()
                if self._held:
                    self._state = "thought" if self._state == "opened" else "answer"
                return bool(self._held)
            case "thought":
                return self._thought(parts)
            case "answer":
                parts.append(Part("text", self._held))
                self._held = ""
                return False

    def _before(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(OPEN):
            self._state, self._held = "opened", begun[len(OPEN) :]
        elif OPEN.startswith(begun):
            return False
        else:
            self._state = "answer"
        return True

    def _thought(self, parts: list[Part]) -> bool:
        thought, mark, rest = self._held.partition(CLOSE)
        if not mark:
            keep = _begun(thought, CLOSE)
            thought, rest = thought[: len(thought) - keep], thought[len(thought) - keep :]
        else:
            self._state = "closed"
        if thought:
            parts.append(Part("reasoning", thought))
        self._held = rest
        return bool(mark)


def thinking_of(template: str) -> Thinking:
    """Whether answers to prompts of this template may begin with a thought: the template knows both marks."""
    return "may" if OPEN in template and CLOSE in template else "off"


def _begun(text: str, mark: str) -> int:
    """How many characters at the end of `text` could be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)
