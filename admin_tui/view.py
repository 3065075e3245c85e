"""What a screen is to the application. Thin: what it shows are pure functions of a `Scene`, in the screen's folder."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.containers import Vertical

from admin_tui.details import DetailKind
from admin_tui.feed import Feed
from admin_tui.keepsakes import SavedView
from admin_tui.links import model_of
from admin_tui.look import Look
from admin_tui.panel import Panel, Scene
from admin_tui.table import LiveTable
from admin_tui.world import World

ASK_S: Final = 1.0


class View(Vertical):
    """One screen. Made with its id of the registry (`views.py`).

    Attributes:
        QUESTIONS: details that it shows, beyond the feed.
        TABLES: whether the keys of tables are in force on it.
    """

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ()
    TABLES: ClassVar[bool] = True
    scene: Scene | None = None

    def show(self, scene: Scene) -> None:
        """Draw this; twice a second while the screen is in view."""
        self.scene = scene
        self.draw(scene)
        # A table has no edge to say its age on: it is as old as what the boxes around it show.
        self.set_class(any(panel.has_class("-stale") for panel in self.query(Panel)), "-old")

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

    def model(self) -> str:
        """The model that the row under the cursor is of; empty where it is of none."""
        key = next((table.current() for table in self.query(LiveTable)), None) or ""
        return model_of(key)

    def saved(self) -> SavedView:
        """How it is looked at."""
        looks = [table.look for table in self.query(LiveTable)]
        look = looks[0] if looks else Look("")
        return SavedView(self.id or "", look.filter, look.sort, look.reverse, look.faults_only, look.wide)

    def look_so(self, saved: SavedView) -> None:
        """Look at it so."""
        for table in self.query(LiveTable):
            sort = saved.sort if saved.sort in table.sorts else table.look.sort
            table.look_again(Look(sort, saved.reverse, saved.filter, saved.faults_only, saved.wide))
            return
        self.filter(saved.filter)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Who may only look is not offered what acts. (What counts is what the processes say.)"""
        may_act = self.scene is None or self.scene.world.people.may_act
        return None if action in ("order", "cancel") and not may_act else True

    def point_at(self, subject: str) -> bool:
        """Put the cursor on this row; False where there is none."""
        return any(table.point_at(subject) for table in self.query(LiveTable))

    def focus_first(self) -> None:
        """Keys go to the first table; to the screen itself where it has none."""
        table = next(iter(self.query(LiveTable)), None)
        (table or self).focus()
