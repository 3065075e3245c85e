"""The line in which a command is typed, with what was typed before, and the rest of a word by tab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class CommandLine(Input):
    """Hidden until `open`; enter gives the command, escape leaves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", show=False),
        Binding("up", "back(1)", "typed before", show=False),
        Binding("down", "back(-1)", "typed after", show=False),
        Binding("tab", "complete", "the rest", show=False),
    ]

    class Closed(Message):
        """Typed and entered, or left: then `text` is None."""

        def __init__(self, text: str | None) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(
            id="command", placeholder="fleet state=late   drain worker@... --reason why", compact=True
        )  # fmt: skip
        self._history: Sequence[str] = ()
        self._known: Sequence[str] = ()
        self._at = 0
        self._draft = ""

    def open(self, history: Sequence[str], known: Sequence[str], text: str = "") -> None:
        """Take the keys.

        Args:
            history: what was typed before, the newest last.
            known: lines that make sense now, for tab.
        """
        self._history, self._known, self._at, self._draft = history, known, 0, text
        self.add_class("-open")
        self.value = text
        self.cursor_position = len(text)
        self.focus()

    def action_leave(self) -> None:
        """Nothing is done."""
        self._close(None)

    def action_back(self, lines: int) -> None:
        """Earlier or later in what was typed before."""
        if not self._at:
            self._draft = self.value
        self._at = min(len(self._history), max(0, self._at + lines))
        self.value = self._history[-self._at] if self._at else self._draft
        self.cursor_position = len(self.value)

    def action_complete(self) -> None:
        """As far as all lines that begin so agree."""
        fits = [line for line in self._known if line.startswith(self.value)]
        if fits:
            self.value = _same_beginning(fits)
            self.cursor_position = len(self.value)

    @on(Input.Submitted)
    def _entered(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        self._close(submitted.value)

    def _close(self, text: str | None) -> None:
        self.remove_class("-open")
        self.value = ""
        self.post_message(self.Closed(text))


def _same_beginning(lines: Sequence[str]) -> str:
    first, last = min(lines), max(lines)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]
