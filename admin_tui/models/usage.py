"""What was used and what it cost, by model, over a day; and what idle time cost. Pure drawings."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, Field, bar, grid, pairs
from admin_tui.text import NOTHING, count, duration, percent, sanitize, short
from bus.messages.usage import HostUsage, UsageReply, UsageRow

ROOMY: Final = 76
SPARE: Final = ("FAILED", "CACHED", "CORES")  # columns that a narrow box does without


def lines(reply: UsageReply, box: Box) -> list[Text]:
    """The host, then a line a model and one for all; costs only where there is a price."""
    drawn = [_host(reply.host, reply.currency, box)]
    if reply.problem:
        drawn.insert(0, Text(f"{box.glyphs.states['late']} {sanitize(reply.problem, 120)}", palette.WARN))
    fields = [
        Field("MODEL", 0), Field("REQ", 6, True), Field("FAILED", 6, True), Field("IN", 6, True),
        Field("CACHED", 6, True), Field("OUT", 6, True), Field("CORES", 7, True),
    ]  # fmt: skip
    if reply.currency:
        fields += [Field("COST", 8, True), Field("/1M OUT", 8, True)]
    shown = [at for at, field in enumerate(fields) if box.width >= ROOMY or field.title not in SPARE]
    groups = reply.rows[: max(0, box.height - len(drawn) - 2)]
    cells = [_row(sanitize(row.group, 48) or NOTHING, row, palette.TEXT) for row in groups]
    hidden = len(reply.rows) - len(groups) + reply.more
    cells.append(_row("all" + (f", {hidden} not shown" if hidden else ""), reply.total, palette.SOFT))
    return [*drawn, *grid([fields[at] for at in shown], [[row[at] for at in shown] for row in cells], box.width)]


def _host(host: HostUsage, currency: str, box: Box) -> Text:
    line = Text("host used ", palette.SOFT)
    line.append(f"{percent(host.utilisation)} ", f"bold {palette.TEXT}")
    line.append_text(bar(host.utilisation, 12, box.glyphs, palette.WATER))
    line.append(f" of {duration(host.up_s)}   ", palette.SOFT)
    if currency:
        line.append_text(pairs(
            ("cost", money(host.cost, currency)), ("idle", money(host.idle_cost, currency), palette.WARN), gap=2,
        ))  # fmt: skip
    else:
        line.append("no price set", palette.FAINT)
    return line


def _row(name: str, row: UsageRow, colour: str) -> list[Text]:
    million = 1e6 * row.cost / row.generated_tokens if row.generated_tokens else 0.0
    return [
        Text(name, colour),
        Text(short(row.requests), colour),
        Text(short(row.failed), palette.WARN if row.failed else palette.SOFT),
        Text(short(row.prompt_tokens), palette.PREFILL),
        Text(percent(row.cached_tokens / row.prompt_tokens) if row.prompt_tokens else NOTHING, palette.SOFT),
        Text(short(row.generated_tokens), palette.DECODE),
        Text(duration(row.compute_s), colour),
        Text(money(row.cost), colour),
        Text(money(million), palette.SOFT),
    ]


def money(amount: float, currency: str = "") -> str:
    """With as many digits as it deserves."""
    digits = f"{amount:.4f}" if 0 < amount < 0.1 else f"{amount:.2f}" if amount < 1000 else count(amount)
    return f"{digits} {sanitize(currency, 4)}".strip()
