"""Characters that nobody sees: tags that spell out hidden text, marks that turn the direction of writing, spaces of no
width. What scripts and emoji need of them stays: joiners count only after a Latin letter or a digit."""

from __future__ import annotations

import re
from typing import Final

from ingress.guards.scan import Kind

_HIDDEN: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\U000e0000-\U000e007f"
)

KINDS: Final = (
    Kind(
        "INVISIBLE",
        re.compile(f"[{_HIDDEN}]|(?<=[A-Za-z0-9])[\u200c\u200d]"),
        1,
        spark=r"[^\x00-\x7f]",
        tail=re.compile(f"[{_HIDDEN}]*+"),
    ),
)


def without(text: str) -> str:
    """The text as it is seen."""
    return _ALL.sub("", text) if not text.isascii() else text


_ALL: Final = re.compile(f"[{_HIDDEN}\u200c\u200d]")
