"""The Fleet screen: the table, the process under the cursor, and the keys that act on it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui.actions import Order, Verb
from admin_tui.details import DetailKind
from admin_tui.fleet import rows as fleet_rows
from admin_tui.links import Link, more_about, to_requests_of
from admin_tui.messages import Jump, Ordered
from admin_tui.panel import Panel, Scene, set_height
from admin_tui.table import LiveTable
from admin_tui.view import View


class FleetView(View):
    """Every process."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("host",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen", "more about it", id="fleet.screen", key_display="enter"),
        Binding("t", "requests", "its requests", id="fleet.requests"),
        Binding("l", "logs", "its logs", id="fleet.logs"),
        Binding("D", "order('drain')", "drain", id="fleet.drain"),
        Binding("U", "order('undrain')", "undrain", id="fleet.undrain"),
        Binding("R", "order('restart')", "restart", id="fleet.restart"),
        Binding("K", "order('kill')", "kill", id="fleet.kill"),
        Binding("Y", "order('reload')", "reload keys", id="fleet.reload", show=False),
    ]

    def compose(self) -> ComposeResult:
        """Table above, detail below."""
        yield LiveTable(fleet_rows.COLUMNS, fleet_rows.SORTS, id="fleet-table")
        yield Panel(self._draw_detail, id="fleet-detail")

    def draw(self, scene: Scene) -> None:
        """Draw table and detail."""
        table = self.query_one(LiveTable)
        table.fill(fleet_rows.rows(scene, table.look), self.app.size.width)
        self._show_detail()

    def on_live_table_chosen(self) -> None:
        """Enter on a process."""
        self.action_screen()

    def action_screen(self) -> None:
        """To the screen that tells more about the process under the cursor."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(more_about(name)))

    def action_requests(self) -> None:
        """To the requests of the process under the cursor."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(to_requests_of(name)))

    def action_order(self, verb: Verb) -> None:
        """Ask for something to be done to the marked processes, else to the one under the cursor."""
        for name in self.query_one(LiveTable).chosen():
            self.post_message(Ordered(Order(verb, name)))

    def action_logs(self) -> None:
        """What the process under the cursor said."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(Link("logs", name)))

    def on_live_table_moved(self) -> None:
        """The detail follows the cursor."""
        self._show_detail()

    def _show_detail(self) -> None:
        if self.scene is None:
            return
        panel = self.query_one("#fleet-detail", Panel)
        table = self.query_one(LiveTable)
        panel.entitle(table.current() or "no process", table.look.describe())
        set_height(panel, min(11, max(5, 2 + len(self._draw_detail(self.scene, self.size.width - 4, 9)))))
        panel.show(self.scene)

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:
        return fleet_rows.detail(scene, self.query_one(LiveTable).current(), width, height)
