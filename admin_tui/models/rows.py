"""Models as table rows, one model in full, and where the host's memory went. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, bar, pairs, spread
from admin_tui.filters import Value
from admin_tui.glyphs import Condition, severity_glyph, state_text
from admin_tui.look import Look
from admin_tui.panel import Scene
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, rate, sanitize, short, size
from bus.messages.details import ModelSheet, ModelsReply

COLUMNS: Final = (
    Column("model", "MODEL", 0),
    Column("state", "STATE", 10),
    Column("workers", "WORKERS", 7, True),
    Column("weights", "WEIGHTS", 8, True, screen=100),
    Column("quantisation", "AS", 7, screen=110),
    Column("waiting", "WAIT", 5, True),
    Column("running", "RUN", 5, True),
    Column("tokens", "TOK/S", 7, True),
    Column("ttft", "TTFT P95", 8, True),
    Column("itl", "ITL P95", 7, True, screen=90),
    Column("hit", "HIT", 5, True, screen=120),
    Column("refused", "REFUSED", 7, True, screen=130),
    Column("context", "CONTEXT", 8, True, screen=140),
)
SORTS: Final = ("model", "tokens", "waiting", "running", "ttft", "itl", "weights")
FAULTY: Final = ("late", "dead")
_SHEET: Final = {
    "weights": palette.PREFILL, "arena": palette.WATER, "process": palette.WARN, "other": palette.SOFT,
    "available": palette.FAINT,
}  # fmt: skip


def names(scene: Scene) -> list[str]:
    """Models that are configured, or that a scheduler serves."""
    reply = scene.world.details.models
    sheets = [sheet.model for sheet in reply.models] if reply else []
    return sorted({*sheets, *(load.model for load in scene.world.models)})


def sheet_of(scene: Scene, model: str) -> ModelSheet | None:
    """What a model is; None while unknown."""
    reply = scene.world.details.models
    return next((sheet for sheet in reply.models if sheet.model == model), None) if reply else None


def condition(scene: Scene, model: str) -> Condition:
    """Whether it is served."""
    load = scene.world.model(model)
    if load is None:
        return "off"
    if load.replicas_ready >= load.replicas > 0:
        return "ready"
    if load.replicas_ready:
        return "late"
    workers = [name for name in scene.world.names() if name.startswith(f"worker@{model}.")]
    return "warming" if any(scene.world.condition(name) == "warming" for name in workers) else "dead"


def facts(scene: Scene, model: str) -> dict[str, Value]:
    """A model as filters and sorting see it."""
    load, sheet = scene.world.model(model), sheet_of(scene, model)
    return {
        "model": model,
        "state": condition(scene, model),
        "workers": sheet.workers_ready if sheet else load.replicas_ready if load else 0,
        "weights": sheet.weight_bytes if sheet else 0,
        "quantisation": sheet.quantisation if sheet else "",
        "waiting": load.waiting if load else 0,
        "running": load.running if load else 0,
        "tokens": load.output_tokens_per_s if load else 0.0,
        "ttft": load.ttft_p95_s if load else 0.0,
        "itl": load.itl_p95_s if load else 0.0,
        "hit": load.prefix_hit_ratio if load else -1.0,
        "refused": load.refused_per_s if load else 0.0,
        "context": sheet.context_tokens if sheet else 0,
    }


def rows(scene: Scene, look: Look) -> list[Row]:
    """Models by name, or the largest of what is sorted by first."""
    kept = [f for name in names(scene) if look.keeps(f := facts(scene, name), faulty=condition(scene, name) in FAULTY)]
    kept.sort(key=lambda f: f[look.sort], reverse=look.reverse != (look.sort != "model"))
    return [Row(str(f["model"]), partial(_row, scene, f)) for f in kept]


def _row(scene: Scene, f: dict[str, Value]) -> Cells:
    name = str(f["model"])
    load, sheet = scene.world.model(name), sheet_of(scene, name)
    workers = f"{sheet.workers_ready}/{sheet.workers}" if sheet else (
        f"{load.replicas_ready}/{load.replicas}" if load else NOTHING
    )  # fmt: skip
    waits = load is not None and load.oldest_wait_s > 2
    return {
        "model": Text(sanitize(name, 64), palette.TEXT),
        "state": state_text(scene.glyphs, condition(scene, name)),
        "workers": Text(workers, palette.TEXT),
        "weights": Text(size(float(f["weights"])) if f["weights"] else NOTHING, palette.TEXT),
        "quantisation": Text(sanitize(str(f["quantisation"]), 24) or NOTHING, palette.SOFT),
        "waiting": Text(count(float(f["waiting"])), palette.WARN if waits else palette.TEXT),
        "running": Text(count(float(f["running"])), palette.TEXT),
        "tokens": Text(rate(float(f["tokens"])), f"bold {palette.TEXT}"),
        "ttft": Text(duration(float(f["ttft"])), palette.TEXT),
        "itl": Text(duration(float(f["itl"])), palette.TEXT),
        "hit": Text(percent(float(f["hit"])), palette.TEXT),
        "refused": Text(f"{rate(float(f['refused']))}/s", palette.WARN if f["refused"] else palette.SOFT),
        "context": Text(count(float(f["context"])) if f["context"] else NOTHING, palette.SOFT),
    }


def detail(scene: Scene, model: str | None, width: int) -> list[Text]:
    """One model in full: trouble first, then what it is, then what it needs."""
    sheet = sheet_of(scene, model) if model is not None else None
    lines = []
    for finding in (finding for finding in scene.world.findings if finding.subject == model):
        line = severity_glyph(scene.glyphs, finding.severity)
        line.append(f" {sanitize(finding.text)}", palette.TEXT)
        line.append(f"  {scene.glyphs.dot} {sanitize(finding.advice)}", palette.SOFT)
        lines.append(line)
    if sheet is None:
        said = "asking for it" if scene.world.details.models is None else "no worker has told what it loaded"
        return [*lines, Text(said, palette.FAINT)]
    kind = (
        f"{sanitize(sheet.architecture, 24)}, {short(sheet.parameters)} parameters, {sanitize(sheet.quantisation, 24)}"
    )
    replicas = f"{sheet.replicas} replica{'s' * (sheet.replicas != 1)}" + (
        f" + {sheet.prefill_replicas} for prompts" if sheet.prefill_replicas else ""
    )
    digest = sheet.digest.hex()[:16]
    shared = "once for all replicas" if sheet.shared else "each replica its own"
    lines += [
        spread(pairs(("source", sanitize(sheet.source, 80))), Text(f"sum {digest}", palette.SOFT), width),
        pairs(("file", sanitize(sheet.file, 160) or NOTHING)),
        pairs(("is", kind), ("runs as", f"{sanitize(sheet.dtype, 12)} on {sanitize(sheet.device, 12)}")),
        pairs(("by", sanitize(sheet.engine, 100)), ("threads", str(sheet.threads))),
        pairs(
            ("weights", f"{size(sheet.weight_bytes)}, {shared}"), ("loaded in", duration(sheet.load_s)),
            ("serves", f"{replicas} of {sheet.ranks} rank{'s' * (sheet.ranks != 1)}"),
        ),
        pairs(("answers with", _answer(sheet)), ("takes", f"{count(sheet.context_tokens)} tokens"))
        if sheet.kind != "generate"
        else pairs(
            ("a token's KV", f"{size(sheet.kv_token_bytes)} {sanitize(sheet.kv_dtype, 12)}"),
            ("page", f"{sheet.page_tokens} tokens"), ("context", f"{count(sheet.context_tokens)}"),
            ("arena holds", f"{count(sheet.kv_limit_tokens)} tokens"),
        ),
        *([pairs(*((sanitize(what, 20), size(held)) for what, held in sheet.device_memory))]
          if sheet.device_memory else []),
        pairs(
            ("slots", count(sheet.slots)), ("step", f"{count(sheet.step_tokens)} tokens"),
            ("vocabulary", count(sheet.vocabulary)),
        ),
    ]  # fmt: skip
    return lines


def _answer(sheet: ModelSheet) -> str:
    """Of an encoder."""
    return f"embeddings of {sheet.dimensions} numbers" if sheet.kind == "embed" else "a score of query and document"


def memory(reply: ModelsReply, box: Box) -> list[Text]:
    """The balance sheet: a line and a bar each; the lines add up to the host's memory."""
    room = max(4, min(30, box.width - 44))
    lines = []
    for entry in reply.sheet:
        colour = _SHEET.get(entry.kind, palette.SOFT)
        line = Text(f"{size(entry.bytes):>6} ", palette.TEXT)
        line.append_text(bar(entry.bytes / max(1, reply.memory_bytes), room, box.glyphs, colour))
        line.append(f" {sanitize(entry.what, 40)}", colour if entry.kind != "available" else palette.SOFT)
        line.append(f"  {sanitize(entry.note, 60)}" if entry.note else "", palette.FAINT)
        lines.append(line)
    if len(lines) > box.height > 0:
        # What is last is what is available: it stays.
        hidden = reply.sheet[box.height - 2 : -1]
        rest = Text(f"{size(sum(entry.bytes for entry in hidden)):>6} in {len(hidden)} more", palette.FAINT)
        lines = [*lines[: box.height - 2], rest, lines[-1]]
    return lines or [Text("unknown", palette.FAINT)]
