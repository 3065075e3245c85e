"""Between what an operator wants and the feed: dialogs, one at a time; commands; saved views. Tells what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.app import App

from admin_tui.actions import Order
from admin_tui.blast import caution
from admin_tui.commands import BadCommand, Forget, Key, Recall, Save, Show, parse_command, suggestions
from admin_tui.dialogs.confirm import ConfirmScreen
from admin_tui.dialogs.limit import LimitScreen
from admin_tui.dialogs.palette import PaletteScreen
from admin_tui.keepsakes import Keepsakes, SavedView
from admin_tui.links import Link
from admin_tui.messages import Jump
from admin_tui.text import sanitize
from admin_tui.world import World
from bus.messages.control import LimitValues

if TYPE_CHECKING:
    from admin_tui.feed import Feed

MOST_WAITING = 32


class Operator:
    """What one operator is about.

    Args:
        app: to show dialogs on.
        world: what is known.
        feed: where orders go.
        keepsakes: history and saved views.
        views: ids of the screens.
        look: how the screen in view is looked at now.
        look_so: look at a screen so.
    """

    def __init__(
        self,
        app: App[None],
        world: World,
        feed: Callable[[], Feed],
        keepsakes: Keepsakes,
        views: tuple[str, ...],
        look: Callable[[], SavedView],
        look_so: Callable[[SavedView], None],
    ) -> None:
        self._app, self._world, self._feed = app, world, feed
        self.keepsakes, self._views = keepsakes, views
        self._look, self._look_so = look, look_so
        self._waiting: deque[Order] = deque(maxlen=MOST_WAITING)
        self._asking = False

    @property
    def may_act(self) -> bool:
        """Whether to offer actions; the processes decide."""
        return self._world.people.may_act

    def want(self, order: Order) -> None:
        """Ask about an order, after those that are being asked about."""
        if not self.may_act:
            access = self._world.people.access
            who = access.who_may_act if access is not None else ""
            self._say(f"you may look and not act: {who} may", "warning")
            return
        self._waiting.append(order)
        self._ask_next()

    def want_limits(self, model: str) -> None:
        """Ask for other limits of a model."""
        if not self.may_act:
            self.want(Order("limit", model))
            return

        def chosen(limits: LimitValues | None) -> None:
            if limits is not None:
                self.want(Order("limit", model, limits=limits))

        self._app.push_screen(LimitScreen(model, self._world.limits(model)), chosen)

    def known_lines(self) -> list[str]:
        """Command lines that make sense now."""
        return suggestions(self._world, self._views, self.keepsakes.views)

    def palette(self) -> None:
        """Let a command be chosen."""

        def chosen(line: str | None) -> None:
            if line is not None:
                self.command(line)

        self._app.push_screen(PaletteScreen(self.known_lines()), chosen)

    def command(self, line: str) -> None:
        """Do what a line says."""
        if not line.strip():
            return
        self.keepsakes.typed(line.strip())
        try:
            wanted = parse_command(line, self._world, self._views, self.keepsakes.views)
        except BadCommand as bad:
            self._say(str(bad), "warning")
            return
        match wanted:
            case Order():
                self.want(wanted)
            case Show(view, filter):
                self._app.post_message(Jump(Link(view, filter=filter or "")))
            case Save(name):
                self._say(self.keepsakes.save(name, self._look()) or f"saved: :view {name}", "information")
            case Forget(name):
                self._say(self.keepsakes.forget(name) or f"forgotten: {name}", "information")
            case Recall(name):
                self._look_so(self.keepsakes.views[name])
            case Key(action):
                self._app.call_later(self._app.run_action, action)

    def _ask_next(self) -> None:
        if self._asking or not self._waiting:
            return
        self._asking = True
        order = self._waiting.popleft()
        self._app.push_screen(ConfirmScreen(order, caution(order, self._world)), self._answered)

    def _answered(self, order: Order | None) -> None:
        self._asking = False
        if order is not None:
            self._feed().give(order, self._done, supervised=self._world.supervised)
        else:
            self._waiting.clear()  # who does not mean the first of many does not mean the others
        self._ask_next()

    def _done(self, done: bool, text: str) -> None:
        self._say(text or "done", "information" if done else "error")

    def _say(self, text: str, severity: str) -> None:
        self._app.notify(sanitize(text), severity=severity, markup=False, timeout=8)  # type: ignore[arg-type]
