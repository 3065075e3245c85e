"""The Alarms screen: findings above, the audit log below, and between them the one under the cursor in full."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import DescendantFocus

from admin_tui.actions import Order, Verb
from admin_tui.alarms import rows as alarm_rows
from admin_tui.feed import Feed
from admin_tui.links import Link, to_process
from admin_tui.messages import Jump, Ordered
from admin_tui.panel import Panel, Scene
from admin_tui.table import LiveTable
from admin_tui.text import sanitize
from admin_tui.view import View
from admin_tui.world import World
from bus.actionlog import ActionRecord


class AlarmsView(View):
    """What is wrong, and what was done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go", "to it", id="alarms.go", key_display="enter"),
        Binding("tab", "app.focus_next", "other table", id="alarms.other"),
        Binding("A", "order('acknowledge')", "acknowledge", id="alarms.acknowledge"),
        Binding("Z", "order('silence')", "silence 1 h", id="alarms.silence"),
        Binding("E", "order('unsilence')", "end silence", id="alarms.unsilence", show=False),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._latest = ""  # the table that has the keys, or had them before the prompt

    def compose(self) -> ComposeResult:
        """Findings, detail, actions."""
        yield LiveTable(alarm_rows.ALARM_COLUMNS, alarm_rows.ALARM_SORTS, id="alarms-table")
        yield Panel(self._draw_detail, id="alarm-detail")
        yield LiveTable(alarm_rows.ACTION_COLUMNS, alarm_rows.ACTION_SORTS, id="actions-table")

    def ask(self, feed: Feed, world: World) -> None:  # noqa: ARG002
        """What was done."""
        feed.ask_actions()

    def draw(self, scene: Scene) -> None:
        """Both tables."""
        alarms, actions = self._tables()
        alarms.fill(alarm_rows.alarm_rows(scene, alarms.look), self.app.size.width)
        actions.fill(alarm_rows.action_rows(scene, actions.look), self.app.size.width)
        self._show_detail(scene)

    def filter(self, text: str) -> None:
        """Keep rows of the table that has the keys."""
        table = self._tables()[self._on_actions()]
        table.look_again(table.look._replace(filter=text))

    def action_order(self, what: str) -> None:
        """Ask for something to be said of the finding under the cursor."""
        finding = alarm_rows.find(self.scene.world, self._tables()[0].current()) if self.scene is not None else None
        if finding is None:
            self.notify("no finding to say that of", severity="warning", markup=False)
            return
        verb: Verb = "silence" if what == "unsilence" else what  # type: ignore[assignment]
        seconds = 0.0 if what == "unsilence" else None
        self.post_message(Ordered(Order(verb, finding.subject, seconds=seconds, code=finding.code)))

    def action_go(self) -> None:
        """To the process, or to the model, that it is about."""
        if self.scene is None:
            return
        if self._on_actions():
            record = self._record(self.scene)
            name = record.object if record is not None else ""
        else:
            finding = alarm_rows.find(self.scene.world, self._tables()[0].current())
            name = finding.subject if finding is not None else ""
        if name:
            self.post_message(Jump(to_process(name) if "@" in name else Link("models", name)))

    def on_live_table_chosen(self) -> None:
        """Enter on a row."""
        self.action_go()

    def on_live_table_moved(self) -> None:
        """The box follows the cursor."""
        if self.scene is not None:
            self._show_detail(self.scene)

    def focus_first(self) -> None:
        """Back to the table that had the keys."""
        self._tables()[self._on_actions()].focus()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """The box follows the keys, too."""
        self._latest = event.widget.id or ""
        if self.scene is not None:
            self._show_detail(self.scene)

    def _tables(self) -> tuple[LiveTable, LiveTable]:
        return self.query_one("#alarms-table", LiveTable), self.query_one("#actions-table", LiveTable)

    def _on_actions(self) -> bool:
        return self._latest == "actions-table"

    def _record(self, scene: Scene) -> ActionRecord | None:
        key = self._tables()[1].current()
        return next((r for r in scene.world.people.actions if alarm_rows.action_key(r) == key), None)

    def _show_detail(self, scene: Scene) -> None:
        panel = self.query_one("#alarm-detail", Panel)
        alarms, actions = self._tables()
        if self._on_actions():
            panel.entitle("what was done", actions.look.describe())
        else:
            panel.entitle(alarms.current() or "no finding", alarms.look.describe())
        panel.show(scene)

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:
        people = scene.world.people
        if self._on_actions():
            if people.actions_problem:
                return [Text(sanitize(people.actions_problem))]
            return alarm_rows.action_lines(self._record(scene), width)[:height]
        finding = alarm_rows.find(scene.world, self._tables()[0].current())
        return alarm_rows.finding_lines(scene, finding, width)[:height]
