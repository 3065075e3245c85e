"""A bordered box whose content a pure function draws to fit. The only widget that regions share besides tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich.text import Text
from textual.markup import escape
from textual.widgets import Static

from admin_tui.glyphs import Glyphs
from admin_tui.text import sanitize
from admin_tui.world import World


class Scene(NamedTuple):
    """What a drawing function may look at."""

    world: World
    glyphs: Glyphs
    now_ns: int


Draw = Callable[[Scene, int, int], list[Text]]


class Panel(Static):
    """Draws `draw(scene, width, height)`: at most `height` lines of at most `width` cells."""

    def __init__(self, draw: Draw, *, id: str, title: str = "", subtitle: str = "") -> None:
        super().__init__(id=id, classes="panel", markup=False)
        self._draw = draw
        self._scene: Scene | None = None
        self.border_title, self.border_subtitle = title, subtitle

    def show(self, scene: Scene) -> None:
        """Draw this from now on."""
        self._scene = scene
        self.refresh()

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Write into the border. Titles may hold names from outside: they are cleaned, and not read as markup."""
        self.border_title = escape(sanitize(title, 60))
        self.border_subtitle = escape(sanitize(subtitle, 80))

    def render(self) -> Text:
        """The lines, cut to the box."""
        width, height = self.content_size
        if self._scene is None or width <= 0 or height <= 0:
            return Text()
        lines = self._draw(self._scene, width, height)[:height]
        for line in lines:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)
