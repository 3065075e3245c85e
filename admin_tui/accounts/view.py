"""The Accounts screen: how limits and budgets stand, of those that were in use lately."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui.accounts import rows as account_rows
from admin_tui.details import DetailKind
from admin_tui.links import to_process
from admin_tui.messages import Jump
from admin_tui.panel import UNKNOWN, Panel, Scene, age_of_said
from admin_tui.table import LiveTable
from admin_tui.view import View
from bus.names import ACCOUNTS


class AccountsView(View):
    """Who may use how much, and has."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("allowances",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "process", "their process", id="accounts.process", key_display="enter"),
    ]

    def compose(self) -> ComposeResult:
        """A line above the table."""
        yield Panel(self._draw_note, id="accounts-note", title="accounts", age=_age)
        yield LiveTable(account_rows.COLUMNS, account_rows.SORTS, id="accounts-table")

    def draw(self, scene: Scene) -> None:
        """Both."""
        table = self.query_one(LiveTable)
        table.fill(account_rows.rows(scene, table.look), self.app.size.width)
        panel = self.query_one("#accounts-note", Panel)
        panel.entitle("accounts", table.look.describe())
        panel.show(scene)

    def on_live_table_chosen(self) -> None:
        """Enter on a row."""
        self.action_process()

    def action_process(self) -> None:
        """To the process that keeps them."""
        self.post_message(Jump(to_process(ACCOUNTS)))

    @staticmethod
    def _draw_note(scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG004
        return account_rows.note(scene)


def _age(scene: Scene) -> float:
    """Of what the accounts process said, not of who passed it on."""
    reply = scene.world.details.allowances
    if reply is None or not reply.heard_ns:
        return UNKNOWN
    return age_of_said(scene, "allowances", reply.at_ns, reply.heard_ns)
