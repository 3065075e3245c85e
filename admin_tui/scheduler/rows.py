"""Steps as table rows, and what shapes them: parts of a step's time, queues, limits, replicas. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, Field, bar, columns_spark, grid, pairs
from admin_tui.filters import Value
from admin_tui.glyphs import COLOURS, Glyphs
from admin_tui.look import Look
from admin_tui.panel import UNKNOWN, Scene, age_of_said
from admin_tui.scheduler.bounds import BOUNDS
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, rate, request_id, sanitize
from bus.messages.details import ModelSteps
from bus.messages.vitals import Knob, StepLine

COLUMNS: Final = (
    Column("step", "STEP", 11, True),
    Column("replica", "REP", 3, True, screen=100),
    Column("ran", "RAN", 7, True),
    Column("off", "OFF BY", 7, True, screen=100),
    Column("waited", "WAITED", 7, True),
    Column("rows", "ROWS", 5, True),
    Column("decode", "DEC", 5, True, screen=110),
    Column("prefill", "PROMPT", 7, True),
    Column("drafts", "DRAFTS", 7, True, screen=170),
    Column("queue", "QUEUE", 6, True),
    Column("plan", "PLAN", 7, True, screen=140),
    Column("gather", "GATHER", 7, True, screen=140),
    Column("starved", "NO PAGE", 7, True, screen=130),
    Column("bound", "BOUND BY", 12),
    Column("chunks", "PROMPTS IN IT", 0, screen=120),
)
SORTS: Final = ("step", "ran", "waited", "rows", "prefill")
SLOW: Final = 1.5  # a step that takes so many times what was expected is a fault
_PARTS: Final = {
    "plan": palette.WARN, "send": palette.PREFILL, "compute": palette.WATER, "gather": palette.CRIT,
    "apply": palette.GOOD,
}  # fmt: skip


def model_names(scene: Scene) -> list[str]:
    """Models whose steps are known."""
    steps = scene.world.details.steps
    return [model.model for model in steps.models] if steps else []


def steps_of(scene: Scene, model: str) -> ModelSteps | None:
    """The steps of a model; of the first one where it is not there."""
    steps = scene.world.details.steps
    if steps is None or not steps.models:
        return None
    return next((m for m in steps.models if m.model == model), steps.models[0])


def age_s(scene: Scene, model: str) -> float:
    """Of what the scheduler of a model said last."""
    steps, reply = steps_of(scene, model), scene.world.details.steps
    return age_of_said(scene, "steps", reply.at_ns, steps.heard_ns) if steps and reply else UNKNOWN


def facts(line: StepLine) -> dict[str, Value]:
    """A step as filters and sorting see it. Times in ms."""
    off = line.ran_ns / line.predicted_ns - 1 if line.predicted_ns else 0.0
    return {
        "step": line.step,
        "replica": line.replica,
        "ran": line.ran_ns / 1e6,
        "off": 100 * off,
        "waited": line.waited_ns / 1e6,
        "rows": line.rows,
        "decode": line.decodes,
        "prefill": line.prefill_tokens,
        "drafts": line.drafted,
        "queue": line.waiting,
        "plan": line.plan_ns / 1e6,
        "gather": line.gather_ns / 1e6,
        "starved": line.starved,
        "bound": BOUNDS[line.bound].name,
    }


def slow(line: StepLine) -> bool:
    """Whether it took far longer than the cost model expected."""
    return bool(line.predicted_ns) and line.ran_ns > SLOW * line.predicted_ns


def rows(steps: ModelSteps | None, look: Look) -> list[Row]:
    """The newest first, or the largest of what is sorted by."""
    lines = steps.lines if steps else ()
    kept = [(f, line) for line in lines if look.keeps(f := facts(line), faulty=slow(line))]
    kept.sort(key=lambda pair: pair[0][look.sort], reverse=not look.reverse)
    return [Row(key(line), partial(_row, line)) for _, line in kept]


def _row(line: StepLine) -> Cells:
    f, bound = facts(line), BOUNDS[line.bound]
    ran = palette.WARN if slow(line) else palette.TEXT
    chunks = " ".join(f"{request_id(request)}:{count(tokens)}" for request, tokens in line.chunks)
    hidden = line.chunk_count - len(line.chunks)
    return {
        "step": Text(count(line.step), palette.WATER),
        "replica": Text(str(line.replica), palette.SOFT),
        "ran": Text(duration(line.ran_ns / 1e9), ran),
        "off": Text(f"{float(f['off']):+.0f} %" if line.predicted_ns else NOTHING, ran),
        "waited": Text(duration(line.waited_ns / 1e9), palette.SOFT),
        "rows": Text(count(line.rows), palette.TEXT),
        "decode": Text(count(line.decodes), palette.DECODE if line.decodes else palette.SOFT),
        "prefill": Text(count(line.prefill_tokens) if line.prefill_tokens else NOTHING, palette.PREFILL),
        "drafts": Text(f"{line.accepted}/{line.drafted}" if line.drafted else NOTHING, palette.DECODE),
        "queue": Text(count(line.waiting), palette.WARN if line.waiting else palette.SOFT),
        "plan": Text(duration(line.plan_ns / 1e9), palette.SOFT),
        "gather": Text(duration(line.gather_ns / 1e9), palette.SOFT),
        "starved": Text(str(line.starved or NOTHING), palette.CRIT if line.starved else palette.SOFT),
        "bound": Text(bound.name, bound.colour),
        "chunks": Text(chunks + (f" +{hidden}" if hidden > 0 else ""), palette.SOFT),
    }


def key(line: StepLine) -> str:
    """Steps are numbered by replica."""
    return f"{line.replica}:{line.step}"


def trend(steps: ModelSteps, box: Box) -> list[Text]:
    """How long each of the last steps ran; `p` under those with a part of a prompt."""
    shown = steps.lines[-box.width :]
    colours = [palette.PREFILL if line.prefill_tokens else palette.DECODE for line in shown]
    marks = "".join("p" if line.prefill_tokens else " " for line in shown)
    ran = [line.ran_ns / 1e6 for line in shown]
    drawn = columns_spark(ran, colours, box.width, max(1, box.height - 1), box.glyphs)
    return [*drawn, Text(marks.rjust(box.width), palette.PREFILL)]


def parts(steps: ModelSteps, box: Box) -> list[Text]:
    """What a step's time goes into, and what is in it."""
    longest = max((part.p95_s for part in steps.parts), default=0.0) or 1.0
    room = max(4, box.width - 29)
    drawn = []
    for part in steps.parts:
        line = Text(f"{sanitize(part.part, 9):<9}", palette.SOFT)
        line.append(f"{duration(part.p50_s):>8}{duration(part.p95_s):>9}  ", palette.TEXT)
        line.append_text(bar(part.p95_s / longest, room, box.glyphs, _PARTS.get(part.part, palette.SOFT)))
        drawn.append(line)
    error = f"{percent(steps.error_p50)}" if steps.error_p50 >= 0 else NOTHING
    drawn.append(pairs(
        ("decode rows", rate(steps.decode_rows), palette.DECODE),
        ("prompt tokens", rate(steps.prefill_tokens), palette.PREFILL), ("forecast off by", error), gap=2,
    ))  # fmt: skip
    return drawn


def queues(steps: ModelSteps, box: Box) -> list[Text]:
    """Who waits, by priority."""
    fields = (
        Field("PRIO", 4, True), Field("WAIT", 5, True), Field("FOR KV", 6, True), Field("RUN", 4, True),
        Field("OLDEST", 0, True),
    )  # fmt: skip
    found = [
        (
            Text(str(queue.priority), palette.TEXT),
            Text(count(queue.waiting), palette.WARN if queue.waiting else palette.SOFT),
            Text(count(queue.held), palette.SOFT),
            Text(count(queue.running), palette.TEXT),
            Text(duration(queue.oldest_ns / 1e9), palette.WARN if queue.oldest_ns > 2e9 else palette.SOFT),
        )
        for queue in sorted(steps.queues, key=lambda queue: -queue.priority)
    ]
    return grid(fields, found, box.width)


def knobs(steps: ModelSteps, box: Box) -> list[Text]:
    """Limits that shape steps; what was lowered since the configuration is marked."""
    rows = [(Text(sanitize(knob.key, 40), palette.TEXT), _value(knob, box.glyphs)) for knob in steps.knobs]
    return grid((Field("LIMIT", 0), Field("NOW", 13, True)), rows, box.width)


def _value(knob: Knob, glyphs: Glyphs) -> Text:
    unit = f" {sanitize(knob.unit, 3)}" if len(knob.unit) <= 3 else ""  # longer ones the key says already
    if knob.value == knob.default:
        return Text(f"{_number(knob.value)}{unit}", palette.TEXT)
    return Text(f"{_number(knob.value)}{unit} {glyphs.states['late']} not {_number(knob.default)}", palette.WARN)


def _number(value: float) -> str:
    return count(value) if value == int(value) else f"{value:.1f}"


def replicas(steps: ModelSteps, box: Box) -> list[Text]:
    """Replicas as the scheduler sees them, with what the cost model has learnt of each."""
    fields = (
        Field("REPLICA", 0), Field("SLOTS", 7, True), Field("BACKLOG", 7, True), Field("TOKENS", 6, True),
        Field("A STEP", 7, True), Field("A TOKEN", 7, True),
    )  # fmt: skip
    shown = len(fields) if box.width >= 56 else 3
    rows = []
    for replica in steps.replicas:
        word, state = (
            ("barred", "dead") if replica.barred else ("draining", "draining") if replica.draining
            else ("ready", "ready") if replica.ready else ("off", "off")
        )  # fmt: skip
        rows.append((
            Text(f"{replica.replica} {box.glyphs.states[state]} {word}", COLOURS[state]),
            Text(f"{replica.running}/{replica.slots}", palette.TEXT),
            Text(count(replica.backlog_tokens), palette.PREFILL if replica.backlog_tokens else palette.SOFT),
            Text(count(replica.step_tokens), palette.TEXT),
            Text(duration(replica.base_ns / 1e9), palette.SOFT),
            Text(duration(replica.token_ns / 1e9), palette.SOFT),
        )[:shown])  # fmt: skip
    return grid(fields[:shown], rows, box.width)
