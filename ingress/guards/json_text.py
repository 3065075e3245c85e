"""Masks in text that is JSON, as the arguments of a tool call are: it stays JSON.

A span may begin with the letter of an escape (`\\njohn@…`), which is then no part of it; a number that is masked
becomes a string. Where strings begin and end is followed as the text comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from ingress.guards.scan import Part

_MARK: Final = re.compile(r'["\\]')
_UNICODE: Final = 5  # characters of an escape after its backslash


class JsonMasker:
    """One text."""

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False  # the next character belongs to a backslash

    def masked(self, parts: Iterable[Part], mask: Callable[[str], str]) -> str:
        """More of it, with `mask(kind)` in place of each span."""
        out: list[str] = []
        for part in parts:
            if not part.kind:
                self._follow(part.text)
                out.append(part.text)
            elif part.begins:
                out.append(self._mask(part.text, mask(part.kind)))
        return "".join(out)

    def _mask(self, text: str, mask: str) -> str:
        kept = ""
        if self._escaped:
            kept = text[: _UNICODE if text[0] == "u" else 1]
            self._escaped = False
        return kept + mask if self._in_string else f'{kept}"{mask}"'

    def _follow(self, text: str) -> None:
        at = 0
        if self._escaped and text:
            at, self._escaped = 1, False
        while (found := _MARK.search(text, at)) is not None:
            at = found.end()
            if found[0] == '"':
                self._in_string = not self._in_string
            elif at < len(text):
                at += 1
            else:
                self._escaped = True
