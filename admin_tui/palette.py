"""The colours, each by what it means. The only place where a colour is named; the stylesheets use the theme's names."""

from __future__ import annotations

from typing import Final

from textual.theme import Theme

GROUND: Final = "#0e1319"
PANEL: Final = "#121922"
LINE: Final = "#2c3a49"
TEXT: Final = "#cdd6e0"
SOFT: Final = "#8696a7"
FAINT: Final = "#566575"
WATER: Final = "#4fc1e0"
GOOD: Final = "#7fd1a0"
WARN: Final = "#f0b95a"
CRIT: Final = "#ff7b72"
QUEUE: Final = "#f0b95a"
PREFILL: Final = "#b79cf2"
DECODE: Final = "#4fc1e0"

THEME: Final = Theme(
    name="headrace",
    primary=WATER,
    secondary=PREFILL,
    accent=WATER,
    foreground=TEXT,
    background=GROUND,
    surface=PANEL,
    panel=PANEL,
    success=GOOD,
    warning=WARN,
    error=CRIT,
    dark=True,
    variables={"line": LINE, "soft": SOFT, "faint": FAINT, "border": LINE, "border-blurred": LINE},
)
