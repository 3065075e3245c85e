"""The recording that screens are tested on, and the application on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from admin_tui.app import HeadraceTop
from admin_tui.glyphs import UNICODE, Glyphs
from admin_tui.recording import Recorded, read
from admin_tui.replay import ReplayFeed

sys.path.insert(0, str(Path(__file__).parent))  # tests import what they share from beside them

from settling import settle

DEMO = Path(__file__).parent / "data" / "demo.ndjson"


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pilots wait for screens to be at rest, and not for some time."""
    monkeypatch.setattr("textual.pilot.wait_for_idle", settle)
    monkeypatch.setattr("textual.app.wait_for_idle", settle)
    monkeypatch.setattr(
        "textual.widgets.Input._toggle_cursor", lambda _: None
    )  # a picture has it, however long it took


@pytest.fixture(scope="session")
def demo() -> list[Recorded]:
    """The events of the recording."""
    return list(read(DEMO))


@pytest.fixture
def make_app(demo: list[Recorded]) -> Callable[..., HeadraceTop]:
    """An application at the end of the recording, or of other events, with a clock that stands."""

    def make(events: list[Recorded] | None = None, glyphs: Glyphs = UNICODE) -> HeadraceTop:
        recorded = demo if events is None else events
        return HeadraceTop(lambda: ReplayFeed(recorded), glyphs, lambda: "12:00:00", "gpu-07")

    return make
