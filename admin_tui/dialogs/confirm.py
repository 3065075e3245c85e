"""Asks before an order is given. The default is Cancel; for what nobody can take back, a name must be typed."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from admin_tui import palette
from admin_tui.actions import Order
from admin_tui.blast import Caution
from admin_tui.text import sanitize

_WORDS = {"acknowledge": "Acknowledge", "cancel": "Cancel it"}


class ConfirmScreen(ModalScreen[Order | None]):
    """The order, with the reason that was typed, where the operator means it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel"),
        Binding("left,right,up,down", "app.focus_next", "other button", show=False),
    ]

    def __init__(self, order: Order, caution: Caution) -> None:
        super().__init__()
        self._order, self._caution = order, caution

    def compose(self) -> ComposeResult:
        """Title, blast radius, the name to type where it must be, a reason, Cancel and the verb."""
        caution = self._caution
        with Vertical(id="confirm"):
            yield Static(Text(sanitize(caution.title), f"bold {palette.WARN}"), id="confirm-title")
            yield Static(Text("\n".join(sanitize(line) for line in caution.lines), palette.TEXT), id="confirm-lines")
            if caution.type_name:
                asked = Text("Type ", palette.SOFT)
                asked.append(sanitize(self._order.target), f"bold {palette.TEXT}")
                asked.append(" to go on:", palette.SOFT)
                yield Static(asked)
                yield Input(id="confirm-name", compact=True)
            word = "comment for others" if self._order.code else "reason, for the audit log (optional)"
            yield Input(self._order.reason, id="confirm-reason", placeholder=word, compact=True, max_length=500)
            with Horizontal(id="confirm-buttons"):
                yield Button("Keep it" if self._order.verb == "cancel" else "Cancel", id="cancel", compact=True)
                yield Button(
                    Text(_WORDS.get(self._order.verb, self._order.verb.capitalize())), id="act", variant="error",
                    compact=True, disabled=caution.type_name,
                )  # fmt: skip

    def on_mount(self) -> None:
        """Enter cancels, unless a name was asked for and is right."""
        self.query_one("#confirm-name" if self._caution.type_name else "#cancel").focus()

    @on(Input.Changed, "#confirm-name")
    def _name_changed(self, changed: Input.Changed) -> None:
        self.query_one("#act", Button).disabled = changed.value != self._order.target

    @on(Input.Submitted, "#confirm-name")
    def _name_given(self, submitted: Input.Submitted) -> None:
        self._answer(submitted.value == self._order.target)

    @on(Input.Submitted, "#confirm-reason")
    def _reason_given(self) -> None:
        self.query_one("#cancel").focus()

    @on(Button.Pressed)
    def _pressed(self, pressed: Button.Pressed) -> None:
        self._answer(pressed.button.id == "act")

    def action_cancel(self) -> None:
        """Nothing is done."""
        self._answer(False)

    def _answer(self, meant: bool) -> None:
        reason = self.query_one("#confirm-reason", Input).value.strip()
        self.dismiss(self._order._replace(reason=reason) if meant else None)
