"""The Requests screen: the table, and under it the timeline of the request that was opened."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll

from admin_tui.actions import Order
from admin_tui.look import Look
from admin_tui.messages import Ordered, TimelineWanted
from admin_tui.panel import Panel, Scene
from admin_tui.requests import rows as request_rows
from admin_tui.requests import timeline
from admin_tui.table import LiveTable
from admin_tui.text import request_id


class RequestsView(Vertical):
    """Requests in hand and just ended.

    Attributes:
        opened: the request whose timeline is open.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "timeline", id="requests.open", key_display="enter"),
        Binding("escape", "shut", "close the timeline", id="requests.shut", key_display="esc", show=False),
        Binding("slash", "app.filter", "filter", id="requests.filter", key_display="/"),
        Binding("s", "sort", "sort by the next column", id="requests.sort", show=False),
        Binding("r", "reverse", "sort the other way round", id="requests.reverse", show=False),
        Binding("f", "faults", "faults", id="requests.faults"),
        Binding("c", "copy", "copy id", id="requests.copy"),
        Binding("X", "cancel", "cancel", id="requests.cancel"),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._scene: Scene | None = None
        self._look = Look(request_rows.SORTS[0])
        self.opened: int | None = None

    def compose(self) -> ComposeResult:
        """Table above; the timeline below once one is opened."""
        yield LiveTable(request_rows.COLUMNS, id="requests-table")
        with VerticalScroll(id="timeline-box", can_focus=False):
            yield Panel(self._draw_timeline, id="timeline")

    def show(self, scene: Scene) -> None:
        """Draw the table and the open timeline."""
        self._scene = scene
        self.query_one(LiveTable).fill(request_rows.rows(scene, self._look), self.app.size.width)
        self.border_subtitle = request_rows.summary(scene.world)
        if self.opened is not None:
            self._show_timeline(scene)

    def filter(self, text: str) -> None:
        """Keep rows that match."""
        self._look_again(self._look._replace(filter=text))

    def focus_first(self) -> None:
        """Keys go to the table."""
        self.query_one(LiveTable).focus()

    def on_data_table_row_selected(self) -> None:
        """Enter on a row."""
        self.action_open()

    def action_open(self) -> None:
        """Show the timeline of the request under the cursor."""
        if (request := self._current()) is not None:
            self.opened = request
            self.set_class(True, "-opened")
            self.post_message(TimelineWanted(request))

    def action_shut(self) -> None:
        """Only the table."""
        self.opened = None
        self.set_class(False, "-opened")

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._look_again(self._look.sorted_by_next(request_rows.SORTS))

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._look_again(self._look._replace(reverse=not self._look.reverse))

    def action_faults(self) -> None:
        """Only those that ended badly, or everything."""
        self._look_again(self._look._replace(faults_only=not self._look.faults_only))

    def action_copy(self) -> None:
        """The whole id to the clipboard."""
        if (request := self._current()) is not None:
            self.app.copy_to_clipboard(f"{request:x}")
            self.notify(f"copied {request:x}", markup=False)

    def action_cancel(self) -> None:
        """Ask for the request under the cursor to be cancelled."""
        request = self._current()
        live = self._scene.world.live_request(request) if self._scene and request is not None else None
        if live is None:
            self.notify("only a request in hand can be cancelled", severity="warning", markup=False)
        else:
            self.post_message(Ordered(Order("cancel", live.model, live.request)))

    def _current(self) -> int | None:
        key = self.query_one(LiveTable).current()
        return int(key, 16) if key is not None else None

    def _look_again(self, look: Look) -> None:
        self._look = look
        if self._scene is not None:
            self.show(self._scene)

    def _show_timeline(self, scene: Scene) -> None:
        panel = self.query_one("#timeline", Panel)
        live = scene.world.live_request(self.opened or 0)
        where = f"{live.model}, replica {live.replica}, {live.state}" if live else "ended"
        panel.entitle(f"request {request_id(self.opened or 0)}", where)
        panel.styles.height = 2 + len(self._timeline_lines(scene, 80))
        panel.show(scene)

    def _draw_timeline(self, scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG002
        return self._timeline_lines(scene, width)

    def _timeline_lines(self, scene: Scene, width: int) -> list[Text]:
        reply = scene.world.timeline
        if reply is None or reply.request != self.opened:
            return [Text("asking for it")]
        return timeline.lines(reply, scene.world.at_ns, width, scene.glyphs)
