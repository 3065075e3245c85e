"""What a screen is to the application. Thin: what it shows are pure functions of a `Scene`, in the screen's folder."""

from __future__ import annotations

from textual.containers import Vertical

from admin_tui.feed import Feed
from admin_tui.panel import Scene
from admin_tui.table import LiveTable
from admin_tui.world import World


class View(Vertical):
    """One screen. Made with its id of the registry (`views.py`)."""

    def show(self, scene: Scene) -> None:
        """Draw this; twice a second while the screen is in view."""
        raise NotImplementedError

    def ask(self, feed: Feed, world: World) -> None:
        """Ask for what the feed does not bring by itself; twice a second while the screen is in view."""

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
