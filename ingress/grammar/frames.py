"""What an ingress and the process that tries its grammars say to each other: a grammar down, its outcome up, each a
frame with its length before it."""

from __future__ import annotations

from typing import Final

import msgspec

LENGTH_BYTES: Final = 4
SECONDS: Final = 3  # of a processor, for one grammar


class Tried(msgspec.Struct, array_like=True, frozen=True):
    """What became of one.

    Attributes:
        text: the grammar, in the form in which workers take it.
        trouble: why it cannot be used; empty where it can.
    """

    text: str
    trouble: str = ""
