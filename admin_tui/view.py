"""What a screen is to the application. Thin: what it shows are pure functions of a `Scene`, in the screen's folder."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.containers import Vertical

from admin_tui.details import DetailKind
from admin_tui.feed import Feed
from admin_tui.panel import Scene
from admin_tui.table import LiveTable
from admin_tui.world import World

ASK_S: Final = 1.0


class View(Vertical):
    """One screen. Made with its id of the registry (`views.py`).

    Attributes:
        QUESTIONS: details that it shows, beyond the feed.
    """

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ()
    scene: Scene | None = None

    def show(self, scene: Scene) -> None:
        """Draw this; twice a second while the screen is in view."""
        self.scene = scene
        self.draw(scene)

    def draw(self, scene: Scene) -> None:
        """Rows into tables, scenes into boxes."""
        raise NotImplementedError

    def ask(self, feed: Feed, world: World) -> None:  # noqa: ARG002
        """Ask for what the feed does not bring by itself; once a second while the screen is in view."""
        for kind in self.QUESTIONS:
            feed.ask(kind)

    def on_live_table_looked(self) -> None:
        """Other rows."""
        if self.scene is not None:
            self.draw(self.scene)

    def filter(self, text: str) -> None:
        """Keep rows that match."""
        for table in self.query(LiveTable):
            table.look_again(table.look._replace(filter=text))

    def point_at(self, subject: str) -> bool:
        """Put the cursor on this row; False where there is none."""
        return any(table.point_at(subject) for table in self.query(LiveTable))

    def focus_first(self) -> None:
        """Keys go to the first table; to the screen itself where it has none."""
        table = next(iter(self.query(LiveTable)), None)
        (table or self).focus()
