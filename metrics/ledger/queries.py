"""Answers to `GetUsage` out of the ledger's file: sums by group, what they cost, and what the host cost meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from bus.messages.usage import GetUsage, HostUsage, UsageReply, UsageRow
from metrics.core.costs import Rate, rate_at
from metrics.ledger.database import DAY, FAILED, HOUR, Database

HOURS_UP_TO_S: Final = 40 * DAY  # what is asked about more than this is summed by days
NOTHING: Final = UsageRow("", 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)

_SUMS: Final = (
    "sum(requests), sum(failed), sum(prompt_tokens), sum(cached_tokens), sum(generated_tokens), sum(compute_ns), "
    "sum(prefill_ns), sum(cost_nano), sum(rejected), sum(cached), sum(reasoning_tokens)"
)
# The project of a request is its tenant, ORGANISATION/PROJECT; one without a slash, or none, is its own organisation.
_GROUPS: Final = {
    "model": "model", "tenant": "tenant", "project": "tenant", "key": "key",
    "organisation": "substr(tenant, 1, instr(tenant || '/', '/') - 1)",
}  # fmt: skip


class _Part(NamedTuple):
    """Sums of one group in one hour or day."""

    group: str
    begin: int
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    compute_ns: int
    prefill_ns: int
    charged_nano: int
    rejected: int
    cached: int
    reasoning_tokens: int

    def row(self, rates: list[Rate]) -> UsageRow:
        """With its cost, at the prices of then."""
        compute_s = self.compute_ns / 1e9
        cost = rate_at(rates, self.begin).of_compute(compute_s)
        return UsageRow(
            self.group, *self[2:7], compute_s, self.prefill_ns / 1e9, cost, rejected=self.rejected, cached=self.cached,
            charged_nano=self.charged_nano, reasoning_tokens=self.reasoning_tokens,
        )  # fmt: skip


def answer(database: Database, asked: GetUsage, now_s: int, problem: str) -> UsageReply:
    """The reply."""
    rates, connection = database.rates(), database.connection
    grain = HOUR if now_s - asked.since_s <= HOURS_UP_TO_S else DAY
    if asked.by == "day":
        grain = DAY
    since_s = max(0, asked.since_s - asked.since_s % grain)
    where = "grain = ? AND begin >= ?"
    host = _host(connection, rates, where, [grain, since_s])
    only, values = _only(asked)
    where, values = where + only, [grain, since_s, *values]
    group = _GROUPS.get(asked.by, "''")
    parts = [
        _Part(*row)
        for row in connection.execute(
            f"SELECT {group}, begin, {_SUMS} FROM sums WHERE {where} GROUP BY 1, 2 ORDER BY 2", values
        )
    ]
    total = added((part.row(rates) for part in parts), "")
    if asked.by == "request":
        rows = _requests(connection, asked, rates, since_s)
        more = max(0, total.requests + total.rejected - len(rows))
    elif asked.by == "call":
        rows, more = _calls(connection, asked, rates, since_s)
    else:
        rows = _grouped(asked, parts, rates, grain)
        more = max(0, len(rows) - asked.limit)
        rows = rows[: asked.limit]
    currency = next((rate.currency for rate in reversed(rates) if rate.priced), "")
    return UsageReply(asked.rid, since_s, now_s, tuple(rows), total, host, more, currency, problem)


def added(rows: Iterable[UsageRow], group: str) -> UsageRow:
    """All together, as one row."""
    columns = zip(*((*_numbers(NOTHING),), *(_numbers(row) for row in rows)), strict=True)
    sums = [sum(column) for column in columns]
    requests, failed, prompt, cached, generated, rejected, answers, charged, thought = map(int, (*sums[:5], *sums[8:]))
    return UsageRow(
        group, requests, failed, prompt, cached, generated, sums[5], sums[6], sums[7], rejected=rejected,
        cached=answers, charged_nano=charged, reasoning_tokens=thought,
    )  # fmt: skip


def _numbers(row: UsageRow) -> tuple[float, ...]:
    return (
        row.requests, row.failed, row.prompt_tokens, row.cached_tokens, row.generated_tokens, row.compute_s,
        row.prefill_s, row.cost, row.rejected, row.cached, row.charged_nano,
        row.reasoning_tokens,
    )  # fmt: skip


def _grouped(asked: GetUsage, parts: list[_Part], rates: list[Rate], grain: int) -> list[UsageRow]:
    groups: dict[str, list[UsageRow]] = {}
    for part in parts:
        name = _moment(part.begin, grain) if asked.by in ("hour", "day") else part.group
        groups.setdefault(name, []).append(part.row(rates))
    rows = [added(each, name) for name, each in groups.items()]
    if asked.by in ("hour", "day"):
        return rows[::-1]
    return sorted(rows, key=lambda row: (-row.compute_s, -row.requests, row.group))


def _only(asked: GetUsage) -> tuple[str, list[int | str]]:
    """What narrows a question, as SQL and its values."""
    where, values = "", list[int | str]()
    for column, wanted in (("model", asked.model), ("key", asked.key)):
        if wanted:
            where, values = f"{where} AND {column} = ?", [*values, wanted]
    if asked.project:
        within = " OR substr(tenant, 1, ?) = ?" if "/" not in asked.project else ""
        where += f" AND (tenant = ?{within})"
        values.append(asked.project)
        if within:
            values += [len(asked.project) + 1, f"{asked.project}/"]
    return where, values


def _requests(connection: sqlite3.Connection, asked: GetUsage, rates: list[Rate], since_s: int) -> list[UsageRow]:
    only, values = _only(asked)
    found = connection.execute(
        "SELECT request, ended_ms, model, outcome, prompt_tokens, cached_tokens, generated_tokens, compute_ns, "
        f"prefill_ns, cost_nano, allowed, reasoning_tokens FROM requests WHERE ended_ms >= ?{only} "
        "ORDER BY ended_ms DESC LIMIT ?",
        [since_s * 1000, *values, asked.limit],
    )
    return [
        UsageRow(
            f"{request:016x}", int(outcome != "rejected"), int(outcome in FAILED), prompt, cached, generated,
            compute_ns / 1e9, prefill_ns / 1e9,
            rate_at(rates, ended_ms // 1000).of_compute(compute_ns / 1e9), model, outcome,
            int(outcome == "rejected"), int(outcome == "cached"), cost_nano, allowed, thought,
        )
        for (
            request, ended_ms, model, outcome, prompt, cached, generated, compute_ns, prefill_ns, cost_nano, allowed,
            thought,
        ) in found
    ]  # fmt: skip


def _calls(
    connection: sqlite3.Connection, asked: GetUsage, rates: list[Rate], since_s: int
) -> tuple[list[UsageRow], int]:
    """The samples of each call together, and how many calls the limit left out. A call's outcome is that of a sample
    that failed, where one did."""
    only, values = _only(asked)
    of = "CASE call WHEN 0 THEN request ELSE call END"
    where, values = f"ended_ms >= ?{only}", [since_s * 1000, *values]
    failed = ", ".join(f"'{outcome}'" for outcome in sorted(FAILED))
    found = connection.execute(
        f"SELECT {of}, max(ended_ms), max(model), "
        f"coalesce(max(CASE WHEN outcome IN ({failed}) THEN outcome END), max(outcome)), "
        f"sum(outcome <> 'rejected'), sum(outcome IN ({failed})), sum(prompt_tokens), sum(cached_tokens), "
        "sum(generated_tokens), sum(compute_ns), sum(prefill_ns), sum(cost_nano), sum(outcome = 'rejected'), "
        f"sum(outcome = 'cached'), max(allowed), sum(reasoning_tokens) FROM requests "
        f"WHERE {where} GROUP BY 1 ORDER BY 2 DESC LIMIT ?",
        [*values, asked.limit],
    )
    rows = [
        UsageRow(
            f"{call:016x}", requests, failures, prompt, cached, generated, compute_ns / 1e9, prefill_ns / 1e9,
            rate_at(rates, ended_ms // 1000).of_compute(compute_ns / 1e9), model, outcome, rejected, answers, cost_nano,
            allowed, thought,
        )
        for (
            call, ended_ms, model, outcome, requests, failures, prompt, cached, generated, compute_ns, prefill_ns,
            cost_nano, rejected, answers, allowed, thought,
        ) in found
    ]  # fmt: skip
    (count,) = connection.execute(f"SELECT count(DISTINCT {of}) FROM requests WHERE {where}", values).fetchone()
    return rows, max(0, count - len(rows))


def _host(connection: sqlite3.Connection, rates: list[Rate], where: str, values: list[int]) -> HostUsage:
    up = dict(connection.execute(f"SELECT begin, up_ns FROM uptime WHERE {where}", values))
    used = dict(connection.execute(f"SELECT begin, sum(compute_ns) FROM sums WHERE {where} GROUP BY begin", values))
    up_s = core_s = busy_s = cost = idle_cost = 0.0
    for begin in up.keys() | used.keys():
        rate = rate_at(rates, begin)
        there_s, compute_s = up.get(begin, 0) / 1e9, used.get(begin, 0) / 1e9
        # A request counts for the hour that it ends in: that hour may have more computing than time.
        free_s = max(0.0, there_s * rate.cores - compute_s)
        up_s, core_s, busy_s = up_s + there_s, core_s + there_s * rate.cores, busy_s + compute_s
        cost += rate.of_compute(compute_s) + rate.of_idle(free_s)
        idle_cost += rate.of_idle(free_s)
    return HostUsage(up_s, core_s, min(1.0, busy_s / core_s) if core_s else 0.0, cost, idle_cost)


def _moment(begin: int, grain: int) -> str:
    return time.strftime("%Y-%m-%d" if grain == DAY else "%Y-%m-%dT%H:00Z", time.gmtime(begin))
