"""The Fleet screen: the table, the process under the cursor, and the keys that act on it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from admin_tui.actions import Order, Verb
from admin_tui.fleet import rows as fleet_rows
from admin_tui.look import Look
from admin_tui.messages import Ordered
from admin_tui.panel import Panel, Scene
from admin_tui.table import LiveTable


class FleetView(Vertical):
    """Every process."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "app.filter", "filter", id="fleet.filter", key_display="/"),
        Binding("s", "sort", "sort by the next column", id="fleet.sort", show=False),
        Binding("r", "reverse", "sort the other way round", id="fleet.reverse", show=False),
        Binding("f", "faults", "faults", id="fleet.faults"),
        Binding("D", "order('drain')", "drain", id="fleet.drain"),
        Binding("U", "order('undrain')", "undrain", id="fleet.undrain"),
        Binding("R", "order('restart')", "restart", id="fleet.restart"),
        Binding("K", "order('kill')", "kill", id="fleet.kill"),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._scene: Scene | None = None
        self._look = Look(fleet_rows.SORTS[0])

    def compose(self) -> ComposeResult:
        """Table above, detail below."""
        yield LiveTable(fleet_rows.COLUMNS, id="fleet-table")
        yield Panel(self._draw_detail, id="fleet-detail")

    def show(self, scene: Scene) -> None:
        """Draw table and detail."""
        self._scene = scene
        self.query_one(LiveTable).fill(fleet_rows.rows(scene, self._look), self.app.size.width)
        self._show_detail()

    def filter(self, text: str) -> None:
        """Keep rows that match."""
        self._look_again(self._look._replace(filter=text))

    def focus_first(self) -> None:
        """Keys go to the table."""
        self.query_one(LiveTable).focus()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._look_again(self._look.sorted_by_next(fleet_rows.SORTS))

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._look_again(self._look._replace(reverse=not self._look.reverse))

    def action_faults(self) -> None:
        """Only what is late or dead, or everything."""
        self._look_again(self._look._replace(faults_only=not self._look.faults_only))

    def action_order(self, verb: Verb) -> None:
        """Ask for something to be done to the process under the cursor."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Ordered(Order(verb, name)))

    def on_data_table_row_highlighted(self) -> None:
        """The detail follows the cursor."""
        self._show_detail()

    def _look_again(self, look: Look) -> None:
        self._look = look
        if self._scene is not None:
            self.show(self._scene)

    def _show_detail(self) -> None:
        if self._scene is None:
            return
        panel = self.query_one("#fleet-detail", Panel)
        panel.entitle(self.query_one(LiveTable).current() or "no process", self._look.describe())
        panel.styles.height = min(11, max(5, 2 + len(self._draw_detail(self._scene, self.size.width - 4, 9))))
        panel.show(self._scene)

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:
        return fleet_rows.detail(scene, self.query_one(LiveTable).current(), width, height)
