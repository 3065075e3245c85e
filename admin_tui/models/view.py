"""The Models screen: the table, the model under the cursor, and where memory went."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from admin_tui.details import DetailKind
from admin_tui.draw import Box
from admin_tui.links import Link
from admin_tui.messages import Jump
from admin_tui.models import rows as model_rows
from admin_tui.models import usage
from admin_tui.panel import Panel, Scene, age_of, set_height
from admin_tui.table import LiveTable
from admin_tui.text import size
from admin_tui.view import View


class ModelsView(View):
    """What is served."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("models", "usage")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "requests", "its requests", id="models.requests", key_display="enter"),
        Binding("g", "scheduler", "its scheduler", id="models.scheduler"),
        Binding("b", "bounds", "what bounds it", id="models.bounds"),
    ]

    def compose(self) -> ComposeResult:
        """Table above, boxes below."""
        yield LiveTable(model_rows.COLUMNS, model_rows.SORTS, id="models-table")
        yield Panel(self._draw_detail, id="model-detail", age=age_of("models"))
        with Horizontal(id="model-boxes"):
            yield Panel(self._draw_usage, id="usage", title="usage and cost of 24 h", age=age_of("usage"))
            yield Panel(self._draw_memory, id="memory-sheet", title="memory of this host", age=age_of("models"))

    def draw(self, scene: Scene) -> None:
        """The table, the model under the cursor, memory."""
        table = self.query_one(LiveTable)
        table.fill(model_rows.rows(scene, table.look), self.app.size.width)
        models = scene.world.details.models
        if models is not None:
            self.query_one("#memory-sheet", Panel).entitle(f"memory of this host: {size(models.memory_bytes)}")
        self._show_detail(scene)
        wanted = 2 + (len(models.sheet) if models else 1)
        room = self.size.height - 14 - min(4, len(table.rows))
        set_height(self.query_one("#model-boxes"), max(6, min(wanted, room)))
        self.query_one("#usage", Panel).show(scene)
        self.query_one("#memory-sheet", Panel).show(scene)

    def on_live_table_moved(self) -> None:
        """The box follows the cursor."""
        if self.scene is not None:
            self._show_detail(self.scene)

    def on_live_table_chosen(self) -> None:
        """Enter on a model."""
        self.action_requests()

    def action_requests(self) -> None:
        """To the requests of the model under the cursor."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(Link("requests", filter=f"model={name}")))

    def action_scheduler(self) -> None:
        """To its scheduler's process."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(Link("fleet", f"scheduler@{name}")))

    def action_bounds(self) -> None:
        """To what bounds its steps."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(Link("scheduler", name)))

    def _show_detail(self, scene: Scene) -> None:
        panel, table = self.query_one("#model-detail", Panel), self.query_one(LiveTable)
        panel.entitle(table.current() or "no model", table.look.describe())
        set_height(panel, 2 + len(self._draw_detail(scene, 80, 20)))
        panel.show(scene)

    def _draw_detail(self, scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG002
        return model_rows.detail(scene, self.query_one(LiveTable).current(), width)

    @staticmethod
    def _draw_usage(scene: Scene, width: int, height: int) -> list[Text]:
        reply = scene.world.details.usage
        return [Text("asking for it")] if reply is None else usage.lines(reply, Box(width, height, scene.glyphs))

    @staticmethod
    def _draw_memory(scene: Scene, width: int, height: int) -> list[Text]:
        models = scene.world.details.models
        if models is None:
            return [Text("asking for it")]
        return model_rows.memory(models, Box(width, height, scene.glyphs))
