"""`headrace top`: the application, and `run`, its entry. Ties the regions to the feed; draws nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.filter import LineFilter
from textual.widgets import ContentSwitcher, Static

from admin_tui import palette
from admin_tui.ascii_only import AsciiOnly
from admin_tui.chrome import bars
from admin_tui.chrome.command import CommandLine
from admin_tui.chrome.prompt import Prompt
from admin_tui.details import Detail, detail_kind
from admin_tui.dialogs.help import HelpScreen
from admin_tui.feed import Feed, LiveFeed
from admin_tui.glyphs import ASCII, UNICODE, Glyphs
from admin_tui.keeping import Keeper, Outcome, Service
from admin_tui.keepsakes import Keepsakes, SavedView, own_directory
from admin_tui.keymap import BadKeymap, find_keymap, read_keymap
from admin_tui.loop import GuestLoop
from admin_tui.messages import Jump, Ordered, TimelineWanted
from admin_tui.operator import Operator
from admin_tui.panel import Scene
from admin_tui.printer import print_feed
from admin_tui.recording import BadRecording, read
from admin_tui.replay import ReplayFeed
from admin_tui.table import LiveTable
from admin_tui.text import sanitize
from admin_tui.view import ASK_S, View
from admin_tui.views import FIRST, VIEWS, shown
from admin_tui.world import Event, World
from bus.config import Config
from bus.messages.observe import TimelineReply
from bus.process import EXIT_CONFIG

__all__ = ["HeadraceTop", "Keeper", "Outcome", "Service", "bindings_of", "run"]

REFRESH_S: Final = 0.5
MIN_WIDTH, MIN_HEIGHT, TALL = 64, 16, 30
EXIT_NO_INPUT: Final = 66


class HeadraceTop(App[None]):
    """The operator's screen.

    Args:
        make_feed: makes the feed, on the running loop.
        glyphs: characters to draw with.
        wall_clock: the time of day for the top bar.
        host: name of this host for the top bar.
        keepsakes: typed commands and saved views.
        keymap: other keys, by id of binding.
    """

    TITLE = "headrace"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH: ClassVar[list[str]] = [  # type: ignore[assignment]
        "chrome/style.tcss",
        "dialogs/style.tcss",
        *(view.style for view in VIEWS),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(view.key, f"view('{view.id}')", view.title, id=f"view.{view.id}") for view in VIEWS),
        Binding("colon", "command", "command", id="command", key_display=":"),
        Binding("ctrl+p", "palette", "palette", id="palette", show=False),
        Binding("L", "order('limit')", "limits of the model", id="limit", show=False),
        Binding("minus", "before", "the screen before", id="view.before", key_display="-", show=False),
        Binding("p", "pause", "pause", id="pause", show=False),
        Binding("question_mark", "help", "help", id="help", key_display="?"),
        Binding("q", "quit", "quit", id="quit"),
    ]

    def __init__(
        self,
        make_feed: Callable[[], Feed],
        glyphs: Glyphs = UNICODE,
        wall_clock: Callable[[], str] = bars.wall_clock,
        host: str = "",
        keepsakes: Keepsakes | None = None,
        keymap: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._keymap_given = dict(keymap or {})
        self.set_keymap(self._keymap_given)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (MIN_WIDTH, "-narrow"), (100, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-flat"), (MIN_HEIGHT, "-short"), (TALL, "-tall")]
        self._make_feed, self._glyphs, self._wall_clock = make_feed, glyphs, wall_clock
        self._ascii_only = AsciiOnly()
        self._host = host or bars.host_name()
        self._world = World()
        self._paused = False
        self._said: dict[str, Text] = {}
        self._before = FIRST.id
        self._operator = Operator(
            self, self._world, lambda: self._feed, keepsakes or Keepsakes(), tuple(view.id for view in VIEWS),
            lambda: self._view().saved(), self._look_so,
        )  # fmt: skip
        self.register_theme(palette.THEME)
        self.theme = palette.THEME.name

    def compose(self) -> ComposeResult:
        """Bars around the view."""
        yield Static(id="top", markup=False)
        yield Static(id="alarm", markup=False)
        with ContentSwitcher(id="views", initial=FIRST.id):
            for view in VIEWS:
                yield view.make(id=view.id)
        yield Static(f"too small: at least {MIN_WIDTH} x {MIN_HEIGHT}, made for 80 x 24", id="tiny", markup=False)
        yield Prompt()
        yield CommandLine()
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        """Data comes from now on."""
        self._feed = self._make_feed()
        self._feed.start(self._on_event)
        self.set_interval(REFRESH_S, self._refresh)
        self.set_interval(ASK_S, self._ask)
        self._view().focus_first()
        self.call_after_refresh(self._refresh)

    def on_resize(self) -> None:
        """Everything is drawn to fit."""
        self.call_after_refresh(self._refresh)

    def on_unmount(self) -> None:
        """No socket outlives the screen."""
        self._feed.close()

    def _on_event(self, event: Event) -> None:
        now_ns = self._feed.now_ns()
        awaited = isinstance(event, TimelineReply) or (
            isinstance(event, Detail) and self._world.details.age_s(detail_kind(event), now_ns) < 0
        )
        self._world.apply(event, now_ns)
        if awaited:
            self.call_later(self._refresh)

    def _ask(self) -> None:
        with suppress(NoMatches):  # a dialog is in front
            self._view().ask(self._feed, self._world)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What is drawn passes these on its way out."""
        filters = super().get_line_filters()
        return [*filters, self._ascii_only] if self._glyphs is ASCII else filters

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _view(self) -> View:
        view = self.query_one(ContentSwitcher).visible_content
        assert isinstance(view, View)
        return view

    def _refresh(self) -> None:
        # No match: a dialog is in front, about what was seen when it was opened; or the end has come, at which a screen
        # loses its widgets one by one.
        with suppress(NoMatches):
            self._draw()

    def _draw(self) -> None:
        scene = Scene(self._world, self._glyphs, self._feed.now_ns())
        width = self.size.width
        status = bars.Status(self._feed.label, self._paused, self._wall_clock())
        with self.batch_update():
            self._say("#top", bars.top_bar(scene, status, self._host, width))
            self._say("#alarm", bars.alarm_line(scene, width))
            keys = bars.key_lines(
                self._screen_keys(), self._keys(), self._active_title(), width,
                2 if self.size.height >= TALL else 1, may_act=self._operator.may_act,
            )  # fmt: skip
            self._say("#keys", keys)
            self.query_one("#views").set_class(self._world.stale(scene.now_ns), "-stale")
            if not self._paused:
                self._view().show(scene)

    def _say(self, line: str, text: Text) -> None:
        """On a line of the frame; only what is new is drawn, and nothing is laid out anew."""
        if self._said.get(line) != text:
            self._said[line] = text
            self.query_one(line, Static).update(text, layout=False)

    def _keys(self, *, all: bool = False) -> list[tuple[str, str]]:
        """Keys that work now, the screen's own first, help and quit last; for the key line those that matter most."""
        view = self._view()
        tables = LiveTable.BINDINGS if view.query(LiveTable) else []
        bindings = [*view.BINDINGS, *tables, *self.BINDINGS[len(VIEWS) :]]
        return [
            (self._key(binding), binding.description)
            for binding in bindings
            if isinstance(binding, Binding) and binding.description and (all or binding.show)
        ]

    def _key(self, binding: Binding) -> str:
        """As it is drawn: the operator's own, else ours."""
        return self._keymap_given.get(binding.id or "", binding.key_display or binding.key)

    def _screen_keys(self) -> list[tuple[str, str]]:
        there = [view for view in VIEWS if not view.needs or view.needs in self._world.processes]
        return [(self._keymap_given.get(f"view.{view.id}", view.key), view.title) for view in there]

    def _active_title(self) -> str:
        return shown(self._view().id or FIRST.id).title

    # --- looking ---------------------------------------------------------------------------------------------------

    def action_view(self, name: str) -> None:
        """Show another screen."""
        switcher = self.query_one(ContentSwitcher)
        if switcher.current != name:
            self._before, switcher.current = switcher.current or FIRST.id, name
            self._ask()
        self._view().focus_first()
        self._refresh()
        self.call_after_refresh(self._refresh)

    def action_before(self) -> None:
        """Show the screen that was in view before."""
        self.action_view(self._before)

    def on_jump(self, jump: Jump) -> None:
        """Show a thing on its own screen."""
        to = jump.to
        self.action_view(to.view)
        view = self._view()
        if to.filter:
            view.filter(to.filter)
        elif to.subject and not view.point_at(to.subject):
            view.filter("")  # it may be what hides it
            self._refresh()
            if not view.point_at(to.subject):
                self.notify(f"{sanitize(to.subject, 64)} is not there", severity="warning", markup=False)

    def action_pause(self) -> None:
        """Stop or go on drawing; the world goes on."""
        self._paused = not self._paused
        self._refresh()

    def action_help(self) -> None:
        """Keys of this screen."""
        self.push_screen(HelpScreen(self._active_title(), [*self._screen_keys(), *self._keys(all=True)], self._glyphs))

    def action_filter(self) -> None:
        """Open the prompt."""
        self.query_one(Prompt).open()

    def on_prompt_closed(self, closed: Prompt.Closed) -> None:
        """Filter the view, unless the prompt was left."""
        view = self._view()
        if closed.text is not None:
            view.filter(closed.text)
        view.focus_first()

    def on_timeline_wanted(self, wanted: TimelineWanted) -> None:
        """Ask the feed."""
        self._feed.ask_timeline(wanted.request)

    # --- acting ----------------------------------------------------------------------------------------------------

    def on_ordered(self, ordered: Ordered) -> None:
        """Ask first."""
        self._operator.want(ordered.order)

    def action_order(self, verb: str) -> None:
        """Other limits for the model under the cursor, or for the only one."""
        assert verb == "limit"
        model = self._view().model()
        served = [load.model for load in self._world.models]
        if model not in served and len(served) == 1:
            model = served[0]
        if model in served:
            self._operator.want_limits(model)
        else:
            self.notify("put the cursor on a model, its scheduler or a worker", severity="warning", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """See `View.check_action`."""
        return None if action == "order" and not self._operator.may_act else True

    def action_command(self) -> None:
        """Open the command line."""
        self.query_one(CommandLine).open(self._operator.keepsakes.history, self._operator.known_lines())

    def on_command_line_closed(self, closed: CommandLine.Closed) -> None:
        """Do it, unless the line was left."""
        self._view().focus_first()
        if closed.text is not None:
            self._operator.command(closed.text)

    def action_palette(self) -> None:
        """Let a command be chosen."""
        self._operator.palette()

    def _look_so(self, saved: SavedView) -> None:
        if saved.view in {view.id for view in VIEWS}:
            self.action_view(saved.view)
            self._view().look_so(saved)


def bindings_of(view: type[View]) -> list[BindingType]:
    """The keys that are in force on a screen, beside the application's own."""
    return [*view.BINDINGS, *(LiveTable.BINDINGS if view.TABLES else [])]


def run(
    config: Config,  # noqa: ARG001  every command takes it; the screen finds all it needs in the run directory
    *,
    replay: Path | None = None,
    ascii: bool = False,
    once: bool = False,
    json: bool = False,
    plain: bool = False,
    keeper: Keeper | None = None,
) -> int:
    """Show the screen, or print what it would show.

    Args:
        replay: play this recording instead of the live feed.
        ascii: draw with ASCII characters only.
        once: print one snapshot and end.
        json: print JSON; implies `once`.
        plain: print lines instead of drawing, once a refresh until interrupted.
        keeper: restarts processes where no supervisor does.

    Returns:
        0; 69 where the metrics process does not answer; 66 where the recording cannot be read; 78 for a bad key map.
    """
    try:
        make_feed = _feed_maker(replay, keeper, at_once=once or json or plain)
    except (BadRecording, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_NO_INPUT
    try:
        scopes = [(*HeadraceTop.BINDINGS, *bindings_of(view.make)) for view in VIEWS]
        keymap = read_keymap(find_keymap(), scopes)
    except BadKeymap as bad:
        print(bad, file=sys.stderr)
        return EXIT_CONFIG
    if once or json or plain:
        return print_feed(make_feed, json=json, once=once or json or replay is not None)
    glyphs = ASCII if ascii else UNICODE
    HeadraceTop(make_feed, glyphs, keepsakes=Keepsakes(own_directory()), keymap=keymap).run()
    return 0


def _feed_maker(replay: Path | None, keeper: Keeper | None, *, at_once: bool) -> Callable[[], Feed]:
    if replay is None:
        return lambda: LiveFeed(GuestLoop(), keeper=keeper)
    recorded = list(read(replay))
    return lambda: ReplayFeed(recorded, None if at_once else GuestLoop())
