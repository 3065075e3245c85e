"""The Requests screen: the table, and under it the timeline of the request that was opened."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from admin_tui.actions import Order
from admin_tui.feed import Feed
from admin_tui.links import Link, to_process
from admin_tui.messages import Jump, Ordered, TimelineWanted
from admin_tui.panel import Panel, Scene, set_height
from admin_tui.requests import rows as request_rows
from admin_tui.requests import timeline
from admin_tui.table import LiveTable
from admin_tui.text import request_id
from admin_tui.view import View
from admin_tui.world import World
from bus.names import scheduler_name, worker_name


class RequestsView(View):
    """Requests in hand and just ended.

    Attributes:
        opened: the request whose timeline is open.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "timeline", id="requests.open", key_display="enter"),
        Binding("escape", "shut", "close the timeline", id="requests.shut", key_display="esc", show=False),
        Binding("g", "worker", "its worker", id="requests.worker"),
        Binding("c", "copy", "copy id", id="requests.copy"),
        Binding("l", "logs", "its logs", id="requests.logs"),
        Binding("X", "cancel", "cancel", id="requests.cancel"),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.opened: int | None = None

    def compose(self) -> ComposeResult:
        """Table above; the timeline below once one is opened."""
        yield LiveTable(request_rows.COLUMNS, request_rows.SORTS, id="requests-table")
        with VerticalScroll(id="timeline-box", can_focus=False):
            yield Panel(self._draw_timeline, id="timeline")

    def draw(self, scene: Scene) -> None:
        """Draw the table and the open timeline."""
        table = self.query_one(LiveTable)
        table.fill(request_rows.rows(scene, table.look), self.app.size.width)
        self.border_subtitle = request_rows.summary(scene.world)
        if self.opened is not None:
            self._show_timeline(scene)

    def ask(self, feed: Feed, world: World) -> None:
        """The open timeline goes on as long as its request does."""
        if self.opened is not None and world.live_request(self.opened) is not None:
            feed.ask_timeline(self.opened)

    def on_live_table_chosen(self) -> None:
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

    def action_worker(self) -> None:
        """To the first rank of the replica that has the request under the cursor; to its scheduler before that."""
        request = self._current()
        live = self.scene.world.live_request(request) if self.scene and request is not None else None
        if live is None:
            self.notify("it has ended: no process has it", markup=False)
        elif live.replica < 0:
            self.post_message(Jump(to_process(scheduler_name(live.model))))
        else:
            self.post_message(Jump(to_process(worker_name(live.model, live.replica, 0))))

    def action_copy(self) -> None:
        """The whole id to the clipboard."""
        if (request := self._current()) is not None:
            self.app.copy_to_clipboard(f"{request:x}")
            self.notify(f"copied {request:x}", markup=False)

    def action_logs(self) -> None:
        """What was logged of the request under the cursor."""
        if (request := self._current()) is not None:
            self.post_message(Jump(Link("logs", filter=f"request={request:x} level=debug since=1h")))

    def action_cancel(self) -> None:
        """Ask for the request under the cursor to be cancelled."""
        request = self._current()
        live = self.scene.world.live_request(request) if self.scene and request is not None else None
        if live is None:
            self.notify("only a request in hand can be cancelled", severity="warning", markup=False)
        else:
            self.post_message(Ordered(Order("cancel", live.model, live.request)))

    def _current(self) -> int | None:
        key = self.query_one(LiveTable).current()
        return int(key, 16) if key is not None else None

    def _show_timeline(self, scene: Scene) -> None:
        panel = self.query_one("#timeline", Panel)
        live = scene.world.live_request(self.opened or 0)
        where = f"{live.model}, replica {live.replica}, {live.state}" if live else "ended"
        panel.entitle(f"request {request_id(self.opened or 0)}", where)
        set_height(panel, 2 + len(self._timeline_lines(scene, 80)))
        panel.show(scene)

    def _draw_timeline(self, scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG002
        return self._timeline_lines(scene, width)

    def _timeline_lines(self, scene: Scene, width: int) -> list[Text]:
        reply = scene.world.timeline
        if reply is None or reply.request != self.opened:
            return [Text("asking for it")]
        return timeline.lines(reply, scene.world.at_ns, width, scene.glyphs)
