"""The Logs screen: lines, and under them the chosen one in full."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui import palette
from admin_tui.feed import Feed
from admin_tui.links import to_process, to_request
from admin_tui.logs import rows as log_rows
from admin_tui.logs.rows import LogLook, with_filter
from admin_tui.messages import Jump
from admin_tui.panel import Panel, Scene
from admin_tui.text import sanitize
from admin_tui.view import View
from admin_tui.world import World
from bus.logread.query import BadQuery
from bus.logread.records import LogRecord


class LogsView(View, can_focus=True):
    """What the processes said."""

    TABLES = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "app.filter", "filter", id="logs.filter", key_display="/"),
        Binding("e", "level", "only worse", id="logs.level"),
        Binding("t", "window", "time", id="logs.window"),
        Binding("u", "unit", "this process", id="logs.unit"),
        Binding("i", "request", "this request", id="logs.request"),
        Binding("enter", "open", "all of it", id="logs.open", key_display="enter"),
        Binding("space", "hold", "hold, follow", id="logs.hold", key_display="space"),
        Binding("g", "go", "its request or process", id="logs.go", show=False),
        Binding("escape", "clear", "no filter", id="logs.clear", key_display="esc", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-20)", show=False),
        Binding("pagedown", "move(20)", show=False),
        Binding("home", "move(-100000)", show=False),
        Binding("end", "move(100000)", show=False),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.look = LogLook()
        self._records: list[LogRecord] = []
        self._chosen: LogRecord | None = None  # None follows the newest
        self._made_of: tuple[int, LogLook, int] = (-1, self.look, 0)

    def compose(self) -> ComposeResult:
        """Lines above, the chosen one below."""
        yield Panel(self._draw_lines, id="log")
        yield Panel(self._draw_detail, id="log-detail")

    def ask(self, feed: Feed, world: World) -> None:  # noqa: ARG002
        """New lines."""
        feed.ask_logs()

    def draw(self, scene: Scene) -> None:
        """The lines that fit; made anew only where there is something new, or a second has passed."""
        people = scene.world.people
        now_s = time.time()
        made_of = (people.log_version, self.look, int(now_s))
        if made_of != self._made_of:
            self._made_of = made_of
            self._records = log_rows.wanted(people, self.look, self._now_s(people.log[-1].at if people.log else now_s))
        panel = self.query_one("#log", Panel)
        panel.entitle(self.look.describe(), log_rows.summary(people, len(self._records), follows=self._chosen is None))
        panel.show(scene)
        detail = self.query_one("#log-detail", Panel)
        detail.entitle("the line in full", "enter closes")
        detail.show(scene)

    def filter(self, text: str) -> None:
        """Keep lines that match."""
        try:
            self._look_again(with_filter(self.look, text))
        except BadQuery as problem:
            self.notify(sanitize(str(problem), 200), severity="warning", markup=False)

    def point_at(self, subject: str) -> bool:
        """Only lines of this process."""
        self._look_again(self.look._replace(unit=subject))
        return True

    def action_level(self) -> None:
        """Only worse."""
        self._look_again(self.look.next_level())

    def action_window(self) -> None:
        """Another time."""
        self._look_again(self.look.next_window())

    def action_unit(self) -> None:
        """Only the process of the line under the cursor; again, everybody."""
        current = self._current()
        self._look_again(self.look._replace(unit="" if self.look.unit or current is None else current.unit))

    def action_request(self) -> None:
        """Only the request of the line under the cursor; again, everything."""
        current = self._current()
        if not self.look.request and (current is None or not current.request):
            self.notify("this line names no request", severity="warning", markup=False)
            return
        self._look_again(self.look._replace(request="" if self.look.request or current is None else current.request))

    def action_clear(self) -> None:
        """Everything."""
        self._look_again(LogLook(level="debug"))

    def action_open(self) -> None:
        """The line in full, or no more."""
        self.toggle_class("-opened")
        self._redraw()

    def action_hold(self) -> None:
        """Stay at this line, or follow the newest."""
        self._chosen = self._current() if self._chosen is None else None
        self._redraw()

    def action_go(self) -> None:
        """To the request of the line, else to its process."""
        if (current := self._current()) is not None:
            to = to_request(int(current.request, 16)) if current.request else to_process(current.unit)
            self.post_message(Jump(to))

    def action_move(self, lines: int) -> None:
        """The cursor; at the end it follows."""
        if not self._records:
            return
        last = len(self._records) - 1
        at = min(last, max(0, self._cursor() + lines))
        self._chosen = None if at == last and lines > 0 else self._records[at]
        self._redraw()

    @staticmethod
    def _now_s(newest_at: float) -> float:
        """The end of the window: now, or where time stands still (a recording) the newest line."""
        return max(newest_at, time.time()) if abs(time.time() - newest_at) < 86_400 else newest_at

    def _cursor(self) -> int:
        if self._chosen is not None and self._chosen in self._records:
            return self._records.index(self._chosen)
        return len(self._records) - 1

    def _current(self) -> LogRecord | None:
        return self._records[self._cursor()] if self._records else None

    def _look_again(self, look: LogLook) -> None:
        self.look = look
        self._redraw()

    def _redraw(self) -> None:
        if self.scene is not None:
            self.draw(self.scene)

    def _draw_lines(self, scene: Scene, width: int, height: int) -> list[Text]:
        people = scene.world.people
        drawn = log_rows.lines(self._records, self._cursor(), width, height)
        if people.log_problem:
            return [*drawn[: max(0, height - 1)], Text(sanitize(people.log_problem), palette.WARN)]
        return drawn or [Text("no line fits: esc shows everything", palette.FAINT)]

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG002
        return log_rows.detail(self._current(), width)[:height]
