"""Requests as table rows: those in schedulers' hands, then those that ended lately. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.filters import Value
from admin_tui.glyphs import Condition, Glyphs
from admin_tui.look import Look
from admin_tui.panel import Scene
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, request_id, sanitize
from admin_tui.world import World
from bus.messages.observe import FinishedRequest
from bus.messages.telemetry import LiveRequest

COLUMNS: Final = (
    Column("id", "ID", 8),
    Column("model", "MODEL", 0),
    Column("tenant", "TENANT", 10, screen=110),
    Column("state", "STATE", 10),
    Column("age", "AGE", 6, True),
    Column("queue", "QUEUE", 6, True, screen=100),
    Column("ttft", "TTFT", 6, True),
    Column("tokens", "TOK IN/OUT", 10, True),
    Column("itl", "ITL", 6, True, screen=100),
    Column("pages", "PAGES", 5, True, screen=118),
    Column("hit", "HIT", 5, True, screen=100),
    Column("priority", "PRI", 3, True, screen=118),
)
SORTS: Final = ("age", "in", "out", "ttft", "itl", "pages")
FAULTY: Final = ("aborted", "refused", "error", "abort")
_STATES: Final = {"waiting": palette.QUEUE, "prefill": palette.PREFILL, "decode": palette.DECODE}
_SIGNS: Final[dict[str, Condition]] = {"waiting": "draining", "prefill": "warming", "decode": "ready"}
_LIVE: Final = tuple(_STATES)


def live_facts(live: LiveRequest) -> dict[str, Value]:
    """A request in hand as filters and sorting see it."""
    return {
        "id": f"{live.request:x}",
        "tenant": live.tenant,
        "model": live.model,
        "state": live.state,
        "age": live.age_ns / 1e9,
        "queue": live.queue_ns / 1e9,
        "ttft": live.ttft_ns / 1e9,
        "in": live.prompt_tokens,
        "out": live.generated_tokens,
        "itl": live.itl_ns / 1e9,
        "pages": live.pages,
        "cached": live.cached_tokens,
        "hit": live.cached_tokens / live.prompt_tokens if live.prompt_tokens else -1.0,
        "priority": live.priority,
        "replica": live.replica,
    }


def finished_facts(done: FinishedRequest) -> dict[str, Value]:
    """The same of one that ended. Its state is the reason of its end."""
    rest = max(0, done.duration_ns - done.ttft_ns) if done.ttft_ns else 0
    return {
        "id": f"{done.request:x}",
        "tenant": "",
        "model": done.model,
        "state": done.reason,
        "age": done.duration_ns / 1e9,
        "queue": 0.0,
        "ttft": done.ttft_ns / 1e9,
        "in": done.prompt_tokens,
        "out": done.generated_tokens,
        "itl": rest / max(1, done.generated_tokens - 1) / 1e9 if done.generated_tokens > 1 else 0.0,
        "pages": 0,
        "cached": done.cached_tokens,
        "hit": done.cached_tokens / done.prompt_tokens if done.prompt_tokens else -1.0,
        "priority": 0,
        "replica": -1,
    }


def rows(scene: Scene, look: Look) -> list[Row]:
    """Live ones sorted, the largest first, then those that ended, the latest first."""
    world = scene.world
    in_hand = {request.request for request in world.requests}
    live = [f for request in world.requests if look.keeps(f := live_facts(request), faulty=False)]
    live.sort(key=lambda f: f[look.sort], reverse=not look.reverse)
    ended = [finished_facts(done) for done in world.recent if done.request not in in_hand]
    kept = (*live, *(f for f in ended if look.keeps(f, faulty=f["state"] in FAULTY)))
    return [Row(str(f["id"]), partial(_row, f, scene.glyphs)) for f in kept]


def summary(world: World) -> str:
    """How many there are, by state."""
    states = [request.state for request in world.requests]
    listed = ", ".join(f"{states.count(state)} {state}" for state in ("decode", "prefill", "waiting"))
    hidden = world.requests_total - len(states)
    return listed + (f", {hidden} not listed" if hidden > 0 else "") + f"; {len(world.recent)} ended"


def _row(f: dict[str, Value], glyphs: Glyphs) -> Cells:
    state = str(f["state"])
    live = state in _LIVE
    text = palette.TEXT if live else palette.SOFT
    colour = _STATES.get(state, palette.CRIT if state in FAULTY else palette.FAINT)
    bad: Condition = "dead" if state in FAULTY else "off"
    out = f"{count(float(f['in']))}/{count(float(f['out']))}"
    return {
        "id": Text(request_id(int(str(f["id"]), 16)), palette.WATER if live else palette.SOFT),
        "tenant": Text(sanitize(str(f["tenant"]), 32) or NOTHING, text),
        "model": Text(sanitize(str(f["model"]), 48) or NOTHING, text),
        "state": Text(f"{glyphs.states[_SIGNS.get(state, bad)]} {sanitize(state, 16)}", colour),
        "age": Text(duration(float(f["age"])), text),
        "queue": Text(duration(float(f["queue"])), palette.WARN if float(f["queue"]) > 2 else text),
        "ttft": Text(duration(float(f["ttft"])), text),
        "tokens": Text(out, text),
        "itl": Text(duration(float(f["itl"])), text),
        "pages": Text(count(float(f["pages"])) if f["pages"] else NOTHING, text),
        "hit": Text(percent(float(f["hit"])), text),
        "priority": Text(str(f["priority"]) if live else NOTHING, text),
    }
