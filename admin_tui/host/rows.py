"""Workers as table rows: how their steps go, and on what of the machine. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import bar
from admin_tui.filters import Value
from admin_tui.glyphs import Glyphs
from admin_tui.look import Look
from admin_tui.panel import Scene
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, duration, percent, rate, sanitize
from bus.messages.details import HostReply, WorkerPace

COLUMNS: Final = (
    Column("worker", "WORKER", 0),
    Column("steps", "STEPS/S", 7, True),
    Column("step", "STEP", 7, True),
    Column("p95", "P95", 7, True, screen=110),
    Column("skew", "SKEW", 9, True),
    Column("busy", "BUSY", 5, True),
    Column("bar", "", 10, screen=110),
    Column("tokens", "TOK/S", 7, True),
    Column("cores", "CORES", 5, True, screen=90),
    Column("cpus", "MAY USE", 12, screen=100),
    Column("node", "NODE", 4, True, screen=120),
    Column("pid", "PID", 7, True, screen=130),
)
SORTS: Final = ("worker", "skew", "step", "busy", "tokens", "cores")
SKEWED: Final = 0.2  # a rank that takes so much longer than its peers holds them up


def facts(pace: WorkerPace) -> dict[str, Value]:
    """A worker as filters and sorting see it. Times in ms."""
    return {
        "worker": pace.name,
        "model": pace.model,
        "replica": pace.replica,
        "rank": pace.rank,
        "steps": pace.steps_per_s,
        "step": pace.step_s * 1e3,
        "p95": pace.step_p95_s * 1e3,
        "skew": pace.skew_s * 1e3,
        "busy": pace.busy,
        "tokens": pace.tokens_per_s,
        "cores": pace.cores,
        "cpus": pace.cpus,
        "node": pace.node,
        "pid": pace.pid,
    }


def skewed(pace: WorkerPace) -> bool:
    """Whether its peers wait for it."""
    return pace.skew_s > SKEWED * max(pace.step_s - pace.skew_s, 1e-6)


def far(pace: WorkerPace, host: HostReply) -> bool:
    """Whether it was last seen on a core of another node than its memory."""
    node = next((core.node for core in host.cores if core.cpu == pace.cpu), -1)
    return pace.node >= 0 and node >= 0 and node != pace.node


def rows(scene: Scene, look: Look) -> list[Row]:
    """Workers by name, or the largest of what is sorted by first."""
    host = scene.world.details.host
    if host is None:
        return []
    kept = [
        (f, pace)
        for pace in host.workers
        if look.keeps(f := facts(pace), faulty=skewed(pace) or far(pace, host))
    ]  # fmt: skip
    kept.sort(key=lambda pair: pair[0][look.sort], reverse=look.reverse != (look.sort != "worker"))
    return [Row(pace.name, partial(_row, pace, host, scene.glyphs)) for _, pace in kept]


def _row(pace: WorkerPace, host: HostReply, glyphs: Glyphs) -> Cells:
    late, warn = glyphs.states["late"], skewed(pace)
    distant = far(pace, host)
    return {
        "worker": Text(sanitize(pace.name, 64), palette.WARN if warn else palette.TEXT),
        "steps": Text(rate(pace.steps_per_s), palette.TEXT),
        "step": Text(duration(pace.step_s), palette.TEXT),
        "p95": Text(duration(pace.step_p95_s), palette.TEXT),
        "skew": Text(
            f"{'+' if pace.skew_s >= 0 else '-'}{duration(abs(pace.skew_s))}{f' {late}' if warn else ''}"
            if abs(pace.skew_s) >= 1e-6 else NOTHING,
            palette.WARN if warn else palette.SOFT,
        ),
        "busy": Text(percent(pace.busy), palette.TEXT),
        "bar": bar(pace.busy, 10, glyphs, palette.WATER),
        "tokens": Text(rate(pace.tokens_per_s), palette.TEXT),
        "cores": Text(f"{pace.cores:.1f}", palette.TEXT),
        "cpus": Text(sanitize(pace.cpus, 32) or NOTHING, palette.SOFT),
        "node": Text(
            (str(pace.node) if pace.node >= 0 else NOTHING) + (f" {late}" if distant else ""),
            palette.WARN if distant else palette.SOFT,
        ),
        "pid": Text(str(pace.pid or NOTHING), palette.SOFT),
    }  # fmt: skip
