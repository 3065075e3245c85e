"""The Bus screen: endpoints above, the peers of the one under the cursor below."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui.bus import rows as bus_rows
from admin_tui.details import DetailKind
from admin_tui.links import to_process
from admin_tui.messages import Jump
from admin_tui.panel import Panel, Scene, age_of
from admin_tui.table import LiveTable
from admin_tui.view import View


class BusView(View):
    """Who talks to whom."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("bus",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "process", "its process", id="bus.process", key_display="enter"),
        Binding("tab", "app.focus_next", "other table", id="bus.other"),
    ]

    def compose(self) -> ComposeResult:
        """Two tables with a line between."""
        yield LiveTable(bus_rows.COLUMNS, bus_rows.SORTS, id="bus-table")
        yield Panel(self._draw_note, id="bus-note", age=age_of("bus"))
        yield LiveTable(bus_rows.PEER_COLUMNS, bus_rows.PEER_SORTS, id="peer-table")

    def draw(self, scene: Scene) -> None:
        """Both tables."""
        table = self.query_one("#bus-table", LiveTable)
        table.fill(bus_rows.rows(scene, table.look), self.app.size.width)
        self._show_peers(scene)

    def on_live_table_moved(self, moved: LiveTable.Moved) -> None:
        """Peers follow the cursor."""
        if self.scene is not None and moved.table.id == "bus-table":
            self._show_peers(self.scene)

    def on_live_table_chosen(self) -> None:
        """Enter on a row."""
        self.action_process()

    def action_process(self) -> None:
        """To the owner of the door, or to the peer, under the cursor."""
        table = self.app.focused
        if isinstance(table, LiveTable) and (row := table.current()) is not None:
            self.post_message(Jump(to_process(row.split(" ", 1)[0])))

    def _show_peers(self, scene: Scene) -> None:
        doors, peers = self.query_one("#bus-table", LiveTable), self.query_one("#peer-table", LiveTable)
        panel = self.query_one("#bus-note", Panel)
        title, _ = bus_rows.described(bus_rows.endpoint_of(scene, doors.current()))
        panel.entitle(title, doors.look.describe())
        panel.show(scene)
        peers.fill(bus_rows.peers(scene, doors.current(), peers.look), self.app.size.width)

    def _draw_note(self, scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG002
        if scene.world.details.bus is None:
            return [Text("asking for it")]
        _, note = bus_rows.described(bus_rows.endpoint_of(scene, self.query_one("#bus-table", LiveTable).current()))
        return [Text(note)]
