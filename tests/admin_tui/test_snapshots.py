"""Each screen as a picture, at three sizes. Update after looking: `pytest --snapshot-update`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from admin_tui.app import HeadraceTop
from admin_tui.glyphs import ASCII
from admin_tui.keeping import Service
from admin_tui.recording import Recorded
from admin_tui.world import LinkDown, Services, SupervisorGone
from bus.messages.control import Fleet
from bus.messages.details import PagesReply

SIZES = [(80, 24), (120, 34), (160, 50)]
SCREENS = {
    "pulse": ["1"],
    "fleet": ["2", "end"],
    "host": ["3"],
    "requests": ["4"],
    "scheduler": ["5"],
    "kv": ["6"],
    "models": ["7"],
    "bus": ["8", "end"],
    "timeline": ["4", "down", "enter"],
    "kill": ["2", "end", "K"],
    "help": ["4", "question_mark"],
}
MakeApp = Callable[..., HeadraceTop]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(snap_compare: Any, make_app: MakeApp, screen: str, size: tuple[int, int]) -> None:
    assert snap_compare(make_app(), press=SCREENS[screen], terminal_size=size)


@pytest.mark.parametrize("screen", ["pulse", "host", "scheduler", "kv"])
def test_ascii(snap_compare: Any, make_app: MakeApp, screen: str) -> None:
    assert snap_compare(make_app(glyphs=ASCII), press=SCREENS[screen], terminal_size=(120, 34))


@pytest.mark.parametrize("screen", ["fleet", "scheduler", "kv"])
def test_without_colour(snap_compare: Any, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, screen: str) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(make_app(), press=SCREENS[screen], terminal_size=(120, 34))


def test_nothing_heard_yet(snap_compare: Any, make_app: MakeApp) -> None:
    assert snap_compare(make_app([]), press=["1"], terminal_size=(120, 34))


def test_what_kv_said_is_old(snap_compare: Any, make_app: MakeApp, demo: list[Recorded]) -> None:
    """The metrics process answers, and passes on what kv said half a minute ago."""
    (*_, last) = (r for r in demo if isinstance(r.event, PagesReply))
    assert isinstance(last.event, PagesReply)
    late = msgspec.structs.replace(last.event, at_ns=last.event.heard_ns + 30_000_000_000)
    others = [recorded for recorded in demo if not isinstance(recorded.event, PagesReply)]
    assert snap_compare(make_app([*others, last._replace(event=late)]), press=["6"], terminal_size=(120, 34))


@pytest.mark.parametrize("size", [*SIZES, (200, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_fleet_under_systemd(
    snap_compare: Any, make_app: MakeApp, demo: list[Recorded], size: tuple[int, int]
) -> None:
    """No supervisor is there, and systemd says how its units are."""
    (fleet, *_) = (recorded.event for recorded in demo if isinstance(recorded.event, Fleet))
    services = tuple(
        Service(
            unit.name, f"headrace-{unit.name.replace('@host', '')}.service", unit.state, "active (running)", unit.pid,
            index % 3, 3600.0 + index, (80 + 300 * index) << 20, (index % 2) * (8 << 30),
            "killed by SIGSEGV" if index == 1 else "no progress within WatchdogSec=: killed by SIGABRT" * (index == 2),
        )
        for index, unit in enumerate(fleet.units)
    )  # fmt: skip
    said = [recorded for recorded in demo if not isinstance(recorded.event, Fleet)]
    under = [Recorded(0.0, SupervisorGone()), Recorded(0.0, Services(services)), *said]
    assert snap_compare(make_app(under), press=["2", "home", "down"], terminal_size=size)


def test_the_bus_is_gone(snap_compare: Any, make_app: MakeApp, demo: list[Recorded]) -> None:
    gone = [*demo, Recorded(demo[-1].t + 12, LinkDown("died"))]
    assert snap_compare(make_app(gone), press=["2"], terminal_size=(120, 34))
