"""Thinking apart from the answer, in models that write it between marks, `<think>…</think>`, before what they say.

Pure and incremental: what comes out depends on the text alone, never on how it was cut. White space just after either
mark belongs to neither side. Only a block at the very beginning is one; later marks are text.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from ingress.streams import Part


class Tags(NamedTuple):
    """The marks that a thought stands between."""

    open: str
    close: str


THINK: Final = Tags("<think>", "</think>")
# As templates have them: DeepSeek R1, Qwen 3 and most others; Magistral; Seed-OSS; Command A; Kimi.
KNOWN: Final = (
    THINK,
    Tags("[THINK]", "[/THINK]"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("◁think▷", "◁/think▷"),
)


class Thinking(NamedTuple):
    """How an answer may think before it says anything.

    Attributes:
        opened: its prompt has begun the thought; else it may begin with one.
    """

    tags: Tags
    opened: bool


_State = Literal["before", "opened", "thought", "closed", "answer"]


class ThoughtParser:
    """The parser of one answer.

    Attributes:
        inside: whether the text so far ends in a thought, or in a mark around it.
    """

    def __init__(self, thinking: Thinking) -> None:
        self._tags = thinking.tags
        self._state: _State = "opened" if thinking.opened else "before"
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
        mark = self._tags.open
        if begun.startswith(mark):
            self._state, self._held = "opened", begun[len(mark) :]
        elif mark.startswith(begun):
            return False
        else:
            self._state = "answer"
        return True

    def _thought(self, parts: list[Part]) -> bool:
        thought, mark, rest = self._held.partition(self._tags.close)
        if not mark:
            keep = _begun(thought, self._tags.close)
            thought, rest = thought[: len(thought) - keep], thought[len(thought) - keep :]
        else:
            self._state = "closed"
        if thought:
            parts.append(Part("reasoning", thought))
        self._held = rest
        return bool(mark)


def tags_of(template: str) -> Tags | None:
    """The marks that a template, by its source, has around thoughts: it knows both. None where it has none."""
    return next((tags for tags in KNOWN if tags.open in template and tags.close in template), None)


def thinking_after(prompt: str, tags: Tags, begun: str = "") -> Thinking | None:
    """How the answer to a prompt may think, by the prompt's end; None where its thought is over already.

    Args:
        begun: what the prompt has of the answer, where it is one that is gone on with.
    """
    end, begun = prompt.rstrip(), begun.strip()
    if end.endswith(tags.close) or (begun and not begun.startswith(tags.open)) or tags.close in begun:
        return None
    return Thinking(tags, opened=bool(begun) or end.endswith(tags.open))


def _begun(text: str, mark: str) -> int:
    """How many characters at the end of `text` could be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)
