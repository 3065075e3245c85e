"""The detail screens as lines of text: what bounds each model, host, arena, models, bus. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from admin_tui.accounts.rows import facts, part, view_of
from admin_tui.bus.rows import faulty, known
from admin_tui.details import Details
from admin_tui.scheduler import bounds
from admin_tui.text import count, duration, percent, rate, sanitize, size
from bus.messages.details import BusReply, HostReply, ModelSheet, ModelsReply, PagesReply, StepsReply
from bus.messages.vitals import AccountsView


def lines(details: Details) -> list[str]:
    """One fact a line; nothing of what was not answered."""
    said: list[str] = []
    if details.steps is not None:
        said += _steps(details.steps)
    if details.host is not None:
        said += _host(details.host)
    if details.pages is not None and details.pages.heard_ns:
        said += _pages(details.pages)
    if details.models is not None:
        said += _models(details.models)
    if details.bus is not None:
        said += _bus(details.bus)
    if (view := view_of(details.allowances)) is not None:
        said += _accounts(view)
    return said


def _steps(reply: StepsReply) -> Iterator[str]:
    for steps in reply.models:
        what, helps = bounds.verdict(steps)
        name = sanitize(steps.model)
        yield f"steps: {name} {what.plain}" + (f"; {helps.plain}" if helps else "") + f" ({bounds.window(steps)})"
        parts = ", ".join(f"{share.bound.name} {percent(share.share)}" for share in bounds.shares(steps))
        yield (
            f"steps: {name} bound by {parts or 'nothing yet'}; {rate(steps.steps_per_s)}/s "
            f"p50 {duration(steps.step_p50_s)} p95 {duration(steps.step_p95_s)}"
        )


def _host(host: HostReply) -> Iterator[str]:
    memory = host.memory
    yield (
        f"host: {sanitize(host.host)} {sanitize(host.processor)}, {len(host.cores)} cores, {len(host.nodes)} nodes, "
        f"load {host.load[0]:.2f}, memory available {size(memory.available)} of {size(memory.total)}"
    )
    for gpu in host.gpus:
        slow = f", slowed by {', '.join(sanitize(reason) for reason in gpu.throttled)}" if gpu.throttled else ""
        yield (
            f"gpu: {gpu.gpu} {sanitize(gpu.name)} busy {percent(gpu.busy)} "
            f"memory {size(gpu.memory_used)} of {size(gpu.memory_total)}{slow}"
        )
    for pace in host.workers:
        yield (
            f"worker: {sanitize(pace.name)} {rate(pace.steps_per_s)} steps/s of {duration(pace.step_s)}, "
            f"busy {percent(pace.busy)}, {rate(pace.tokens_per_s)} tok/s, may use cpus {sanitize(pace.cpus)}"
        )


def _pages(pages: PagesReply) -> Iterator[str]:
    for entry in pages.pools:
        pool = entry.pool
        yield (
            f"pool: {sanitize(entry.model) or pool.pool} free {count(pool.free)} cached {count(pool.cached)} "
            f"pinned {count(pool.pinned)} leased {count(pool.leased)} of {count(pool.total)} pages"
        )
    for hot in pages.prefixes[:8]:
        yield (
            f"prefix: {hot.prefix.digest.hex()[:12]} of {sanitize(hot.model)}, {count(hot.prefix.tokens)} tokens, "
            f"{rate(hot.hits_per_min)} hits/min, held by {hot.prefix.refs}"
        )
    for holder in pages.holders:
        stale = f", stale: {sanitize(' '.join(holder.writers))} may still write" if holder.stale else ""
        yield (
            f"lease: {sanitize(holder.name)} epoch {holder.epoch} leased {count(holder.leased)} "
            f"pinned {count(holder.pinned)}{stale}"
        )


def _models(reply: ModelsReply) -> Iterator[str]:
    for sheet in reply.models:
        yield (
            f"weights: {sanitize(sheet.model)} {sanitize(sheet.source)} {sanitize(sheet.quantisation)} "
            f"{size(sheet.weight_bytes)}, {_keeps(sheet)}, "
            f"workers {sheet.workers_ready}/{sheet.workers}"
        )
        for what, held in sheet.device_memory:
            yield f"device memory: {sanitize(sheet.model)} {size(held)} {sanitize(what)}"
    for entry in reply.sheet:
        yield f"memory: {size(entry.bytes)} {sanitize(entry.kind)} {sanitize(entry.what)}"


def _keeps(sheet: ModelSheet) -> str:
    if sheet.kind != "generate":
        return f"an encoder of {sheet.dimensions} numbers"
    return f"a token's KV {size(sheet.kv_token_bytes)}"


def _bus(reply: BusReply) -> Iterator[str]:
    for endpoint in reply.endpoints:
        door = endpoint.door
        yield (
            f"door: {sanitize(endpoint.owner)} {sanitize(door.door)} {known(door.peers_total)} peers "
            f"in {rate(max(0.0, endpoint.in_per_s))}/s queue {count(door.queue)} "
            f"refused {count(sum(number for _, number in door.refused))}" + (" look at it" if faulty(endpoint) else "")
        )


def _accounts(view: AccountsView) -> Iterator[str]:
    for one in view.standings:
        f = facts(one)
        of = f"{sanitize(one.kind)} {sanitize(one.scope)} {sanitize(one.dimension)}"
        model = f" of {sanitize(one.model)}" if one.model else ""
        yield (
            f"allowance: {of}{model} limit {f['limit']:g} "
            f"used {f['used']:g} leased {f['leased']:g} left {f['left']:g}, {percent(part(one))} of it"
        )
