"""The text of an answer to text and calls, while it is written. Pure.

Characters go in one by one, so what comes out depends on the text alone, never on how it was cut. White space around
calls is nobody's. What begins like a call and turns out to be none is text.

A call is told by its name first, then its arguments as JSON text, piece by piece as they come.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Generator
from typing import Any, Final

from ingress.streams import Part, joined

Step = Generator[None, str, Any]
"""Takes characters; the empty string is the end of the answer."""

_SPACE: Final = " \t\r\n"
_ARGUMENTS: Final = frozenset({"arguments", "parameters"})


class _NotACall(Exception):
    """What was read is text after all."""


class _Over(Exception):
    """The answer has ended in the middle."""


class CallParser:
    """The parser of one answer.

    Args:
        calls: how they are written: reads the whole answer, with the methods below.
    """

    def __init__(self, calls: Callable[[CallParser], Step]) -> None:
        self._parts: list[Part] = []
        self._count = 0  # of calls that have begun
        self._name = ""
        self._bare = True  # no argument of the call has been told
        self._read: list[str] | None = None  # since a call seemed to begin, until its name is known
        self._step = calls(self)
        next(self._step)

    def feed(self, text: str) -> list[Part]:
        """What is known now."""
        for character in text:
            if self._read is not None:
                self._read.append(character)
            self._step.send(character)
        return self._take()

    def flush(self) -> list[Part]:
        """At the end: what was held back."""
        for _ in range(4):  # the end is said to everything that still reads
            try:
                self._step.send("")
            except StopIteration:
                break
        return self._take()

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return list(joined(parts))

    # --- for ways of writing calls ---------------------------------------------------------------------------------

    def text_until(self, mark: str) -> Generator[None, str, bool]:
        """Text up to a mark, which is swallowed with the white space around it; False at the end of the answer."""
        held, dry = "", self._count > 0
        while True:
            character = yield
            if not character:
                self._say(held.strip(_SPACE) if dry else held)
                return False
            held += character
            free = 0
            while not mark.startswith(held[free:].lstrip(_SPACE)):
                free += 1
            if free:
                said = held[:free].lstrip(_SPACE) if dry else held[:free]
                held = held[free:]
                dry = dry and not said
                self._say(said)
            if held.lstrip(_SPACE) == mark:
                return True

    def begins_with(self, opening: str) -> Generator[None, str, bool]:
        """Whether the answer does, after white space; what it begins with otherwise is text."""
        held = ""
        while (character := (yield)) and character in _SPACE:
            held += character
        if character == opening:
            return True
        self._say(held + character)
        return False

    def rest(self) -> Step:
        """All that is left is text."""
        held = "" if self._count else None  # white space after calls is nobody's
        while character := (yield):
            if held is not None and character in _SPACE:
                held += character
                continue
            self._say((held or "") + character)
            held = None

    def attempt(self, begun: str, call: Step) -> Generator[None, str, bool]:
        """Read a call after `begun`; where it is none, that and what was read are text."""
        self._read = []
        try:
            yield from call
        except (_NotACall, _Over):
            if self._read is not None:
                self._say(begun + "".join(self._read))
            return False
        finally:
            self._read = None
        return True

    def character(self) -> Generator[None, str, str]:
        """The next one."""
        character = yield
        if not character:
            raise _Over
        return character

    def solid(self) -> Generator[None, str, str]:
        """The next one that is no white space."""
        while (character := (yield from self.character())) in _SPACE:
            pass
        return character

    def hopeless(self, wrong: bool) -> Step:
        """It is no call after all, where something is wrong."""
        if wrong:
            raise _NotACall
        yield from ()

    def until(self, mark: str) -> Generator[None, str, str]:
        """What is before a mark, which is swallowed."""
        read = ""
        while not read.endswith(mark):
            read += yield from self.character()
        return read[: -len(mark)]

    def begin(self, name: str) -> None:
        """A call's name is known."""
        if not name:
            raise _NotACall
        self._name, self._bare = name, True
        self._read = None
        self._parts.append(Part("tool", "", self._count, name))
        self._count += 1

    def argue(self, text: str) -> None:
        """More of the call's arguments."""
        if text:
            self._bare = False
            self._parts.append(Part("tool", text, self._count - 1, self._name))

    def end(self) -> None:
        """The call is complete."""
        if self._bare:
            self.argue("{}")

    def named_object(self, first: str) -> Step:
        """A call as a JSON object that holds its name and its arguments. first: its first character."""
        if first != "{":
            raise _NotACall
        early: list[str] = []
        named = False
        character = yield from self.solid()
        while character != "}":
            key = yield from self._string(character)
            if (yield from self.solid()) != ":":
                raise _NotACall
            character = yield from self.solid()
            if key == "name" and not named:
                name = yield from self._string(character)
                self.begin(name)
                named = True
                self.argue("".join(early))
                after = ""
            elif key in _ARGUMENTS:
                after = yield from self.value(character, self.argue if named else early.append)
            else:
                after = yield from self.value(character, lambda _: None)
            character = after if after and after not in _SPACE else (yield from self.solid())
            if character == ",":
                character = yield from self.solid()
            elif character != "}":
                raise _NotACall
        if not named:
            raise _NotACall
        self.end()

    def value(self, character: str, sink: Callable[[str], object]) -> Generator[None, str, str]:
        """A JSON value; what of it comes goes to `sink`. The character after it, where it took one to see its end."""
        if character in "{[":
            depth, text, escaped = 0, False, False
            while True:
                sink(character)
                if text:
                    text, escaped = escaped or character != '"', character == "\\" and not escaped
                elif character == '"':
                    text = True
                elif character in "{[":
                    depth += 1
                elif character in "}]":
                    depth -= 1
                    if not depth:
                        return ""
                character = yield from self.character()
        if character == '"':
            escaped = False
            sink(character)
            while True:
                character = yield from self.character()
                sink(character)
                if character == '"' and not escaped:
                    return ""
                escaped = character == "\\" and not escaped
        while character not in ",}])" + _SPACE:
            sink(character)
            character = yield from self.character()
        return character

    def python_call(self, first: str) -> Step:
        """`name(key=value, …)` with Python's literals, up to its closing bracket. first: of the name."""
        name = first
        while (character := (yield from self.character())) != "(":
            if not (character.isalnum() or character in "_.-"):
                raise _NotACall
            name += character
        self.begin(name)
        separator = "{"
        character = yield from self.solid()
        while character != ")":
            key = character + (yield from self.until("="))
            written: list[str] = []
            character = yield from self._literal(written)
            self.argue(f"{separator}{json.dumps(key.strip())}: {_as_json(''.join(written))}")
            separator = ", "
            if character == ",":
                character = yield from self.solid()
        self.argue("}" if separator != "{" else "{}")

    def _literal(self, written: list[str]) -> Generator[None, str, str]:
        """A literal up to the comma or bracket after it."""
        depth, quote, escaped = 0, "", False
        while True:
            character = yield from self.character()
            if quote:
                quote = "" if character == quote and not escaped else quote
                escaped = character == "\\" and not escaped
            elif character in "\"'":
                quote = character
            elif character in "([{":
                depth += 1
            elif not depth and character in ",)":
                return character
            elif character in ")]}":
                depth -= 1
            written.append(character)

    def _string(self, first: str) -> Generator[None, str, str]:
        if first != '"':
            raise _NotACall
        read: list[str] = []
        yield from self.value(first, read.append)
        try:
            text: str = json.loads("".join(read))
        except ValueError:
            raise _NotACall from None
        return text

    def _say(self, text: str) -> None:
        if text:
            self._parts.append(Part("text", text))


def _as_json(literal: str) -> str:
    """A literal of Python's, or one of JSON's, as JSON; what is neither is a text."""
    try:
        return json.dumps(json.loads(literal), ensure_ascii=False)
    except ValueError:
        pass
    try:
        return json.dumps(ast.literal_eval(literal.strip()), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return json.dumps(literal.strip(), ensure_ascii=False)
