"""Grammars as llguidance reads them: its own form of Lark, with JSON Schemas in it. Pure, and the same text for the
same request: it is part of what an answer is cached by.

A thought comes before what a grammar is about, as the model was taught to; nothing is asked of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from bus.config.reasoning import WHITE_SPACE
from ingress.grammar.plain import followable
from ingress.grammar.wanted import Wanted
from ingress.text.reasoning import Thinking

Marks = Mapping[str, int]
"""Control tokens by name."""

# Between the parts of a JSON text: nothing, one space, or a line and its indentation. Without bounds a small model can
# go on with white space for ever.
_WHITE_SPACE: Final = r"[ ]?|\n[ ]{0,40}"

_HEAD: Final = "%llguidance {}\n"


def grammar(asked: Wanted, thinking: Thinking | None, control: Marks) -> str:
    """Of one thing that is asked for."""
    if asked.kind == "grammar":
        main = f"start: {before(thinking)}@asked\n{thought(thinking, control)}"
        named = {"main": _HEAD + main, "asked": asked.value}
        return json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in named.items()]})
    return f"{_HEAD}start: {before(thinking)}answer\nanswer: {answer(asked)}\n{thought(thinking, control)}"


def thought(thinking: Thinking | None, control: Marks) -> str:
    """The rule of a thought, and the white space after it; nothing where the answer has none."""
    if thinking is None:
        return ""
    (opens, closes), opened = thinking
    after = f"/[ \\n]{{0,{WHITE_SPACE}}}/"
    if closes in control:
        begun = "" if opened else said(opens, control)
        return f"thought: {begun} INNER? {said(closes, control)} {after}\nINNER: /(.|\\n)+/\n"
    mark = "" if opened or opens in control else opens
    begun = said(opens, control) + " " if opens in control and not opened else ""
    return f"thought: {begun}block {after}\nblock[lazy]: /{literal(mark)}(.|\\n)*{literal(closes)}/\n"


def before(thinking: Thinking | None) -> str:
    """Where a thought stands in a rule."""
    if thinking is None:
        return ""
    return "thought " if thinking.opened else "thought? "


def said(words: str, control: Marks) -> str:
    """A text as a part of a rule, with the control tokens in it."""
    names = [name for name in control if name in words]
    if not names:
        return text(words) if words else ""
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", words)
    return " ".join(f"<[{control[part]}]>" if part in control else text(part) for part in parts if part)


def schema(value: Any) -> str:
    """A JSON Schema as a part of a rule."""
    settings = {"x-guidance": {"whitespace_pattern": _WHITE_SPACE}}
    value = followable(value)
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


def literal(text: str) -> str:
    """A text as a part of a regular expression."""
    return re.escape(text).replace("/", "\\/")
