"""Stop strings over streaming text: Aho and Corasick's automaton (CACM 18(6), 1975), one step per character.

Its state is the longest suffix of the text that could still become a stop string, which is exactly what has to be held
back; so the answer depends on the text alone, never on how it was cut into tokens. Where several strings match, the
one that is complete first counts, and among those the longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Released(NamedTuple):
    """What may go out now, and which stop string has been found (the text then ends before it)."""

    text: str
    found: str | None


class StopStrings:
    """The automaton of a set of strings. Immutable, so matchers can share it."""

    def __init__(self, strings: Iterable[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depth: list[int] = [0]
        self.fail: list[int] = [0]
        self.found: list[str | None] = [None]  # the longest stop string that ends at this node
        for string in strings:
            if string:
                self._insert(string)
        self._link()

    def _insert(self, string: str) -> None:
        node = 0
        for character in string:
            if character not in self.next[node]:
                self.next[node][character] = len(self.next)
                self.next.append({})
                self.depth.append(self.depth[node] + 1)
                self.fail.append(0)
                self.found.append(None)
            node = self.next[node][character]
        self.found[node] = string

    def _link(self) -> None:
        """Breadth first, so the target of a failure link is complete before it is used."""
        waiting = deque(self.next[0].values())
        while waiting:
            node = waiting.popleft()
            if self.found[node] is None:
                self.found[node] = self.found[self.fail[node]]
            for character, child in self.next[node].items():
                self.fail[child] = self.step(self.fail[node], character)
                waiting.append(child)

    def step(self, node: int, character: str) -> int:
        """The node for the longest suffix, of what `node` stands for and then `character`, that begins a string."""
        while character not in self.next[node]:
            if node == 0:
                return 0
            node = self.fail[node]
        return self.next[node][character]


class StopMatcher:
    """The search in one answer. Not used any more once something was found.

    Args:
        include: the string that is found stays in the text.
    """

    def __init__(self, strings: StopStrings, *, include: bool = False) -> None:
        self._strings = strings
        self._include = include
        self._node = 0
        self._held = ""

    def feed(self, text: str) -> Released:
        """Take more text in; give out what cannot be part of a stop string."""
        strings, node = self._strings, self._node
        held = self._held + text
        for at, character in enumerate(text, start=len(self._held) + 1):
            node = strings.step(node, character)
            if (found := strings.found[node]) is not None:
                self._held = ""
                return Released(held[: at if self._include else at - len(found)], found)
        self._node = node
        free = len(held) - strings.depth[node]
        self._held = held[free:]
        return Released(held[:free], None)

    def flush(self) -> str:
        """At the end of the text: what was held back and became no stop string."""
        held, self._held, self._node = self._held, "", 0
        return held
