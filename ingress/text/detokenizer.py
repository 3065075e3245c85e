"""Token ids to text while they come: whole characters only, and the same text however the ids are grouped."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ingress.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one answer.

    Args:
        skip_special: control tokens leave no text.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._skip_special = skip_special
        self._rest = b""  # the beginning of a character; at most three bytes

    def feed(self, tokens: Sequence[int]) -> str:
        """The characters that these tokens complete. Bytes that can no longer become UTF-8 are U+FFFD."""
        data = self._rest + self._bytes_of(tokens, skip_special=self._skip_special)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was cut short, else nothing."""
        rest, self._rest = self._rest, b""
        return rest.decode("utf-8", "replace")
