"""The KV screen: the arena above, prefixes and holders below."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from admin_tui.details import DetailKind
from admin_tui.draw import Box, cut
from admin_tui.kv import arena
from admin_tui.kv import rows as kv_rows
from admin_tui.links import to_process
from admin_tui.messages import Jump
from admin_tui.panel import Draw, Panel, Scene, set_height
from admin_tui.table import LiveTable
from admin_tui.view import View
from bus.messages.details import PagesReply


class KvView(View):
    """The page server's arena."""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("pages",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go", "its requests, its process", id="kv.go", key_display="enter"),
        Binding("tab", "app.focus_next", "other table", id="kv.other"),
    ]

    def compose(self) -> ComposeResult:
        """Overview, pools, map; prefixes and holders."""
        draw_overview = self._of(arena.overview)
        yield Panel(draw_overview, id="arena", title="KV arena", age=kv_rows.age_s)
        draw_pools = self._of(arena.pools)
        yield Panel(draw_pools, id="pools", title="pools and tiers", age=kv_rows.age_s)
        draw_map = self._of(arena.map_lines)
        yield Panel(draw_map, id="kv-map", title="map", age=kv_rows.age_s)
        with Horizontal(id="kv-tables"):
            yield LiveTable(kv_rows.PREFIX_COLUMNS, kv_rows.PREFIX_SORTS, id="prefix-table")
            yield LiveTable(kv_rows.HOLDER_COLUMNS, kv_rows.HOLDER_SORTS, id="holder-table")

    def draw(self, scene: Scene) -> None:
        """Boxes as high as what they hold; tables side by side where there is room."""
        pages = scene.world.details.pages
        prefix_table, holder_table = (self.query_one(id, LiveTable) for id in ("#prefix-table", "#holder-table"))
        if pages is not None:
            box = self.query_one("#kv-map", Panel)
            box.entitle(arena.map_title(pages, Box(box.content_size.width, box.content_size.height, scene.glyphs)))
            self.query_one("#arena", Panel).entitle(arena.title(pages), prefix_table.look.describe())
            set_height(self.query_one("#pools", Panel), 3 + min(6, len(pages.pools) + len(pages.tiers)))
        for panel in self.query(Panel):
            panel.show(scene)
        prefix_table.fill(kv_rows.prefixes(scene, prefix_table.look), prefix_table.region.width)
        holder_table.fill(kv_rows.holders(scene, holder_table.look), holder_table.region.width)

    def on_live_table_chosen(self) -> None:
        """Enter on a row."""
        self.action_go()

    def action_go(self) -> None:
        """From a prefix to requests that begin with it; from a holder to its process."""
        table = self.app.focused
        if self.scene is None or not isinstance(table, LiveTable) or (key := table.current()) is None:
            return
        link = (
            kv_rows.requests_with(self.scene, key) if table.id == "prefix-table" else to_process(key.rsplit(" ", 1)[0])
        )
        if link is not None:
            self.post_message(Jump(link))

    @staticmethod
    def _of(draw: Callable[[PagesReply, Box], list[Text]]) -> Draw:
        def drawn(scene: Scene, width: int, height: int) -> list[Text]:
            pages = scene.world.details.pages
            if pages is None or not pages.heard_ns:
                return [Text("asking for it" if pages is None else "kv@host has not been heard of")]
            return cut(draw(pages, Box(width, height, scene.glyphs)), height)

        return drawn
