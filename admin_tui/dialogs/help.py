"""The keys of the screen in view, and how to read it. The list is made from the bindings, so it cannot lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from admin_tui import palette
from admin_tui.glyphs import COLOURS, Glyphs

NOTES = (
    "Lower case looks. UPPER CASE acts, and asks first; Cancel is the default.",
    "Rates and percentiles are over the last 10 s, from merged histograms; 0 or - is nothing to show.",
    "Filters: state=decode model!=smol age>2 word; all must hold; / and an empty line shows everything.",
    "The same without a screen: headrace top --plain, headrace top --once --json, headrace status.",
)


class HelpScreen(ModalScreen[None]):
    """Keys and glyphs; any of escape, ? and q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "close", key_display="esc"),
    ]

    def __init__(self, title: str, keys: Sequence[tuple[str, str]], glyphs: Glyphs) -> None:
        super().__init__()
        self._title, self._keys, self._glyphs = title, tuple(keys), glyphs

    def compose(self) -> ComposeResult:
        """One box."""
        with VerticalScroll(id="help"):
            yield Static(self._text())

    def _text(self) -> Text:
        text = Text(f"{self._title}: keys\n\n", f"bold {palette.WATER}")
        for key, label in self._keys:
            acts = len(key) == 1 and key.isupper()
            text.append(f"  {key:<7}", f"bold {palette.WARN if acts else palette.WATER}")
            text.append(f"{label}{', asks first' if acts else ''}\n", palette.TEXT)
        text.append("\n  ")
        for state, glyph in self._glyphs.states.items():
            text.append(f"{glyph} {state}   ", COLOURS[state])
        text.append("\n\n")
        text.append("\n".join(f"  {note}" for note in NOTES), palette.SOFT)
        return text
