"""A bordered box whose content a pure function draws to fit. The only widget that regions share besides tables.

A box knows how old its content is: what is too old is dimmed, and its edge says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from rich.text import Text
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from admin_tui.details import DetailKind
from admin_tui.glyphs import Glyphs
from admin_tui.text import duration, sanitize
from admin_tui.world import World

OLD_S: Final = 6.0  # processes describe themselves every two seconds: three periods
UNKNOWN: Final = -1.0


class Scene(NamedTuple):
    """What a drawing function may look at."""

    world: World
    glyphs: Glyphs
    now_ns: int


Draw = Callable[[Scene, int, int], list[Text]]
Age = Callable[[Scene], float]  # seconds; UNKNOWN where nothing came yet


def age_of(kind: DetailKind) -> Age:
    """Since an answer of this kind came."""
    return lambda scene: scene.world.details.age_s(kind, scene.now_ns)


def age_of_said(scene: Scene, kind: DetailKind, at_ns: int, heard_ns: int) -> float:
    """Since a process said what an answer as of `at_ns` passes on."""
    answered = scene.world.details.age_s(kind, scene.now_ns)
    return UNKNOWN if answered < 0 or not heard_ns else answered + max(0.0, (at_ns - heard_ns) / 1e9)


def set_height(widget: Widget, lines: int) -> None:
    """So many lines; nothing is laid out anew where it is as high already."""
    if widget.styles.height is None or widget.styles.height.value != lines:
        widget.styles.height = lines


class Panel(Static):
    """Draws `draw(scene, width, height)`: at most `height` lines of at most `width` cells.

    Args:
        age: of what it shows; None where it is the feed's, whose age the whole screen has.
    """

    def __init__(self, draw: Draw, *, id: str, title: str = "", subtitle: str = "", age: Age | None = None) -> None:
        super().__init__(id=id, classes="panel", markup=False)
        self._draw, self._age = draw, age
        self._scene: Scene | None = None
        self._subtitle = subtitle
        self._edge = ("", "")
        self._drawn: tuple[tuple[int, int], list[Text]] = ((0, 0), [])
        self._write(title, subtitle)

    def show(self, scene: Scene) -> None:
        """Draw this from now on."""
        self._scene = scene
        if self._age is not None:
            self._say_age(scene, self._age(scene))
        drawn = (self._box(), self._lines(scene))
        if drawn != self._drawn:  # most boxes look the same most of the time
            self._drawn = drawn
            self.refresh()

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Write into the border. Titles may hold names from outside: they are cleaned, and not read as markup."""
        self._subtitle = subtitle
        self._write(title, subtitle if self._age is None else self._edge[1])

    def render(self) -> Text:
        """The lines, cut to the box."""
        if self._scene is None:
            return Text()
        if self._drawn[0] != self._box():
            self._drawn = (self._box(), self._lines(self._scene))
        return Text("\n", no_wrap=True).join(self._drawn[1])

    def _box(self) -> tuple[int, int]:
        return self.content_size.width, self.content_size.height

    def _lines(self, scene: Scene) -> list[Text]:
        width, height = self._box()
        if width <= 0 or height <= 0:
            return []
        lines = self._draw(scene, width, height)[:height]
        for line in lines:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
        return lines

    def _say_age(self, scene: Scene, age_s: float) -> None:
        stale = age_s > OLD_S
        self.set_class(stale, "-stale")
        late = scene.glyphs.states["late"]
        self._write(self._edge[0], f"{late} stale {duration(age_s)}" if stale else self._subtitle)

    def _write(self, title: str, subtitle: str) -> None:
        """Onto the edge, as content and not as markup: what is cut may look like markup that no escaping mends."""
        if self._edge != (title, subtitle):
            self._edge = title, subtitle
            self.border_title = Content(sanitize(title, 80))
            self.border_subtitle = Content(sanitize(subtitle, 80))
