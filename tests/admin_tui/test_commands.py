"""The command line, the palette's lines and what may be typed: pure."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_tui.actions import VERBS, Order
from admin_tui.commands import BadCommand, Forget, Key, Recall, Save, Show, parse_command, ranked, suggestions
from admin_tui.recording import Recorded
from admin_tui.views import VIEWS
from admin_tui.world import World
from bus.messages.control import LimitValues

IDS = tuple(view.id for view in VIEWS)


@pytest.fixture
def world(demo: list[Recorded]) -> World:
    world = World()
    for recorded in demo:
        world.apply(recorded.event, 1)
    return world


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fleet", Show("fleet")),
        (":fle", Show("fleet")),
        ("req tenant=acme state=running", Show("requests", "tenant=acme state=running")),
        ("logs unit=kv@host \"no room\"", Show("logs", 'unit=kv@host "no room"')),
        ("save late ones", None),
        ("save late", Save("late")),
        ("view mine", Recall("mine")),
        ("forget mine", Forget("mine")),
        ("quit", Key("quit")),
        ("drain worker@smollm2.0.0 --deadline 2m --reason 'new disk'",
         Order("drain", "worker@smollm2.0.0", reason="new disk", seconds=120.0)),
        ("drain worker@smollm2.0.0 --deadline=30s", Order("drain", "worker@smollm2.0.0", seconds=30.0)),
        ("limit smollm2 slots=4 inter_token_target_ms=80.5",
         Order("limit", "smollm2", limits=LimitValues(slots=4, inter_token_target_ms=80.5))),
        ("ack late worker@smollm2.1.0 disk is being replaced",
         Order("acknowledge", "worker@smollm2.1.0", reason="disk is being replaced", code="late")),
        ("silence queue-growing smollm2 --for 2h",
         Order("silence", "smollm2", seconds=7200.0, code="queue-growing")),
    ],
)  # fmt: skip
def test_a_line_is_a_command(world: World, line: str, wanted: object) -> None:
    if wanted is None:
        with pytest.raises(BadCommand):
            parse_command(line, world, IDS, ["mine"])
    else:
        assert parse_command(line, world, IDS, ["mine"]) == wanted


def test_a_request_is_named_by_the_end_of_its_id(world: World) -> None:
    live = world.requests[0]
    order = parse_command(f"cancel {live.request:x} --reason 'runs away'", world, IDS, [])
    assert order == Order("cancel", live.model, live.request, "runs away")
    with pytest.raises(BadCommand, match="no such request is in hand"):
        parse_command("cancel 0123456789", world, IDS, [])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("drian worker@smollm2.0.0", "drain\\?"),
        ("dr worker@smollm2.0.0", "no such screen or verb"),  # what acts is written in full
        ("drain worker@smollm2.0.9", "worker@smollm2.0.0"),
        ("drain", "drain PROCESS"),
        ("drain worker@smollm2.0.0 --dedline 3s", "--deadline, --reason"),
        ("drain worker@smollm2.0.0 --deadline soon", "30s, 5m"),
        ("drain worker@smollm2.0.0 --reason", "needs a value"),
        ("limit smollm2 slot=4", "slots"),
        ("limit smollm2 slots=four", "no such number"),
        ("limit smolm slots=4", "smollm2"),
        ("ack gone kv@host", "is not there"),
        ("view nothing", "there are mine"),
        ("'", "No closing quotation"),
        ("", "a screen, or a verb"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(world: World, line: str, says: str) -> None:
    with pytest.raises(BadCommand, match=says):
        parse_command(line, world, IDS, ["mine"])


@given(st.text(max_size=60))
def test_any_line_is_a_command_or_is_told_why_not(line: str) -> None:
    with contextlib.suppress(BadCommand):
        assert parse_command(line, World(), IDS, [])


def test_every_suggestion_is_a_command(world: World) -> None:
    lines = suggestions(world, IDS, ["mine"])
    for line in lines:
        parse_command(line, world, IDS, ["mine"])
    assert {line.split()[0] for line in lines} >= {"drain", "restart", "kill", "cancel", "acknowledge", "silence"}
    assert {line.split()[0] for line in lines} <= {*IDS, *VERBS, "view", "help", "pause", "quit"}


@given(st.lists(st.text("ab @", max_size=8), max_size=8), st.text("ab ", max_size=5))
def test_ranking_keeps_what_fits_and_loses_nothing_else(lines: list[str], typed: str) -> None:
    kept = ranked(lines, typed)
    assert sorted(kept) == sorted(line for line in lines if all(word in line.lower() for word in typed.split()))
