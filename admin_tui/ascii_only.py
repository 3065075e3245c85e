"""`--ascii` to the last character: what widgets draw, borders and ellipses too, leaves as ASCII of the same width."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_CORNERS: Final = "╭╮╰╯┌┐└┘├┤┬┴┼"
_NEAR: Final = str.maketrans({**dict.fromkeys(_CORNERS, "+"), "─": "-", "━": "=", "│": "|", "…": "~", "▁": "_"})


class AsciiOnly(LineFilter):
    """Replaces every character that is not ASCII, cell by cell."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """The segments, in ASCII."""
        return [
            segment if segment.text.isascii() else Segment(to_ascii(segment.text), segment.style, segment.control)
            for segment in segments
        ]


def to_ascii(text: str) -> str:
    """As near as it gets, in as many cells."""
    return "".join(c if c.isascii() else "?" * cell_len(c) for c in text.translate(_NEAR))
