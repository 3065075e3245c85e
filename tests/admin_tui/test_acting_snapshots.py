"""Logs, alarms and the dialogs as pictures. Update after looking: `pytest --snapshot-update`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from admin_tui.acted import Actions, Logged
from admin_tui.app import HeadraceTop
from admin_tui.recording import Recorded
from bus.actionlog import ActionRecord
from bus.logread.records import Level, LogRecord
from bus.messages.control import Access, FindingNote, Notes

NOON = 1_700_049_600.0  # of a day; snapshots are drawn in UTC
SAID: tuple[tuple[str, Level, str], ...] = (
    ("supervisor@host", "info", "worker@smollm2.1.0: started again pid=4811"),
    ("scheduler@smollm2", "warning", "replica 1 is lost: worker@smollm2.1.0 died"),
    ("ingress@0", "error", "a request failed: step 8100731 failed request=9f31a2"),
    ("kv@host", "info", "worker@smollm2.1.0 is gone pid=4790 epoch=318"),
    ("worker@smollm2.1.0", "info", "loaded model.gguf in 0.05 s computed in=the file's own bits"),
)
LOGGED = Logged(
    tuple(
        LogRecord(NOON + 0.7 * n, level, unit, text, ("Traceback", "RuntimeError: boom") if level == "error" else (),
                  "9f31a2" if "request=" in text else "")
        for n in range(12) for unit, level, text in SAID
    ),
    "journal", "", 3,
)  # fmt: skip
DONE = Actions((
    ActionRecord(at=NOON, process="supervisor@host", uid=1000, user="ada", pid=4112, program="tui", verb="drain",
                 object="worker@smollm2.1.0", result="done", reason="disk is being replaced",
                 detail="worker@smollm2.1.0 takes nothing new"),
    ActionRecord(at=NOON + 60, process="scheduler@smollm2", uid=1000, user="ada", pid=4112, program="tui", verb="limit",
                 object="scheduler@smollm2", result="done", reason="evening load", before="slots=16", after="slots=4"),
    ActionRecord(at=NOON + 90, process="scheduler@smollm2", uid=1007, user="eve", pid=51, program="cli", verb="cancel",
                 object="request 9f31a2", result="denied", detail="eve may look and not act"),
))  # fmt: skip
MINE = Notes(0, (FindingNote("late", "worker@smollm2.1.0", "acknowledged", "ada", "disk is being replaced", NOON),))
SCREENS = {
    "logs": ["9", "enter", "up", "up"],
    "alarms": ["0", "down"],
    "actions": ["0", "tab", "down"],
    "drain": ["2", "down", "down", "D"],
    "palette": ["ctrl+p", *"drain worker"],
    "command": ["2", "colon", *"drain kv"],
    "limit": ["7", "down", "L"],
}


@pytest.fixture
def app(make_app: Callable[..., HeadraceTop], demo: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    events = [*demo, *(Recorded(demo[-1].t, event) for event in (LOGGED, DONE, MINE))]
    yield lambda *more: make_app([*events, *(Recorded(demo[-1].t, event) for event in more)])
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", [(80, 24), (120, 34)], ids=["80x24", "120x34"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(snap_compare: Any, app: Any, screen: str, size: tuple[int, int]) -> None:
    assert snap_compare(app(), press=SCREENS[screen], terminal_size=size)


def test_keys_that_act_are_grey_for_a_viewer(snap_compare: Any, app: Any) -> None:
    viewer = Access(0, "viewer", "eve", "root and members of group headrace-admin")
    assert snap_compare(app(viewer), press=["2"], terminal_size=(120, 34))
