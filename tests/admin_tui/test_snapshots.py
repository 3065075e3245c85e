"""Each screen as a picture, at the smallest and at the usual size. Update after looking: `pytest --snapshot-update`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from admin_tui.app import HeadraceTop
from admin_tui.glyphs import ASCII
from admin_tui.recording import Recorded
from admin_tui.world import LinkDown

SIZES = [(80, 24), (120, 34)]
SCREENS = {
    "pulse": ["1"],
    "fleet": ["2", "end"],
    "requests": ["4"],
    "timeline": ["4", "down", "enter"],
    "kill": ["2", "end", "K"],
    "help": ["4", "question_mark"],
}
MakeApp = Callable[..., HeadraceTop]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(snap_compare: Any, make_app: MakeApp, screen: str, size: tuple[int, int]) -> None:
    assert snap_compare(make_app(), press=SCREENS[screen], terminal_size=size)


def test_ascii(snap_compare: Any, make_app: MakeApp) -> None:
    assert snap_compare(make_app(glyphs=ASCII), press=["1"], terminal_size=(120, 34))


def test_nothing_heard_yet(snap_compare: Any, make_app: MakeApp) -> None:
    assert snap_compare(make_app([]), press=["1"], terminal_size=(120, 34))


def test_the_bus_is_gone(snap_compare: Any, make_app: MakeApp, demo: list[Recorded]) -> None:
    gone = [*demo, Recorded(demo[-1].t + 12, LinkDown("died"))]
    assert snap_compare(make_app(gone), press=["2"], terminal_size=(120, 34))
