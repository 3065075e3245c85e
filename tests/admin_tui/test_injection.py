"""Names and texts from outside reach the screen as text: no escape sequence, no markup, no crash."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin_tui import plain
from admin_tui.acted import Actions, Logged
from admin_tui.app import HeadraceTop
from admin_tui.chrome.command import CommandLine
from admin_tui.details import Detail
from admin_tui.recording import Recorded, read
from admin_tui.views import VIEWS
from admin_tui.world import NO_PAGES, World
from bus.actionlog import ActionRecord
from bus.logread.records import LogRecord
from bus.messages.control import Access, FindingNote, Fleet, Notes, UnitStatus
from bus.messages.observe import Finding, FinishedRequest, ModelLoad, Snapshot, TimelineReply
from bus.messages.telemetry import LiveRequest, Sample, Series, TimelineEvent

DEMO = Path(__file__).parent / "data" / "demo.ndjson"
ATTACKS = [
    "\x1b]2;PWNED-TITLE\x07",
    "\x9b31m\x9d0;x\x9c",
    "[/red][bold]x[/bold][@click=app.quit]y[/]",
    "$(reboot) \r\n\t\u202egnp",
    "\u202aa\u202bb\u202cc\u202dd\u2066e\u2067f\u2068g\u2069h",
]


def evil(text: str) -> list[Recorded]:
    """A feed in which every text is this one."""
    model = msgspec.structs.replace(ModelLoad(text, 1, 1, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1.0, 0, 0), model=text)
    series = (Series("headrace_x", "gauge", (("label", text),), 1.0),)
    snapshot = Snapshot(
        0, 1, 5_000_000_000,
        (Sample(text, "worker", 1, 1, "ready", 0, 0, False, 0.0, 0, series),),
        (model,), NO_PAGES,
        (LiveRequest(7, text, text, "decode", 1, 1, 1, 1, 0, 2, 1, 1, 0, 0),), 1,
        (Finding("late", "warn", text, text, 0, text), Finding(text, text, text, text, 0, text)),
        (FinishedRequest(8, text, text, 1, 1, 1, 1, 0, 1),),
    )  # fmt: skip
    timeline = TimelineReply(0, 7, tuple(
        TimelineEvent(7, at, kind, 1, 1, text)  # type: ignore[arg-type]
        for at, kind in enumerate(("received", "held", "admitted", "chunk", "preempted", "resumed", "refused"))
    ))  # fmt: skip
    fleet = Fleet(0, (UnitStatus(text, 3, "ready", 2, 1.0, text),), text)
    record = LogRecord(1e9, "error", text, text, (text,), "7")
    action = ActionRecord(
        at=1e9, process=text, uid=1, user=text, pid=1, program=text, verb=text, object=text, result="denied",
        reason=text, detail=text, before=text, after=text,
    )  # fmt: skip
    note = FindingNote("late", text, "silenced", text, text, 1.0, 2.0)
    people = (
        Logged((record,), text, text, 1), Actions((action,)), Actions((action,), text), Notes(0, (note,)),
        Access(0, "admin", text, text),
    )  # fmt: skip
    return [Recorded(0.0, event) for event in (snapshot, fleet, timeline, *evil_details(text), *people)]


def evil_details(text: str) -> list[Detail]:
    """The answers of the demo, with every text in them replaced by this one."""
    answers = {type(r.event): r.event for r in read(DEMO) if isinstance(r.event, Detail)}
    return [spoiled(answer, text) for answer in answers.values()]


CHOSEN = ("bound", "kind", "state")  # literals, which a decoder checks


def spoiled(value: Any, text: str, field: str = "") -> Any:
    """The same with other text, all the way down."""
    if isinstance(value, msgspec.Struct):
        fields = {name: spoiled(part, text, name) for name, part in msgspec.structs.asdict(value).items()}
        return msgspec.structs.replace(value, **fields)
    if isinstance(value, tuple):
        return tuple(spoiled(item, text, field) for item in value)
    return text if isinstance(value, str) and field not in CHOSEN else value


def characters(app: HeadraceTop) -> str:
    """What would go to the terminal, without the styles."""
    width, height = app.size
    lines = app.screen._compositor.render_strips() if height else []
    assert width
    return "".join(segment.text for strip in lines for segment in strip)


@pytest.mark.parametrize("text", ATTACKS)
async def test_no_screen_lets_an_attack_through(make_app: Callable[..., HeadraceTop], text: str) -> None:
    app = make_app(evil(text))
    async with app.run_test(size=(120, 34)) as pilot:
        screens = [[view.key] for view in VIEWS]
        for keys in (
            *screens, ["4", "enter"], ["escape", "X"], ["escape", "2", "R"], ["escape", "K"],
            ["escape", "9"], ["enter"], ["enter", "u"], ["0"], ["tab"], ["A"], ["escape", "Z"], ["escape", "ctrl+p"],
            ["escape", "colon", text, "enter"],
        ):  # fmt: skip
            for key in keys:
                if key == text:
                    app.query_one(CommandLine).value = text
                    continue
                await pilot.press(key)
            await pilot.pause()
            drawn = characters(app)
            assert len(drawn) == 120 * 34
            assert not [c for c in drawn if unicodedata.category(c) in ("Cc", "Cf")], keys


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_plain_lines_are_lines(text: str) -> None:
    world = World()
    for recorded in evil(text):
        world.apply(recorded.event, 1)
    for line in plain.lines(world, 2):
        assert len(line.splitlines()) == 1
        assert not [c for c in line if unicodedata.category(c)[0] == "C"]
    msgspec.json.decode(plain.as_json(world, 2))
