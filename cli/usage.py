"""`headrace usage`: what was used, and what it cost. The metrics process sums; here it becomes a table, JSON or CSV."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from bus.messages.usage import GetUsage, Grouping, UsageReply, UsageRow
from bus.prices import NANO
from cli.control import Caller, Unreachable
from cli.observer import ask
from cli.supervisor.logfiles import printable

_UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
EXIT_MISSING: Final = 69


class BadSpan(ValueError):
    """Not a length of time."""


class Line(msgspec.Struct, frozen=True, omit_defaults=False):
    """One group in `headrace usage --json` and `--csv`.

    Attributes:
        rejected: attempts that were turned away, which `requests` leaves out; `cached` were answered without a model.
        charged: by the price book of `[[price]]`, in the currency of `[cost]`; `charged_nano` is the same in
            billionths, exactly.
        cost_per_million_tokens: of prompt and generated tokens together; `cost_per_million_prompt_tokens` of prompt
            tokens that were computed, by the cost of prefill, and `cost_per_million_generated_tokens` by that of
            decode. None where there are no such tokens, or nothing has a price.
        reasoning_tokens: of the generated ones, those that were thought.
        max_total_tokens: of a request or a call, tokens that all samples of the call might generate; 0 is any number.
    """

    group: str
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    compute_s: float
    prefill_s: float
    cost: float | None
    cost_per_million_tokens: float | None
    cost_per_million_prompt_tokens: float | None
    cost_per_million_generated_tokens: float | None
    model: str = ""
    outcome: str = ""
    rejected: int = 0
    cached: int = 0
    charged: float = 0.0
    charged_nano: int = 0
    max_total_tokens: int = 0
    reasoning_tokens: int = 0


class Host(msgspec.Struct, frozen=True):
    """The host in `headrace usage --json`. The fields are those of `bus.messages.usage.HostUsage`."""

    up_s: float
    core_s: float
    utilisation: float
    cost: float
    idle_cost: float


class Report(msgspec.Struct, frozen=True):
    """`headrace usage --json`. Times are Unix seconds; `more` is how many groups the limit left out."""

    since: int
    until: int
    by: Grouping
    currency: str
    rows: list[Line]
    total: Line
    host: Host
    more: int
    problem: str


def span_s(text: str) -> int:
    """`"24h"` in seconds; minutes, hours, days, weeks.

    Raises:
        BadSpan: see there.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if match is None:
        raise BadSpan(f"{text!r} is not a length of time; write for example 90m, 24h, 7d or 4w")
    return int(match[1]) * _UNITS[match[2]]


class Only(NamedTuple):
    """Of whom; empty is all. `project` may be an organisation."""

    model: str = ""
    key: str = ""
    project: str = ""


def show(by: Grouping, since: str, only: Only, limit: int, *, as_json: bool, as_csv: bool) -> int:
    """Ask and print. Exit code 69 where the metrics process is not there."""
    if as_json and as_csv:
        print("--json or --csv, not both", file=sys.stderr)
        return 2
    try:
        since_s = int(time.time()) - span_s(since)
        with Caller() as caller:
            reply = ask(caller, GetUsage(1, max(0, since_s), by, only.model, limit, only.key, only.project), UsageReply)
    except BadSpan as bad:
        print(bad, file=sys.stderr)
        return 2
    except Unreachable as problem:
        print(f"{problem}; usage is kept by the metrics process: headrace up", file=sys.stderr)
        return EXIT_MISSING
    report = report_of(reply, by)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    elif as_csv:
        _csv(report)
    else:
        _table(report)
    if report.problem:
        print(f"warning: {printable(report.problem)}", file=sys.stderr)
    return 0


def report_of(reply: UsageReply, by: Grouping) -> Report:
    """With prices per token."""
    priced = bool(reply.currency)
    return Report(
        reply.since_s, reply.until_s, by, reply.currency, [line(row, priced=priced) for row in reply.rows],
        line(reply.total, priced=priced), Host(*msgspec.structs.astuple(reply.host)), reply.more, reply.problem,
    )  # fmt: skip


def line(row: UsageRow, *, priced: bool) -> Line:
    """Of one group."""
    prefill = row.cost * row.prefill_s / row.compute_s if row.compute_s else 0.0

    def per_million(cost: float, tokens: int) -> float | None:
        return cost / tokens * 1e6 if priced and tokens > 0 else None

    return Line(
        row.group, row.requests, row.failed, row.prompt_tokens, row.cached_tokens, row.generated_tokens,
        round(row.compute_s, 6), round(row.prefill_s, 6), row.cost if priced else None,
        per_million(row.cost, row.prompt_tokens + row.generated_tokens),
        per_million(prefill, row.prompt_tokens - row.cached_tokens),
        per_million(row.cost - prefill, row.generated_tokens), row.model, row.outcome, row.rejected, row.cached,
        row.charged_nano / NANO, row.charged_nano, row.allowed,
        row.reasoning_tokens,
    )  # fmt: skip


def _csv(report: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = list(Line.__struct_fields__)
    writer.writerow([report.by, *names[1:]])
    for each in report.rows:
        values = msgspec.structs.astuple(each)
        writer.writerow([_inert(value) if isinstance(value, str) else value for value in values])


def _inert(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula, and names come from outside."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _table(report: Report) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    days = report.by == "day" or report.until - report.since > 40 * 86400
    form = "%Y-%m-%d" if days else "%Y-%m-%d %H:%M"
    begin = time.strftime(form, time.gmtime(report.since))
    until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(report.until))
    console.print(f"usage from {begin} to {until} UTC, by {report.by}\n", markup=False)
    if not report.rows:
        console.print("no request has ended in this time", markup=False)
    else:
        _rows(console, report)
    _host(console, report)
    if report.more:
        console.print(f"{report.more:,} more; --limit shows them", markup=False)


def _rows(console: Console, report: Report) -> None:
    priced, single = bool(report.currency), report.by in ("request", "call")
    table = Table(box=None, pad_edge=False, show_footer=not single and len(report.rows) > 1)
    heads: list[tuple[str, str]] = [(report.by, "total")]
    if single:
        heads += [("model", ""), ("ended by", "")]
    thinks = any(each.reasoning_tokens for each in report.rows)
    names = ["prompt", "of it cached", "generated", *(["of it thought"] if thinks else []), "core s"]
    if not single:
        names = ["requests", "failed", *names]
    if priced:
        names += [f"{report.currency}", "per M tokens", "per M prompt", "per M generated"]
    charged, turned_away = bool(report.total.charged_nano), bool(report.total.rejected) and not single
    names += [*(["charged"] if charged else []), *(["rejected"] if turned_away else [])]
    allowed, samples = any(each.max_total_tokens for each in report.rows), report.by == "call"
    names += [*(["of at most"] if allowed else []), *(["samples"] if samples else [])]

    def cells(each: Line) -> list[str]:
        more = [f"{each.max_total_tokens:,}" if each.max_total_tokens else ""] if allowed else []
        more += [f"{each.requests:,}"] if samples else []
        return [
            *_cells(each, priced=priced, single=single, thinks=thinks),
            *_accounts(each, charged, turned_away),
            *more,
        ]

    for name, foot in [*heads, *zip(names, cells(report.total), strict=True)]:
        left = (name, foot) in heads
        table.add_column(name, footer=foot, justify="left" if left else "right", no_wrap=True)
    for each in report.rows:
        named = [printable(each.group) or "(nobody named)"]
        if single:
            named += [printable(each.model), printable(each.outcome)]
        table.add_row(*named, *cells(each))
    console.print(table)


def _accounts(each: Line, charged: bool, turned_away: bool) -> list[str]:
    """What the price book says, and who was turned away, where either happened."""
    return [*([_money(each.charged)] if charged else []), *([f"{each.rejected:,}"] if turned_away else [])]


def _cells(each: Line, *, priced: bool, single: bool, thinks: bool) -> list[str]:
    counts = [] if single else [f"{each.requests:,}", f"{each.failed:,}" if each.failed else ""]
    tokens = [f"{each.prompt_tokens:,}", f"{each.cached_tokens:,}", f"{each.generated_tokens:,}"]
    tokens += [f"{each.reasoning_tokens:,}"] if thinks else []
    cells = [*counts, *tokens, f"{each.compute_s:,.3f}" if single else f"{each.compute_s:,.1f}"]
    if priced:
        costs: Sequence[float | None] = (
            each.cost, each.cost_per_million_tokens, each.cost_per_million_prompt_tokens,
            each.cost_per_million_generated_tokens,
        )  # fmt: skip
        cells += ["" if cost is None else _money(cost) for cost in costs]
    return cells


def _host(console: Console, report: Report) -> None:
    host = report.host
    if not host.up_s:
        return
    up = f"{host.up_s / 3600:,.1f} h" if host.up_s >= 7200 else f"{host.up_s / 60:,.1f} min"
    said = f"\nthe host was up for {up}; {host.utilisation:.1%} of its cores went into requests"
    if report.currency:
        said += (
            f"\nit cost {_money(host.cost)} {report.currency}, of which {_money(host.idle_cost)} "
            f"({host.idle_cost / host.cost if host.cost else 0:.0%}) went into no request"
        )
    else:
        said += "\nprices are not configured: set price_per_hour in [cost] to see what this cost"
    console.print(said, markup=False, soft_wrap=True)


def _money(value: float) -> str:
    """Two places, and more where it is small."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}"
