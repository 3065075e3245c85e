"""Grammars as llguidance reads them: its own form of Lark, with JSON Schemas in it. Pure, and the same text for the
same request: it is part of what an answer is cached by.

A thought comes before what a grammar is about, as the model was taught to; nothing is asked of it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ingress.grammar.wanted import Wanted
from ingress.text.reasoning import CLOSE, OPEN, Thinking

# Between the parts of a JSON text: nothing, one space, or a line and its indentation. Without bounds a small model can
# go on with white space for ever.
_WHITE_SPACE: Final = r"[ ]?|\n[ ]{0,40}"

_HEAD: Final = "%llguidance {}\n"
_BEFORE: Final[dict[Thinking, str]] = {"off": "", "may": "thought? ", "does": "thought "}


def grammar(asked: Wanted, thinking: Thinking) -> str:
    """Of one thing that is asked for."""
    if asked.kind == "grammar":
        main = f"start: {_BEFORE[thinking]}@asked\n{thought(thinking)}"
        named = {"main": _HEAD + main, "asked": asked.value}
        return json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in named.items()]})
    return f"{_HEAD}start: {_BEFORE[thinking]}answer\nanswer: {answer(asked)}\n{thought(thinking)}"


def thought(thinking: Thinking) -> str:
    """The rule of a thought, and the white space after it; nothing where the model has none."""
    if thinking == "off":
        return ""
    mark = OPEN if thinking == "may" else ""
    return f"thought: block /[ \\n]{{0,8}}/\nblock[lazy]: /{_pattern(mark)}(.|\\n)*{_pattern(CLOSE)}/\n"


def before(thinking: Thinking) -> str:
    """Where a thought stands in a rule."""
    return _BEFORE[thinking]


def schema(value: Any) -> str:
    """A JSON Schema as a part of a rule."""
    settings = {"x-guidance": {"whitespace_pattern": _WHITE_SPACE}}
    whole = {**settings, **value} if isinstance(value, dict) else {**settings, "allOf": [value]}
    return f"%json {json.dumps(whole, ensure_ascii=False)}"


def text(value: str) -> str:
    """A text as a part of a rule."""
    return json.dumps(value, ensure_ascii=False)


def pattern(value: str) -> str:
    """A regular expression as a part of a rule."""
    escaped = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], value, flags=re.DOTALL)
    return "/" + escaped.replace("\n", "\\n") + "/"


def answer(asked: Wanted) -> str:
    """What is asked for as a part of a rule. A grammar of the client's is none: it has rules of its own."""
    match asked.kind:
        case "json":
            return schema(asked.value)
        case "choice":
            return " | ".join(map(text, asked.value))
        case _:
            return pattern(asked.value)


def _pattern(literal: str) -> str:
    return re.escape(literal).replace("/", "\\/")
