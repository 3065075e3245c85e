"""The arena as pictures: how full, how fast, its pools and tiers, and a map of it. Pure drawings."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, Field, bar, grid, pairs, segments
from admin_tui.glyphs import Glyphs
from admin_tui.text import NOTHING, count, percent, rate, sanitize, size
from bus.messages.details import ModelPool, PagesReply, Tier
from bus.messages.vitals import MAP_STATES, PoolView

STATE_COLOURS: Final = {
    "none": palette.FAINT, "free": palette.FAINT, "cached": palette.GOOD, "pinned": palette.WATER,
    "leased": palette.PREFILL, "quarantined": palette.WARN, "lost": palette.CRIT,
}  # fmt: skip
_SHOWN: Final = ("leased", "pinned", "cached", "quarantined", "free")


def overview(pages: PagesReply, box: Box) -> list[Text]:
    """All pools as one bar with its legend; what happens to pages, a second."""
    totals = {state: sum(_in_state(pool.pool, state) for pool in pages.pools) for state in _SHOWN}
    signs = "".join(box.glyphs.pages[MAP_STATES.index(state)] for state in _SHOWN)
    parts = [(float(totals[state]), STATE_COLOURS[state]) for state in _SHOWN]
    drawn = segments(parts, box.width, box.glyphs, signs)
    legend = Text()
    for state in _SHOWN:
        if totals[state] or state in ("leased", "free"):
            legend.append(f"{box.glyphs.pages[MAP_STATES.index(state)]} {state} ", STATE_COLOURS[state])
            legend.append(f"{count(totals[state])}   ", palette.TEXT)
    rates = pairs(
        ("leased", f"{rate(pages.leases_per_s)}/s"), ("sealed", f"{rate(pages.seals_per_s)}/s"),
        ("evicted", f"{rate(pages.evictions_per_s)}/s", palette.WARN if pages.evictions_per_s else palette.TEXT),
        ("looked up", f"{rate(pages.lookups_per_s)}/s"), ("found", percent(pages.hit_ratio)),
    )  # fmt: skip
    if pages.settling:
        rates.append(f"   {box.glyphs.states['warming']} settling: not all have said what they hold", palette.WARN)
    return [drawn, legend, rates]


def _in_state(pool: PoolView, state: str) -> int:
    counts = {
        "free": pool.free, "cached": pool.cached, "pinned": pool.pinned, "leased": pool.leased,
        "quarantined": pool.quarantined,
    }  # fmt: skip
    return counts[state]


def title(pages: PagesReply) -> str:
    """How much there is."""
    return f"KV arena: {count(sum(pool.pool.total for pool in pages.pools))} pages"


def map_title(pages: PagesReply, box: Box) -> str:
    """What the map shows, and what a character of it is."""
    slabs = f"{count(pages.slabs_free)} of {count(pages.slabs)} slabs free ({box.glyphs.pages[0]})"
    return f"map: {size(pages.arena_bytes)}, a character is {size(character_bytes(pages, box))}, {slabs}"


def pools(pages: PagesReply, box: Box) -> list[Text]:
    """A line a pool, then a line a tier."""
    wide = box.width >= 100
    room = 16 if wide else 0
    fields = (
        Field("POOL OF", 0), Field("", room), Field("USED", 5, True), Field("PAGES", 13, True),
        Field("TOK/PAGE", 8, True), Field("PAGE", 6, True), Field("STOCK", 6, True),
    )  # fmt: skip
    keep = [index for index, field in enumerate(fields) if field.title or wide]
    lines = grid(
        [fields[index] for index in keep],
        [[cells[index] for index in keep] for cells in (_pool(pool, room, box.glyphs) for pool in pages.pools)],
        box.width,
    )
    return [*lines, *(_tier(tier, box.glyphs) for tier in pages.tiers)]


def _pool(entry: ModelPool, room: int, glyphs: Glyphs) -> list[Text]:
    pool = entry.pool
    used = 1 - (pool.free + pool.cached) / pool.total if pool.total else 0.0
    colour = palette.CRIT if used > 0.95 else palette.WARN if used > 0.85 else palette.WATER
    return [
        Text(sanitize(entry.model, 40) or f"pool {pool.pool}, nobody has it open", palette.TEXT),
        bar(used, room, glyphs, colour),
        Text(percent(used), palette.TEXT),
        Text(f"{count(pool.total - pool.free - pool.cached)}/{count(pool.total)}", palette.TEXT),
        Text(str(entry.page_tokens or NOTHING), palette.SOFT),
        Text(size(pool.page_bytes), palette.SOFT),
        Text(count(entry.stock), palette.SOFT),
    ]


def _tier(tier: Tier, glyphs: Glyphs) -> Text:
    state = f"{glyphs.states['late']} {sanitize(tier.state, 60)}" if tier.state else f"{glyphs.states['ready']} works"
    line = Text(f"{sanitize(tier.tier, 8):<7}", f"bold {palette.TEXT}")
    if not tier.limit_bytes:
        return line.append("off", palette.FAINT)
    line.append(f"{size(tier.used_bytes)} of {size(tier.limit_bytes)}, {count(tier.pages)} pages  ", palette.TEXT)
    line.append_text(pairs(
        ("hits", f"{rate(tier.hits_per_s)}/s"), ("reads", f"{rate(tier.reads_per_s)}/s"),
        ("writes", f"{rate(tier.writes_per_s)}/s"), ("to write", count(tier.waiting_pages)), gap=2,
    ))  # fmt: skip
    if tier.errors or tier.lost_per_s:
        line.append(f"  errors {count(tier.errors)}, lost {rate(tier.lost_per_s)}/s", palette.WARN)
    line.append(f"  {state}", palette.WARN if tier.state else palette.GOOD)
    return line


def map_lines(pages: PagesReply, box: Box) -> list[Text]:
    """The arena from its first byte to its last; a character is several cells, or a cell several characters."""
    room = max(1, box.width * box.height)
    group = max(1, -(-len(pages.map) // room))
    each = max(1, room // len(pages.map)) if pages.map else 1
    codes = [_most(pages.map[at : at + group]) for at in range(0, len(pages.map), group) for _ in range(each)]
    lines = []
    for at in range(0, len(codes), box.width):
        line = Text()
        for code, run in groupby(codes[at : at + box.width]):
            line.append(box.glyphs.pages[code] * len(list(run)), STATE_COLOURS[MAP_STATES[code]])
        lines.append(line)
    return lines or [Text("no map yet", palette.FAINT)]


def character_bytes(pages: PagesReply, box: Box) -> int:
    """Bytes of the arena that a character of the map stands for."""
    room, cells = max(1, box.width * box.height), max(1, len(pages.map))
    return pages.map_cell_bytes * -(-cells // room) if cells > room else pages.map_cell_bytes // (room // cells)


def _most(codes: bytes) -> int:
    """The commonest code, the one in more use where two are as common; trouble is never outvoted."""
    known = [code for code in codes if code < len(MAP_STATES)]
    if not known:
        return 0
    if max(known) >= MAP_STATES.index("quarantined"):
        return max(known)
    return max(Counter(known).items(), key=lambda item: (item[1], item[0]))[0]
