"""The palette: whole commands to choose from, by a few letters of them. Choosing is typing it into the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from admin_tui import palette
from admin_tui.actions import VERBS
from admin_tui.commands import ranked
from admin_tui.text import sanitize

MOST: Final = 100


class PaletteScreen(ModalScreen[str | None]):
    """A command line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+p", "leave", "leave", show=False),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
    ]

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self._lines = tuple(lines)
        self._shown: list[str] = []

    def compose(self) -> ComposeResult:
        """What is typed, and what fits."""
        with Vertical(id="palette"):
            yield Input(placeholder="a screen, a verb, a name: all words must fit", compact=True)
            yield OptionList()

    def on_mount(self) -> None:
        """Everything at first."""
        self.query_one(OptionList).can_focus = False
        self._fill("")

    @on(Input.Changed)
    def _typed(self, changed: Input.Changed) -> None:
        self._fill(changed.value)

    @on(Input.Submitted)
    def _chosen(self) -> None:
        at = self.query_one(OptionList).highlighted
        self.dismiss(self._shown[at] if at is not None and at < len(self._shown) else None)

    @on(OptionList.OptionSelected)
    def _clicked(self, selected: OptionList.OptionSelected) -> None:
        self.dismiss(self._shown[selected.option_index])

    def action_move(self, lines: int) -> None:
        """The choice, while the keys stay with what is typed."""
        options = self.query_one(OptionList)
        if self._shown:
            options.highlighted = ((options.highlighted or 0) + lines) % len(self._shown)

    def action_leave(self) -> None:
        """Nothing is chosen."""
        self.dismiss(None)

    def _fill(self, typed: str) -> None:
        self._shown = ranked(self._lines, typed)[:MOST]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(_drawn(line)) for line in self._shown])
        if self._shown:
            options.highlighted = 0


def _drawn(line: str) -> Text:
    verb, _, rest = sanitize(line, 120).partition(" ")
    acts = verb in VERBS
    text = Text(verb, f"bold {palette.WARN if acts else palette.WATER}", no_wrap=True)
    text.append(f" {rest}", palette.TEXT)
    return text.append("  asks first", palette.FAINT) if acts else text
