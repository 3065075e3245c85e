"""The Fleet screen: the table, the process under the cursor, and the keys that act on it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui.actions import Order, Verb
from admin_tui.fleet import rows as fleet_rows
from admin_tui.links import Link
from admin_tui.messages import Jump, Ordered
from admin_tui.panel import Panel, Scene
from admin_tui.table import LiveTable
from admin_tui.view import View


class FleetView(View):
    """Every process."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "logs", "its logs", id="fleet.logs"),
        Binding("D", "order('drain')", "drain", id="fleet.drain"),
        Binding("U", "order('undrain')", "undrain", id="fleet.undrain"),
        Binding("R", "order('restart')", "restart", id="fleet.restart"),
        Binding("K", "order('kill')", "kill", id="fleet.kill"),
        Binding("Y", "order('reload')", "reload keys", id="fleet.reload", show=False),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)

    def compose(self) -> ComposeResult:
        """Table above, detail below."""
        yield LiveTable(fleet_rows.COLUMNS, fleet_rows.SORTS, id="fleet-table")
        yield Panel(self._draw_detail, id="fleet-detail")

    def draw(self, scene: Scene) -> None:
        """Draw table and detail."""
        table = self.query_one(LiveTable)
        table.fill(fleet_rows.rows(scene, table.look), self.app.size.width)
        self._show_detail()

    def action_order(self, verb: Verb) -> None:
        """Ask for something to be done to the marked processes, else to the one under the cursor."""
        for name in self.query_one(LiveTable).chosen():
            self.post_message(Ordered(Order(verb, name)))

    def action_logs(self) -> None:
        """What the process under the cursor said."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(Link("logs", name)))

    def on_data_table_row_highlighted(self) -> None:
        """The detail follows the cursor."""
        self._show_detail()

    def _show_detail(self) -> None:
        if self.scene is None:
            return
        panel = self.query_one("#fleet-detail", Panel)
        table = self.query_one(LiveTable)
        panel.entitle(table.current() or "no process", table.look.describe())
        panel.styles.height = min(11, max(5, 2 + len(self._draw_detail(self.scene, self.size.width - 4, 9))))
        panel.show(self.scene)

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:
        return fleet_rows.detail(scene, self.query_one(LiveTable).current(), width, height)
