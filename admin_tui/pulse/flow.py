"""Where requests are, where their time goes, and what each model does. Pure drawings."""

from __future__ import annotations

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import bar
from admin_tui.glyphs import COLOURS
from admin_tui.panel import Scene
from admin_tui.text import NOTHING, count, duration, percent, rate, sanitize
from bus.messages.observe import ModelLoad

Piece = tuple[str, str]


def flow(scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG001
    """In, queue, running, out; refusals and preemptions beneath."""
    models = scene.world.models
    arrow = (f" {scene.glyphs.arrow} ", palette.FAINT)
    waiting, running = sum(m.waiting for m in models), sum(m.running for m in models)
    oldest = max((m.oldest_wait_s for m in models), default=0.0)
    done, refused = sum(m.requests_per_s for m in models), sum(m.refused_per_s for m in models)
    preempted = sum(m.preemptions_per_s for m in models)
    queue_colour = palette.WARN if oldest > 2.0 else palette.TEXT
    path = Text.assemble(
        ("queue ", palette.SOFT), (count(waiting), f"bold {queue_colour}"), arrow,
        ("running ", palette.SOFT), (count(running), f"bold {palette.TEXT}"), arrow,
        ("done ", palette.SOFT), (f"{rate(done)}/s", f"bold {palette.TEXT}"),
    )  # fmt: skip
    tokens = _facts(
        ("tokens in ", f"{rate(sum(m.prompt_tokens_per_s for m in models))}/s"),
        ("out ", f"{rate(scene.world.output_per_s())}/s"),
        ("oldest wait ", duration(oldest)),
    )
    losses = Text.assemble(
        ("refused ", palette.SOFT), (f"{rate(refused)}/s", palette.WARN if refused else palette.TEXT),
        ("   preempted ", palette.SOFT), (f"{rate(preempted)}/s", palette.WARN if preempted else palette.TEXT),
        ("   prefix hits ", palette.SOFT), (_hits(models), palette.TEXT),
    )  # fmt: skip
    return [path, Text(), tokens, losses]


def _hits(models: tuple[ModelLoad, ...]) -> str:
    known = [m.prefix_hit_ratio for m in models if m.prefix_hit_ratio >= 0]
    return percent(sum(known) / len(known)) if known else NOTHING


def _facts(*pairs: tuple[str, str]) -> Text:
    text = Text()
    for index, (name, value) in enumerate(pairs):
        text.append(("   " if index else "") + name, palette.SOFT)
        text.append(value, palette.TEXT)
    return text


def times(scene: Scene, width: int, height: int) -> list[Text]:  # noqa: ARG001
    """A request's time by phase, p50 and p95 of the slowest model; the bar is p95."""
    models = scene.world.models
    phases = (
        ("queue", palette.QUEUE, [(m.queue_p50_s, m.queue_p95_s) for m in models]),
        ("first token", palette.PREFILL, [(m.ttft_p50_s, m.ttft_p95_s) for m in models]),
        ("whole", palette.DECODE, [(m.e2e_p50_s, m.e2e_p95_s) for m in models]),
        ("step", palette.GOOD, [(m.step_p50_s, m.step_p95_s) for m in models]),
    )
    slowest = [(name, colour, max(pairs, key=_p95, default=(0.0, 0.0))) for name, colour, pairs in phases]
    longest = max((p95 for *_, (_, p95) in slowest), default=0.0) or 1.0
    room = max(4, width - 31)
    lines = []
    for name, colour, (p50, p95) in slowest:
        line = Text(f"{name:<12}", palette.SOFT)
        line.append(f"{duration(p50):>8}", palette.TEXT)
        line.append(f"{duration(p95):>9}  ", palette.TEXT)
        line.append_text(bar(p95 / longest, room, scene.glyphs, colour))
        lines.append(line)
    return lines


def _p95(pair: tuple[float, float]) -> float:
    return pair[1]


def models(scene: Scene, width: int, height: int) -> list[Text]:
    """One line a model."""
    wide = width >= 90
    head = f"{'MODEL':<22}{'REPLICAS':>9}{'WAIT':>6}{'RUN':>5}{'TOK/S':>9}{'TTFT P95':>10}{'ITL P95':>9}"
    lines = [Text(head + (f"{'STEP P95':>10}{'HIT':>7}{'REFUSED/S':>11}" if wide else ""), f"bold {palette.SOFT}")]
    rows = scene.world.models
    for model in rows[: height - 1] if len(rows) < height else rows[: height - 2]:
        lines.append(_model_line(scene, model, wide))
    if (hidden := len(rows) - (len(lines) - 1)) > 0:
        lines.append(Text(f"{hidden} more", palette.FAINT))
    if not rows:
        lines.append(Text("no scheduler has been heard of", palette.FAINT))
    return lines


def _model_line(scene: Scene, model: ModelLoad, wide: bool) -> Text:
    condition = "ready" if model.replicas_ready >= model.replicas > 0 else "late" if model.replicas_ready else "dead"
    line = Text(f"{scene.glyphs.states[condition]} ", COLOURS[condition])
    name = Text(sanitize(model.model, 19), palette.TEXT)
    name.pad_right(max(0, 20 - name.cell_len))
    line.append_text(name)
    line.append(f"{f'{model.replicas_ready}/{model.replicas}':>9}", COLOURS[condition])
    line.append(f"{model.waiting:>6}", palette.WARN if model.oldest_wait_s > 2 else palette.TEXT)
    line.append(f"{model.running:>5}", palette.TEXT)
    line.append(f"{rate(model.output_tokens_per_s):>9}", f"bold {palette.TEXT}")
    line.append(f"{duration(model.ttft_p95_s):>10}{duration(model.itl_p95_s):>9}", palette.TEXT)
    if wide:
        line.append(f"{duration(model.step_p95_s):>10}{percent(model.prefix_hit_ratio):>7}", palette.TEXT)
        line.append(f"{rate(model.refused_per_s):>11}", palette.WARN if model.refused_per_s else palette.FAINT)
    return line
