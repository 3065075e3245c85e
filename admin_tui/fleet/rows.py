"""Processes as table rows, and one process in full. Pure drawings."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import pairs, spread
from admin_tui.filters import Value
from admin_tui.glyphs import COLOURS, severity_glyph, state_text
from admin_tui.look import Look
from admin_tui.panel import Scene
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, rate, sanitize, short, size
from admin_tui.world import World
from bus.names import InvalidName, parse_process, parse_worker

COLUMNS: Final = (
    Column("unit", "UNIT", 0),
    Column("state", "STATE", 10),
    Column("since", "SINCE", 7, True),
    Column("pid", "PID", 7, True),
    Column("restarts", "RST", 4, True),
    Column("epoch", "EPOCH", 9, True, screen=140),
    Column("run", "RUN", 5, True, screen=110),
    Column("wait", "WAIT", 5, True, screen=110),
    Column("pace", "WORK/S", 7, True, screen=100),
    Column("cpu", "CPU %", 5, True),
    Column("rss", "RSS", 6, True, screen=100),
    Column("exit", "LAST EXIT", 16, screen=116),
    Column("service", "SYSTEMD UNIT", 38, screen=170),
)
SORTS: Final = ("unit", "cpu", "rss", "run", "wait", "since", "restarts")
FAULTY: Final = ("late", "dead")


def in_hand(world: World, name: str) -> int:
    """Requests that a process works on; -1 for those that have none."""
    try:
        role, instance = parse_process(name)
        if role == "worker":
            worker = parse_worker(instance)
            return world.in_hand(worker.model, worker.replica)
    except InvalidName:
        return -1
    if role == "scheduler":
        return load.running if (load := world.model(instance)) else 0
    return round(_gauge(world, name, "headrace_ingress_open_streams")) if role == "ingress" else -1


def waiting(world: World, name: str) -> int:
    """Requests that wait at a scheduler; -1 for processes where none wait."""
    role, _, instance = name.partition("@")
    load = world.model(instance) if role == "scheduler" else None
    return load.waiting if load else -1


def _gauge(world: World, name: str, series_name: str) -> float:
    sample = world.processes.get(name)
    return sum(series.value for series in sample.series if series.name == series_name) if sample else 0.0


def facts(world: World, name: str) -> dict[str, Value]:
    """A process as filters and sorting see it."""
    sample, unit = world.processes.get(name), world.units.get(name)
    since_s = unit.uptime_s if unit else (world.at_ns - sample.started_ns) / 1e9 if sample else 0.0
    known: dict[str, Value] = {
        "unit": name,
        "role": name.partition("@")[0],
        "state": world.condition(name),
        "since": since_s,
        "pid": sample.pid if sample else unit.pid if unit else 0,
        "restarts": unit.restarts if unit else 0,
        "epoch": sample.epoch if sample else 0,
        "run": in_hand(world, name),
        "wait": waiting(world, name),
        "pace": world.pace(name).progress_per_s,
        "cpu": 100 * world.pace(name).cores,
        "rss": sample.rss_bytes if sample else 0,
        "exit": unit.last_exit if unit else "",
        "service": service.unit if (service := world.services.get(name)) else "",
    }
    if world.vitals:  # the metrics process is silent: what it said last is not how things are
        known |= {"run": -1, "wait": -1, "pace": 0.0, "cpu": 0.0, "rss": 0}
    if (vital := world.vitals.get(name)) is not None:
        known |= {"since": vital.uptime_s, "pid": vital.pid, "epoch": vital.epoch}
    return known


def rows(scene: Scene, look: Look) -> list[Row]:
    """The rows that stay, in order."""
    everyone = [facts(scene.world, name) for name in scene.world.names()]
    kept = [f for f in everyone if look.keeps(f, faulty=f["state"] in FAULTY)]
    # Numbers are looked at for the largest, names from the first.
    kept.sort(key=lambda f: f[look.sort], reverse=look.reverse != (look.sort != "unit"))
    return [Row(str(f["unit"]), partial(_row, scene, f)) for f in kept]


def _row(scene: Scene, f: dict[str, Value]) -> Cells:
    name, condition = str(f["unit"]), scene.world.condition(str(f["unit"]))
    bad = condition in FAULTY
    there = condition not in ("off", "dead")
    number = palette.TEXT if there else palette.FAINT
    restarts = int(f["restarts"])
    return {
        "unit": Text(sanitize(name, 64), COLOURS[condition] if bad else palette.TEXT),
        "state": state_text(scene.glyphs, condition),
        "since": Text(duration(float(f["since"])), number),
        "pid": Text(str(f["pid"] or NOTHING), palette.SOFT),
        "restarts": Text(str(restarts), palette.WARN if restarts else palette.SOFT),
        "epoch": Text(str(f["epoch"] or NOTHING), palette.SOFT),
        "run": Text(_known(f["run"]), number),
        "wait": Text(_known(f["wait"]), palette.WARN if int(f["wait"]) > 0 else number),
        "pace": Text(short(float(f["pace"])) if there else NOTHING, number),
        "cpu": Text(f"{float(f['cpu']):.0f}" if there else NOTHING, number),
        "rss": Text(size(float(f["rss"])) if f["rss"] else NOTHING, number),
        "exit": Text(sanitize(str(f["exit"]), 40) or NOTHING, palette.SOFT),
        "service": Text(sanitize(str(f["service"]), 64) or NOTHING, palette.SOFT),
    }


def _known(number: Value) -> str:
    return count(float(number)) if float(number) >= 0 else NOTHING


def detail(scene: Scene, name: str | None, width: int, height: int) -> list[Text]:
    """What is known of one process: trouble first, then facts, then what it counts."""
    world = scene.world
    if name is None or name not in world.names():
        return [Text("no process selected", palette.FAINT)]
    f = facts(world, name)
    sample = world.processes.get(name)
    lines = []
    if (vital := world.vitals.get(name)) is not None:
        said = Text("at its control door: ", palette.SOFT)
        lines.append(said.append(sanitize(vital.detail) or "nothing", palette.TEXT))
    for finding in (finding for finding in world.findings if finding.subject == name):
        line = severity_glyph(scene.glyphs, finding.severity)
        line.append(f" {sanitize(finding.text)}", palette.TEXT)
        line.append(f"  {scene.glyphs.dot} {sanitize(finding.advice)}", palette.SOFT)
        lines.append(line)
    busy = ("busy" if sample.busy else "idle") if sample else "not heard of"
    head = state_text(scene.glyphs, world.condition(name))
    head.append(f"  {busy}", palette.TEXT)
    head.append(f"   progress {count(sample.progress) if sample else NOTHING}", palette.SOFT)
    head.append(f"   epoch {f['epoch'] or NOTHING}   pid {f['pid'] or NOTHING}", palette.SOFT)
    restarts = Text(f"restarts {f['restarts']}   last exit {sanitize(str(f['exit']), 40) or 'none'}", palette.SOFT)
    lines.append(spread(head, restarts, width))
    lines += [line for line in (_service(world, name), _place(world, name)) if line is not None]
    return [*lines, *_instruments(scene, name, width, height - len(lines))]


def _service(world: World, name: str) -> Text | None:
    """What systemd says of its unit; restarts and the last end are in the line above."""
    service = world.services.get(name)
    if service is None:
        return None
    memory = size(service.memory) if service.memory else NOTHING
    if service.most:
        memory += f" of {size(service.most)}"
    return pairs(
        ("unit", sanitize(service.unit, 64)), ("is", sanitize(service.state, 32)), ("memory", memory)
    )  # fmt: skip


def _place(world: World, name: str) -> Text | None:
    """Where a worker runs and how its steps go, once the host has told."""
    host = world.details.host
    pace = next((pace for pace in host.workers if pace.name == name), None) if host else None
    if pace is None:
        return None
    return pairs(
        ("may use cpus", sanitize(pace.cpus, 24) or NOTHING),
        ("memory on node", str(pace.node) if pace.node >= 0 else NOTHING),
        ("step", duration(pace.step_s)), ("p95", duration(pace.step_p95_s)), ("busy", percent(pace.busy)),
        ("tokens", f"{rate(pace.tokens_per_s)}/s"),
    )  # fmt: skip


def _instruments(scene: Scene, name: str, width: int, height: int) -> list[Text]:
    """Counters and gauges of a process, in columns."""
    sample = scene.world.processes.get(name)
    if sample is None or height <= 0:
        return []
    shown = [series for series in sample.series if series.kind != "histogram"]
    columns = max(1, width // 52)
    cell = width // columns
    cells = []
    for series in shown[: columns * height]:
        labels = ",".join(sanitize(value, 24) for key, value in series.labels if key != "model")
        label = series.name.removeprefix("headrace_").removesuffix("_total").replace("_", " ")
        left = Text(f"{sanitize(label, 40)}{f' {labels}' if labels else ''}", palette.SOFT)
        value = rate(series.value) if series.value < 10 and series.value % 1 else count(series.value)
        left.truncate(cell - len(value) - 4, overflow="ellipsis")
        line = spread(left, Text(value, palette.TEXT), cell - 3)
        line.pad_right(cell - line.cell_len)
        cells.append(line)
    return [Text().join(cells[at : at + columns]) for at in range(0, len(cells), columns)]
