"""Other limits for a model: what holds now is in the fields; what is changed is asked about in the next dialog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, get_args, get_type_hints

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from admin_tui import palette
from admin_tui.text import sanitize
from bus.messages.control import LimitValues

NAMES = LimitValues.__struct_fields__


def changed_limits(typed: Mapping[str, str], now: Mapping[str, float]) -> LimitValues | str:
    """What differs from what holds; or what is wrong with what was typed. Pure."""
    hints, found = get_type_hints(LimitValues), {}
    for name, text in typed.items():
        if not text.strip():
            continue
        kind = float if float in get_args(hints[name]) else int
        try:
            value = kind(text.replace(",", "").replace("_", "").strip())
        except ValueError:
            return f"{name}: {text!r} is not {'a number' if kind is float else 'a whole number'}"
        if now.get(name) != value:
            found[name] = value
    return LimitValues(**found) if found else "nothing was changed"  # type: ignore[arg-type]


class LimitScreen(ModalScreen[LimitValues | None]):
    """The limits that are meant."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(self, model: str, now: Mapping[str, float]) -> None:
        super().__init__()
        self._model, self._now = model, dict(now)

    def compose(self) -> ComposeResult:
        """A field for each limit."""
        with Vertical(id="limit"):
            yield Static(Text(f"Limits of {sanitize(self._model)}", f"bold {palette.WARN}"))
            yield Static(Text("slots and step_tokens for each replica; tab moves", palette.SOFT), id="limit-help")
            for name in NAMES:
                with Horizontal(classes="limit-row"):
                    yield Label(name)
                    value = f"{self._now[name]:.15g}" if name in self._now else ""
                    yield Input(value, id=f"limit-{name}", compact=True, max_length=16)
            with Horizontal(id="confirm-buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Go on", id="act", variant="warning", compact=True)

    def on_mount(self) -> None:
        """The first field."""
        self.query_one(f"#limit-{NAMES[0]}").focus()

    @on(Input.Submitted)
    def _next(self) -> None:
        self.app.action_focus_next()

    @on(Button.Pressed)
    def _pressed(self, pressed: Button.Pressed) -> None:
        if pressed.button.id != "act":
            self.dismiss(None)
            return
        typed = {name: self.query_one(f"#limit-{name}", Input).value for name in NAMES}
        wanted = changed_limits(typed, self._now)
        if isinstance(wanted, str):
            self.notify(sanitize(wanted), severity="warning", markup=False)
        else:
            self.dismiss(wanted)

    def action_cancel(self) -> None:
        """Nothing is changed."""
        self.dismiss(None)
