"""Rows and drawings of the screens that ask for details: what follows from an answer, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import Color, ColorSystem
from rich.text import Text

from admin_tui import palette
from admin_tui.bus import rows as bus_rows
from admin_tui.details import Detail
from admin_tui.draw import Box, Field, columns_spark, cut, grid
from admin_tui.glyphs import ASCII, UNICODE
from admin_tui.host import machine
from admin_tui.host import rows as host_rows
from admin_tui.kv import arena
from admin_tui.kv import rows as kv_rows
from admin_tui.look import Look
from admin_tui.models import rows as model_rows
from admin_tui.models import usage
from admin_tui.panel import OLD_S, UNKNOWN, Scene, age_of
from admin_tui.recording import Recorded
from admin_tui.scheduler import bounds
from admin_tui.scheduler import rows as step_rows
from admin_tui.world import World
from bus.messages.details import BoundShare, BusReply, Gpu, HostReply, ModelsReply, ModelSteps, PagesReply, StepsReply
from bus.messages.usage import UsageReply
from bus.messages.vitals import MAP_STATES

SECOND = 1_000_000_000
BOX = Box(110, 20, UNICODE)


@pytest.fixture(scope="module")
def answers(demo: list[Recorded]) -> dict[type, Detail]:
    """The last answer of each kind."""
    return {type(recorded.event): recorded.event for recorded in demo if isinstance(recorded.event, Detail)}


@pytest.fixture(scope="module")
def scene(demo: list[Recorded], answers: dict[type, Detail]) -> Scene:
    world = World()
    for recorded in demo:
        world.apply(recorded.event, SECOND)
    for answer in answers.values():
        world.apply(answer, SECOND)
    return Scene(world, UNICODE, SECOND)


@pytest.fixture(scope="module")
def steps(answers: dict[type, Detail]) -> ModelSteps:
    reply = answers[StepsReply]
    assert isinstance(reply, StepsReply)
    return reply.models[0]


def having(scene: Scene, *details: Detail) -> Scene:
    """The same world after other answers."""
    world = World()
    world.models, world.processes, world.units = scene.world.models, scene.world.processes, scene.world.units
    for detail in details:
        world.apply(detail, SECOND)
    return scene._replace(world=world)


def plain(lines: Sequence[Text]) -> str:
    return "\n".join(line.plain for line in lines)


# --- scheduler ------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=len(bounds.BOUNDS) - 1), st.floats(0, 1))
def test_bounds_and_idle_time_are_all_of_the_time(amounts: list[float], idle: float) -> None:
    names = [name for name in bounds.BOUNDS if name != bounds.IDLE]
    whole = sum(amounts)
    told = tuple(BoundShare(name, 10, a / whole) for name, a in zip(names, amounts, strict=False))  # type: ignore[arg-type]
    given_steps = msgspec.structs.replace(NO_STEPS, window=10, idle_share=idle, bounds=told)
    found = bounds.shares(given_steps)
    assert sum(share.share for share in found) == pytest.approx(1.0)
    assert [share.share for share in found] == sorted((share.share for share in found), reverse=True)


NO_STEPS = ModelSteps("m", "scheduler@m", 1, 0, 0, 0.0, 0.0, 0.0, (), 0.0, 0.0, (), -1.0, 0.0, 0.0, 0.0, (), (), (), ())


def test_the_verdict_names_the_worst_bound_and_what_helps() -> None:
    told = (BoundShare("demand", 700, 0.7), BoundShare("kv_pages", 200, 0.2), BoundShare("slots", 100, 0.1))
    what, helps = bounds.verdict(msgspec.structs.replace(NO_STEPS, window=1000, bounds=told))
    assert what.plain.startswith("20 % of the time by KV pages: ")
    assert "arena" in helps.plain
    well = msgspec.structs.replace(
        NO_STEPS, window=1000, bounds=(BoundShare("demand", 990, 0.99), BoundShare("slots", 1, 0.01))
    )
    assert "nothing holds it back" in bounds.verdict(well)[0].plain
    assert bounds.verdict(NO_STEPS)[0].plain == "no steps yet"


def test_every_bound_that_is_trouble_says_what_helps() -> None:
    for name, bound in bounds.BOUNDS.items():
        assert bound.why, name
        assert bool(bound.helps) == (name not in (bounds.IDLE, "demand", "prefix", "trial")), name


def test_steps_are_rows_and_slow_ones_are_faults(steps: ModelSteps) -> None:
    line = msgspec.structs.replace(steps.lines[0], step=7, ran_ns=30_000_000, predicted_ns=10_000_000)
    quick = msgspec.structs.replace(line, step=8, ran_ns=11_000_000)
    some = msgspec.structs.replace(steps, lines=(line, quick))
    look = Look("step")
    assert [row.key for row in step_rows.rows(some, look)] == [step_rows.key(quick), step_rows.key(line)]
    assert [row.key for row in step_rows.rows(some, look._replace(faults_only=True))] == [step_rows.key(line)]
    assert step_rows.rows(some, look)[1].cells["off"].plain == "+200 %"
    assert step_rows.rows(None, look) == []


def test_a_limit_that_was_lowered_is_marked(steps: ModelSteps) -> None:
    knob = msgspec.structs.replace(steps.knobs[0], value=16, default=64)
    text = plain(step_rows.knobs(msgspec.structs.replace(steps, knobs=(knob,)), BOX))
    assert "16 ▲ not 64" in text
    assert "▲" not in plain(step_rows.knobs(steps, BOX))


# --- host ------------------------------------------------------------


def test_cores_are_drawn_in_the_first_way_that_fits(answers: dict[type, Detail]) -> None:
    host = answers[HostReply]
    assert isinstance(host, HostReply)
    heights = [len(machine.cores(host, Box(116, height, UNICODE))) for height in (99, 14, 5, 2)]
    assert heights[0] == len(host.cores) + len(host.nodes)
    assert heights[0] > heights[1] > heights[2]
    assert heights == [h for h, room in zip(heights, (99, 14, 5, 2), strict=True) if h <= room]
    assert "cpu 0" in plain(machine.cores(host, Box(116, 99, UNICODE)))


def test_a_core_slower_than_its_peers_is_marked_and_all_at_the_same_clock_are_not(answers: dict[type, Detail]) -> None:
    host = answers[HostReply]
    assert isinstance(host, HostReply)
    same = tuple(msgspec.structs.replace(core, busy=0.9, mhz=2_400, steal=0.0) for core in host.cores)
    assert "▲" not in plain(machine.cores(msgspec.structs.replace(host, cores=same), Box(116, 99, UNICODE)))
    one = (msgspec.structs.replace(same[0], mhz=1_200), *same[1:])
    assert plain(machine.cores(msgspec.structs.replace(host, cores=one), Box(116, 99, UNICODE))).count("▲") == 1


def test_a_gpu_says_why_it_is_slow(answers: dict[type, Detail]) -> None:
    host = answers[HostReply]
    assert isinstance(host, HostReply)
    gpu = Gpu(
        3, "H100", "41:00", 0.62, 71 << 30, 80 << 30, 410, 700, 61, 1290, 1980, 5 << 30, 1 << 30, 2, ("power cap",)
    )
    text = plain(machine.gpus(msgspec.structs.replace(host, gpus=(gpu,)), BOX))
    assert "71G/80G" in text
    assert "▲ GPU 3: power cap" in text
    unknown = Gpu(0, "?", "", -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)
    assert "-1" not in plain(machine.gpus(msgspec.structs.replace(host, gpus=(unknown,)), BOX))


def test_a_rank_that_holds_up_its_peers_is_a_fault(scene: Scene, answers: dict[type, Detail]) -> None:
    host = answers[HostReply]
    assert isinstance(host, HostReply)
    slow = msgspec.structs.replace(host.workers[0], step_s=0.018, skew_s=0.007)
    level = msgspec.structs.replace(host.workers[1], step_s=0.011, skew_s=0.0, node=-1)
    there = having(scene, msgspec.structs.replace(host, workers=(slow, level)))
    assert [row.key for row in host_rows.rows(there, Look("worker", faults_only=True))] == [slow.name]
    assert host_rows.rows(there, Look("skew"))[0].cells["skew"].plain == "+7 ms ▲"


# --- kv ------------------------------------------------------------


@given(st.binary(max_size=2048), st.integers(1, 120), st.integers(1, 20))
def test_a_map_fits_and_loses_no_trouble(codes: bytes, width: int, height: int) -> None:
    pages = msgspec.structs.replace(NO_PAGES, map=codes)
    drawn = arena.map_lines(pages, Box(width, height, ASCII))
    if codes:
        assert len(drawn) <= height
        assert all(line.cell_len <= width for line in drawn)
        assert (MAP_STATES.index("lost") in codes) == ("x" in plain(drawn))


NO_PAGES = PagesReply(0, 0, 1, 0, 0, 0, 0, False, 0.0, 0.0, 0.0, 0.0, -1.0, (), (), (), (), b"", b"", 0)


def test_a_lease_of_a_dead_incarnation_comes_first_and_says_who_may_still_write(scene: Scene) -> None:
    rows = kv_rows.holders(scene, Look("leased"))
    assert rows[0].cells["state"].plain == "▲ stale"
    assert rows[0].cells["writers"].plain != "-"
    assert [row.cells["state"].plain for row in rows[1:]] == ["● ok"] * (len(rows) - 1)
    assert kv_rows.holders(scene, Look("leased", faults_only=True)) != rows


def test_a_prefix_leads_to_requests_that_found_as_much(scene: Scene) -> None:
    (row, *_) = kv_rows.prefixes(scene, Look("saved"))
    link = kv_rows.requests_with(scene, row.key)
    assert link is not None
    assert link.view == "requests"
    assert link.filter.startswith("model=")
    assert kv_rows.requests_with(scene, "nothing") is None


# --- models, bus ------------------------------------------------------------


def test_the_balance_sheet_keeps_its_last_line_whatever_fits(answers: dict[type, Detail]) -> None:
    reply = answers[ModelsReply]
    assert isinstance(reply, ModelsReply)
    for height in range(2, len(reply.sheet) + 2):
        drawn = model_rows.memory(reply, Box(100, height, UNICODE))
        assert len(drawn) <= height
        assert "available" in drawn[-1].plain


def test_usage_says_what_a_million_tokens_cost_and_no_cost_without_a_price(
    answers: dict[type, Detail],
) -> None:
    reply = answers[UsageReply]
    assert isinstance(reply, UsageReply)
    text = plain(usage.lines(reply, BOX))
    assert "idle 37.15 EUR" in text
    assert "0.18" in text.splitlines()[-1]
    free = plain(usage.lines(msgspec.structs.replace(reply, currency="", problem="disk full"), BOX))
    assert "COST" not in free
    assert "no price set" in free
    assert "▲ disk full" in free
    for height in range(4, 8):
        assert len(usage.lines(reply, Box(100, height, UNICODE))) <= height


def test_a_model_without_replicas_is_dead_and_one_nobody_serves_is_off(scene: Scene) -> None:
    load = scene.world.models[0]
    there = having(scene)
    there.world.models = (msgspec.structs.replace(load, replicas_ready=0),)
    there.world.processes = {}
    there.world.units = {}
    assert model_rows.condition(there, load.model) == "dead"
    assert model_rows.condition(there, "other") == "off"


def test_a_door_whose_peer_is_silent_or_does_not_read_is_a_fault(scene: Scene, answers: dict[type, Detail]) -> None:
    reply = answers[BusReply]
    assert isinstance(reply, BusReply)
    endpoint = next(e for e in reply.endpoints if e.door.peers and e.door.queue_limit)
    assert not bus_rows.faulty(endpoint)
    first, *others = endpoint.door.peers
    for change in ({"silent_ns": 9 * SECOND}, {"queue": endpoint.door.queue_limit}):
        door = msgspec.structs.replace(endpoint.door, peers=(msgspec.structs.replace(first, **change), *others))
        bad = msgspec.structs.replace(endpoint, door=door)
        there = having(scene, msgspec.structs.replace(reply, endpoints=(bad, endpoint)))
        assert len(bus_rows.rows(there, Look("owner", faults_only=True))) == 1
        assert bus_rows.peers(there, bus_rows.key(bad), Look("silent", faults_only=True))


# --- age ------------------------------------------------------------


def test_the_age_of_an_answer_has_the_age_of_what_was_said_in_it(scene: Scene, answers: dict[type, Detail]) -> None:
    pages = answers[PagesReply]
    assert isinstance(pages, PagesReply)
    late = msgspec.structs.replace(pages, at_ns=pages.heard_ns + 7 * SECOND)
    there = having(scene, late)
    assert kv_rows.age_s(there) == pytest.approx(7.0)
    assert kv_rows.age_s(there._replace(now_ns=3 * SECOND)) == pytest.approx(9.0)
    assert kv_rows.age_s(there) > OLD_S
    assert kv_rows.age_s(having(scene)) == UNKNOWN
    assert kv_rows.age_s(having(scene, msgspec.structs.replace(pages, heard_ns=0))) == UNKNOWN
    assert age_of("pages")(there._replace(now_ns=5 * SECOND)) == pytest.approx(4.0)


# --- small things ------------------------------------------------------------


@given(st.lists(st.tuples(st.text("abc…", max_size=30), st.integers(0, 10**9)), max_size=5), st.integers(30, 120))
def test_a_grid_is_as_wide_as_it_is_told(rows: list[tuple[str, int]], width: int) -> None:
    cells = [(Text(name), Text(str(number))) for name, number in rows]
    drawn = grid((Field("NAME", 0), Field("N", 11, True)), cells, width)
    assert {line.cell_len for line in drawn} == {width}


def test_what_does_not_fit_is_counted() -> None:
    lines = [Text(str(n)) for n in range(5)]
    assert plain(cut(lines, 3)) == "0\n1\n3 more"
    assert cut(lines, 5) == lines


@given(st.lists(st.floats(0, 1e6), max_size=50), st.integers(1, 60), st.integers(1, 6))
def test_a_coloured_sparkline_is_as_large_as_it_is_told(values: list[float], width: int, height: int) -> None:
    drawn = columns_spark(values, [palette.GOOD] * len(values), width, height, UNICODE)
    assert {line.cell_len for line in drawn} == {width}
    assert len(drawn) == height


def test_every_colour_of_text_is_seen_in_sixteen_colours() -> None:
    ground = Color.parse(palette.GROUND).downgrade(ColorSystem.STANDARD).number
    names = ("TEXT", "SOFT", "FAINT", "WATER", "GOOD", "WARN", "CRIT", "PREFILL")
    for name in names:
        assert Color.parse(getattr(palette, name)).downgrade(ColorSystem.STANDARD).number != ground, name
