"""The four numbers that say whether all is well, each with its last two minutes."""

from __future__ import annotations

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import spark, spread
from admin_tui.panel import Scene
from admin_tui.text import count, duration, percent, rate
from admin_tui.world import Trend


def output(scene: Scene, width: int, height: int) -> list[Text]:
    """Output tokens a second, all models; prompt tokens beside it."""
    world = scene.world
    prompt = sum(model.prompt_tokens_per_s for model in world.models)
    return _card(
        scene, count(world.output_per_s()), f"prompt {rate(prompt)}/s", "output", palette.WATER,
        width, height,
    )  # fmt: skip


def ttft(scene: Scene, width: int, height: int) -> list[Text]:
    """Time to first token: the slowest model's p95, p50 beside it."""
    world = scene.world
    p95 = max((model.ttft_p95_s for model in world.models), default=0.0)
    p50 = max((model.ttft_p50_s for model in world.models), default=0.0)
    return _card(
        scene, duration(p95), f"p50 {duration(p50)}", "ttft", palette.PREFILL, width, height
    )  # fmt: skip


def itl(scene: Scene, width: int, height: int) -> list[Text]:
    """Inter-token latency: the slowest model's p95, p50 beside it."""
    world = scene.world
    p95 = max((model.itl_p95_s for model in world.models), default=0.0)
    p50 = max((model.itl_p50_s for model in world.models), default=0.0)
    return _card(
        scene, duration(p95), f"p50 {duration(p50)}", "itl", palette.GOOD, width, height
    )  # fmt: skip


def pages(scene: Scene, width: int, height: int) -> list[Text]:
    """Share of the arena in use; pages that are free or can be evicted are not."""
    world = scene.world
    load = world.pages
    used = load.total - load.free - load.cached
    share = world.pages_used()
    colour = palette.CRIT if share > 0.95 else palette.WARN if share > 0.85 else palette.WATER
    return _card(
        scene, percent(share) if load.total else "-", f"{count(used)}/{count(load.total)}", "pages",
        colour, width, height, ceiling=1.0,
    )  # fmt: skip


def _card(
    scene: Scene, value: str, beside: str, trend: Trend, colour: str, width: int, height: int,
    *, ceiling: float = 0.0,
) -> list[Text]:  # fmt: skip
    lines = [spread(Text(value, f"bold {palette.TEXT}"), Text(beside, palette.SOFT), width)]
    drawn = spark(scene.world.trend(trend, width), width, max(1, height - 1), scene.glyphs, ceiling=ceiling)
    return [*lines, *(Text(line, colour) for line in drawn)]
