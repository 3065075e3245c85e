"""Who says how far an answer under way may go."""

from __future__ import annotations

import sys
from typing import Protocol


class Meter(Protocol):
    """Counts what answers draw against what their callers have."""

    def adopt(self, request: int, key: str, model: str, prompt_tokens: int, most: int) -> None:
        """An answer of that key, of `most` tokens at the most, was begun by another ingress and goes on here."""
        ...

    def look_at(self, request: int) -> int | None:
        """After how many tokens of an answer to ask whether it `may_go_on`; None is never."""
        ...

    def may_go_on(self, request: int, drawn: int) -> int | None:
        """An answer has so many tokens: after how many to ask again; None, it ends here."""
        ...


class NoMeter:
    """Every answer goes on."""

    def adopt(self, request: int, key: str, model: str, prompt_tokens: int, most: int) -> None:
        """See `Meter`."""

    def look_at(self, request: int) -> int | None:  # noqa: ARG002
        """See `Meter`."""
        return None

    def may_go_on(self, request: int, drawn: int) -> int | None:  # noqa: ARG002
        """See `Meter`."""
        return sys.maxsize
