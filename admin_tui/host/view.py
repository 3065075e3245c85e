"""The Host screen: the machine above, the workers on it below."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from admin_tui.details import DetailKind
from admin_tui.draw import Box
from admin_tui.host import machine
from admin_tui.host import rows as worker_rows
from admin_tui.links import to_process
from admin_tui.messages import Jump
from admin_tui.panel import Draw, Panel, Scene, age_of, set_height
from admin_tui.table import LiveTable
from admin_tui.view import View
from bus.messages.details import HostReply

MOST_CORES, MOST_GPUS = 20, 10  # lines of their boxes


class HostView(View):
    """Cores and NUMA nodes, memory, GPUs."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("host",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "process", "its process", id="host.process", key_display="enter"),
    ]

    def compose(self) -> ComposeResult:
        """Overview, cores, GPUs, workers."""
        age = age_of("host")
        yield Panel(self._of(machine.overview), id="machine", age=age)
        draw_cores = self._of(machine.cores)
        yield Panel(draw_cores, id="cores", title="cores", age=age)
        draw_gpus = self._of(machine.gpus)
        yield Panel(draw_gpus, id="gpus", title="GPUs", age=age)
        yield LiveTable(worker_rows.COLUMNS, worker_rows.SORTS, id="host-table")

    def draw(self, scene: Scene) -> None:
        """Boxes as high as what they hold."""
        host = scene.world.details.host
        table = self.query_one(LiveTable)
        self.query_one("#machine", Panel).entitle(f"host {host.host}" if host else "host", table.look.describe())
        self.query_one("#gpus", Panel).display = bool(host and host.gpus)
        if host is not None:
            room_for_gpus = Box(self.size.width - 4, MOST_GPUS, scene.glyphs)
            room = max(2, min(MOST_CORES, self.size.height - 17))
            drawn = machine.cores(host, Box(self.size.width - 4, room, scene.glyphs))
            set_height(self.query_one("#cores", Panel), 2 + len(drawn))
            self.query_one("#cores", Panel).entitle(
                "cores", "" if host.gpus else f"no GPU: {host.gpu_trouble or 'none there'}"
            )
            set_height(self.query_one("#gpus", Panel), 2 + min(MOST_GPUS, len(machine.gpus(host, room_for_gpus))))
        for panel in self.query(Panel):
            panel.show(scene)
        table.fill(worker_rows.rows(scene, table.look), self.app.size.width)

    def on_live_table_chosen(self) -> None:
        """Enter on a worker."""
        self.action_process()

    def action_process(self) -> None:
        """To the process under the cursor."""
        if (name := self.query_one(LiveTable).current()) is not None:
            self.post_message(Jump(to_process(name)))

    @staticmethod
    def _of(draw: Callable[[HostReply, Box], list[Text]]) -> Draw:
        def drawn(scene: Scene, width: int, height: int) -> list[Text]:
            host = scene.world.details.host
            return [Text("asking for it")] if host is None else draw(host, Box(width, height, scene.glyphs))

        return drawn
