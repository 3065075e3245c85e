"""How families of models write calls: for each, how it is recognised, read, and said as a grammar. Pure.

| style | a call | models |
|---|---|---|
| hermes | `<tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>` | Hermes, Qwen 2.5 and 3 |
| llama3 | `{"name": "f", "parameters": {…}}`, the whole answer | Llama 3.1 to 3.3 |
| mistral | `[TOOL_CALLS][{"name": "f", "arguments": {…}}]` | Mistral, Mixtral |
| mistral_args | `[TOOL_CALLS]f[ARGS]{…}` | Mistral from tokenizer v11 on |
| deepseek | marks around `function<sep>f`, and the arguments as a block of code | DeepSeek V3, R1 |
| deepseek_v31 | marks around `f<sep>{…}` | DeepSeek V3.1 |
| pythonic | `[f(a=1), g(b="x")]`, the whole answer | Llama 3.2 and 4 |

Where a mark is a control token of the model, it is that token and no text like it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ingress.grammar.writing import Marks, before, literal, said, schema, text, thought
from ingress.text.reasoning import Thinking
from ingress.tools.offered import Offered, Tool
from ingress.tools.parser import CallParser, Step

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_CALLS, _ARGS = "[TOOL_CALLS]", "[ARGS]"
_D_CALLS, _D_CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_D_CALL, _D_CALL_END, _D_SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class Style(NamedTuple):
    """One of them. An answer has one section with all its calls: `mark opens call (between call)* closes`.

    Attributes:
        known: whether a template, by its source, has its calls written like this.
        read: the parser's program.
        rule: one call of a tool as rules, the first of which has the given name.
        mark: with which the section begins; empty where it is the whole answer.
        marks: all that may be control tokens.
    """

    name: str
    known: Callable[[str], bool]
    read: Callable[[CallParser], Step]
    rule: Callable[[str, Tool, Marks], str]
    mark: str
    opens: str
    between: str
    closes: str
    marks: tuple[str, ...] = ()

    def parser(self) -> CallParser:
        """For one answer."""
        return CallParser(self.read)

    def shows(self, control: Marks) -> bool:
        """Whether the parser needs to see control tokens."""
        return any(mark in control for mark in self.marks)

    def grammar(self, offer: Offered, thinking: Thinking | None, control: Marks, answer: str = "") -> str:
        """Of an answer to a request that offers tools.

        Args:
            answer: what it shall be where nothing is called, as a part of a rule; empty is any text.
        """
        tools = offer.callable
        more = f"({said(self.between, control)} call)*" if offer.parallel else ""
        rules = [
            "call: " + " | ".join(f"tool_{index}" for index in range(len(tools))),
            f"section: {said(self.opens, control)} call {more} {said(self.closes, control)}",
            *(self.rule(f"tool_{index}", tool, control) for index, tool in enumerate(tools)),
        ]
        mark = literal(self.mark)
        if offer.mode == "required":
            start = [f"{said(self.mark, control)} section"]
        elif answer:
            start = [f"({said(self.mark, control)} section | answer)", f"answer: {answer}"]
        elif self.mark in control:
            start = [f"PLAIN? ({said(self.mark, control)} section)?", r"PLAIN: /(.|\n)+/"]
        elif self.mark:
            start = [
                "(head section)? PLAIN",
                rf"head[lazy]: /(.|\n)*{mark}/",
                rf"PLAIN: /(.|\n)*/ & ~/(.|\n)*{mark}(.|\n)*/",
            ]
        else:
            opens = re.escape(self.opens or "{")
            start = ["(section | PLAIN?)", rf"PLAIN: /[^{opens} \n](.|\n)*/"]
        first = f"start: {before(thinking)}{start[0]}"
        return "\n".join(["%llguidance {}", first, *start[1:], *rules, thought(thinking, control)])


# --- rules of one call -----------------------------------------------------------------------------------------------


def _object(arguments: str) -> Callable[[str, Tool, Marks], str]:
    def rule(name: str, tool: Tool, control: Marks) -> str:  # noqa: ARG001
        begun = '{"name": ' + text(tool.name) + f', "{arguments}": '
        return f"{name}: {text(begun)} {schema(tool.parameters)} {text('}')}"

    return rule


def _around(begun: str, ended: str) -> Callable[[str, Tool, Marks], str]:
    """Name and arguments with marks around them; the name stands where there is a %."""

    def rule(name: str, tool: Tool, control: Marks) -> str:
        before_it, _, after_it = begun.partition("%")
        parts = [said(before_it, control), text(tool.name), said(after_it, control)]
        return f"{name}: {' '.join(parts)} {schema(tool.parameters)} {said(ended, control)}"

    return rule


def _python(name: str, tool: Tool, control: Marks) -> str:  # noqa: ARG001
    """Keyword arguments in the schema's order, the optional ones left out or not. Their values are JSON's literals."""
    properties: Mapping[str, Any] = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or ()
    shared = {key: value for key, value in tool.parameters.items() if key in ("$defs", "definitions")}
    rules = [f"{name}: {text(tool.name + '(')} {name}_a0 {text(')')}"]
    for at, (key, value) in enumerate(properties.items()):
        whole = {**shared, **value} if isinstance(value, dict) else value
        rules.append(f"{name}_v{at}: {text(key + '=')} {schema(whole)}")
        first, later = f"{name}_v{at} {name}_b{at + 1}", f"{text(', ')} {name}_v{at} {name}_b{at + 1}"
        optional = key not in required
        rules.append(f"{name}_a{at}: {first}" + (f" | {name}_a{at + 1}" if optional else ""))
        rules.append(f"{name}_b{at}: {later}" + (f" | {name}_b{at + 1}" if optional else ""))
    return "\n".join([*rules, f'{name}_a{len(properties)}: ""', f'{name}_b{len(properties)}: ""'])


# --- programs of the parser ------------------------------------------------------------------------------------------


def _read_hermes(parser: CallParser) -> Step:
    def call() -> Step:
        yield from parser.named_object((yield from parser.solid()))
        yield from parser.until(_CLOSE)

    while (yield from parser.text_until(_OPEN)):
        yield from parser.attempt(_OPEN, call())


def _read_mistral(parser: CallParser) -> Step:
    def calls() -> Step:
        character = yield from parser.solid()
        if character == "[":
            while character != "]":
                yield from parser.named_object((yield from parser.solid()))
                character = yield from parser.solid()
            return
        parser.begin((character + (yield from parser.until(_ARGS))).strip())
        yield from parser.value((yield from parser.solid()), parser.argue)

    while (yield from parser.text_until(_CALLS)):
        yield from parser.attempt(_CALLS, calls())


def _read_deepseek(parser: CallParser) -> Step:
    def calls() -> Step:
        while True:
            mark = (yield from parser.solid()) + (yield from parser.until("｜>")) + "｜>"
            if mark == _D_CALLS_END:
                return
            yield from parser.hopeless(mark != _D_CALL)
            name = yield from parser.until(_D_SEP)
            if name.strip() == "function":
                name = yield from parser.until("\n")
                yield from parser.until("```json")
            parser.begin(name.strip())
            yield from parser.value((yield from parser.solid()), parser.argue)
            yield from parser.until(_D_CALL_END)

    while (yield from parser.text_until(_D_CALLS)):
        yield from parser.attempt(_D_CALLS, calls())


def _read_llama3(parser: CallParser) -> Step:
    def calls() -> Step:
        character = "{"
        while character == "{":
            yield from parser.named_object(character)
            if (yield from parser.solid()) == ";":
                character = yield from parser.solid()

    if (yield from parser.begins_with("{")):
        yield from parser.attempt("{", calls())
    yield from parser.rest()


def _read_pythonic(parser: CallParser) -> Step:
    def calls() -> Step:
        character = "["
        while character != "]":
            yield from parser.python_call((yield from parser.solid()))
            character = yield from parser.solid()

    if (yield from parser.begins_with("[")):
        yield from parser.attempt("[", calls())
    yield from parser.rest()


STYLES: Final[dict[str, Style]] = {
    style.name: style
    for style in (
        Style(
            "hermes", lambda source: _OPEN in source and "<function=" not in source, _read_hermes, _object("arguments"),
            _OPEN, "\n", f"\n{_CLOSE}\n{_OPEN}\n", f"\n{_CLOSE}", (_OPEN, _CLOSE),
        ),
        Style(
            "mistral_args", lambda source: _CALLS in source and _ARGS in source, _read_mistral,
            _around(f"%{_ARGS}", ""), _CALLS, "", _CALLS, "", (_CALLS, _ARGS),
        ),
        Style(
            "mistral", lambda source: _CALLS in source, _read_mistral, _object("arguments"),
            _CALLS, "[", ", ", "]", (_CALLS,),
        ),
        Style(
            "deepseek", lambda source: _D_CALLS in source and "```json" in source, _read_deepseek,
            _around(f"{_D_CALL}function{_D_SEP}%\n```json\n", f"\n```{_D_CALL_END}"),
            _D_CALLS, "", "\n", _D_CALLS_END, (_D_CALLS, _D_CALLS_END, _D_CALL, _D_CALL_END, _D_SEP),
        ),
        Style(
            "deepseek_v31", lambda source: _D_CALLS in source, _read_deepseek,
            _around(f"{_D_CALL}%{_D_SEP}", _D_CALL_END),
            _D_CALLS, "", "", _D_CALLS_END, (_D_CALLS, _D_CALLS_END, _D_CALL, _D_CALL_END, _D_SEP),
        ),
        Style(
            "llama3", lambda source: '"parameters": ' in source and '{"name": ' in source, _read_llama3,
            _object("parameters"), "", "", "; ", "",
        ),
        Style("pythonic", lambda source: "[func_name1(" in source, _read_pythonic, _python, "", "[", ", ", "]"),
    )
}  # fmt: skip


def style_of(template: str) -> Style | None:
    """Of a template; None where it has no tools, or writes calls in a way that is not known here."""
    if "tools" not in template:
        return None
    return next((style for style in STYLES.values() if style.known(template)), None)
