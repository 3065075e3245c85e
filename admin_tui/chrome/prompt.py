"""The line in which a filter is typed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class Prompt(Input):
    """Hidden until `open`; enter and escape close it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave", show=False)]

    class Closed(Message):
        """Typed and entered, or left: then `text` is None."""

        def __init__(self, text: str | None) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(id="prompt", placeholder="state=decode  model!=smol  age>2  word", compact=True)

    def open(self) -> None:
        """Take the keys."""
        self.add_class("-open")
        self.focus()

    def action_leave(self) -> None:
        """Nothing changes."""
        self.remove_class("-open")
        self.post_message(self.Closed(None))

    @on(Input.Submitted)
    def _entered(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        self.remove_class("-open")
        self.post_message(self.Closed(submitted.value))
