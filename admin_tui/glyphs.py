"""States as glyph, word and colour together, never colour alone; and the characters pictures are made of."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from rich.text import Text

from admin_tui import palette

Condition = Literal["ready", "warming", "draining", "late", "dead", "off"]


class Glyphs(NamedTuple):
    """One set of characters.

    Attributes:
        states: by condition.
        spark: eight heights, low to high.
        full, rule: a thick and a thin horizontal bar.
        arrow, branch, stem, last, dot: of flows and timelines.
        pages: a cell of the arena's map, by state.
    """

    states: dict[str, str]
    spark: str
    full: str
    rule: str
    arrow: str
    branch: str
    stem: str
    last: str
    dot: str
    pages: str


# Only characters that the usual monospaced fonts have themselves: a fallback font shifts its line.
UNICODE: Final = Glyphs(
    states={"ready": "●", "warming": "◐", "draining": "◇", "late": "▲", "dead": "×", "off": "○"},
    spark="▁▂▃▄▅▆▇█",
    full="█",
    rule="━",
    arrow="──▶",
    branch="├",
    stem="│",
    last="└",
    dot="·",
    pages="░·▒█▓!×",
)
ASCII: Final = Glyphs(
    states={"ready": "*", "warming": "~", "draining": "o", "late": "!", "dead": "x", "off": "."},
    spark="..::-=+#",
    full="#",
    rule="=",
    arrow="-->",
    branch="|",
    stem="|",
    last="`",
    dot=".",
    pages="-.o#+!x",
)

COLOURS: Final[dict[str, str]] = {
    "ready": palette.GOOD,
    "warming": palette.WATER,
    "draining": palette.WARN,
    "late": palette.WARN,
    "dead": palette.CRIT,
    "off": palette.FAINT,
    "warn": palette.WARN,
    "crit": palette.CRIT,
}


def severity_glyph(glyphs: Glyphs, severity: str) -> Text:
    """The sign of a finding."""
    return Text(glyphs.states["dead" if severity == "crit" else "late"], COLOURS.get(severity, palette.WARN))


def state_text(glyphs: Glyphs, condition: Condition) -> Text:
    """`● ready`."""
    return Text(f"{glyphs.states[condition]} {condition}", COLOURS[condition])
