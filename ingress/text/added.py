"""The tokens of a tokeniser that are found by their names before anything else, as the `tokenizers` library finds
them: leftmost first, and of those the longest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import AddedToken

from ingress.text.names import longest_of


class AddedNames:
    """Those of one tokeniser.

    Attributes:
        control: names of control tokens.
        others: names of the others.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        named = {token.content: token for token in added.values() if token.content}
        self.control = tuple(name for name, token in named.items() if token.special)
        self.others = tuple(name for name, token in named.items() if not token.special)
        self._ids = {token.content: index for index, token in added.items()}
        self._control_ids = frozenset(self._ids[name] for name in self.control)
        self._any = re.compile(_pattern(named.values())) if named else None

    def split(self, text: str) -> Iterator[str | int]:
        """The text with names replaced by their ids."""
        at = 0
        for match in self._any.finditer(text) if self._any is not None else ():
            yield text[at : match.start()]
            yield self._ids[match[match.lastindex or 0]]
            at = match.end()
        yield text[at:]

    def has_control(self, ids: Iterable[int]) -> bool:
        """Whether a control token is among them."""
        return not self._control_ids.isdisjoint(ids)


def _pattern(tokens: Iterable[AddedToken]) -> str:
    """Of any of them, its name in the only group that takes part."""
    parts: list[str] = []
    plain: list[str] = []
    taking: list[str] = []  # names that take the white space after them
    for token in sorted(tokens, key=lambda token: len(token.content), reverse=True):
        if not token.single_word and not token.lstrip:
            (taking if token.rstrip else plain).append(token.content)
            continue
        name = f"({re.escape(token.content)})"
        if token.single_word:
            name = rf"(?<!\w){name}(?!\w)"
        parts.append((r"\s*" if token.lstrip else "") + name + (r"\s*" if token.rstrip else ""))
    parts += [rf"({longest_of(taking)})\s*"] * bool(taking) + [f"({longest_of(plain)})"] * bool(plain)
    return "|".join(parts)
