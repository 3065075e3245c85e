"""The screens as lines of text or JSON: for pipes, logs and screen readers. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from admin_tui import plain_details
from admin_tui.details import Details
from admin_tui.fleet.rows import facts
from admin_tui.requests.rows import summary
from admin_tui.text import count, duration, percent, rate, sanitize, size
from admin_tui.world import World
from bus.messages.observe import ModelLoad


def lines(world: World, now_ns: int) -> list[str]:
    """Findings, models, pages, processes, requests: one fact a line, each line complete in itself."""
    said = [f"age: {duration(world.age_s(now_ns))}" + (f", metrics@host: {sanitize(world.down)}" if world.down else "")]
    for finding in world.findings:
        said.append(
            f"finding: {sanitize(finding.severity, 8)} {sanitize(finding.subject)}: {sanitize(finding.text)}; "
            f"{sanitize(finding.advice)}"
        )
    said += [_model(model) for model in world.models]
    pages = world.pages
    if pages.total:
        said.append(
            f"pages: {percent(world.pages_used())} in use of {count(pages.total)}; free {count(pages.free)}, "
            f"cached {count(pages.cached)}, pinned {count(pages.pinned)}, leased {count(pages.leased)}"
        )
    said += [_process(world, name) for name in world.names()]
    said.append(f"requests: {summary(world)}")
    return [*said, *plain_details.lines(world.details)]


def _model(model: ModelLoad) -> str:
    return (
        f"model: {sanitize(model.model)} replicas {model.replicas_ready}/{model.replicas} waiting {model.waiting} "
        f"running {model.running} output {rate(model.output_tokens_per_s)} tok/s "
        f"ttft p95 {duration(model.ttft_p95_s)} itl p95 {duration(model.itl_p95_s)} "
        f"prefix hits {percent(model.prefix_hit_ratio)} refused {rate(model.refused_per_s)}/s"
    )


def _process(world: World, name: str) -> str:
    f = facts(world, name)
    return (
        f"process: {sanitize(name)} {f['state']} pid {f['pid']} up {duration(float(f['since']))} "
        f"restarts {f['restarts']} cpu {float(f['cpu']):.0f} % memory {size(float(f['rss']))}"
    )


def as_json(world: World, now_ns: int) -> bytes:
    """Everything, with the field names of the bus messages."""
    document: dict[str, Any] = {
        "age_s": world.age_s(now_ns),
        "stale": world.stale(now_ns),
        "seq": world.seq,
        "models": [msgspec.structs.asdict(model) for model in world.models],
        "pages": msgspec.structs.asdict(world.pages),
        "processes": [
            {**facts(world, name), "progress": sample.progress if (sample := world.processes.get(name)) else 0}
            for name in world.names()
        ],
        "requests": [msgspec.structs.asdict(live) for live in world.requests],
        "requests_total": world.requests_total,
        "findings": [msgspec.structs.asdict(finding) for finding in world.findings],
        "recent": [msgspec.structs.asdict(done) for done in world.recent],
        **_details(world.details),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _details(details: Details) -> dict[str, Any]:
    """One key a screen; null where the metrics process did not answer."""
    return {
        "steps": _named(details.steps),
        "arena": _named(details.pages),
        "host": _named(details.host),
        "bus": _named(details.bus),
        "sheet": _named(details.models),
        "usage": _named(details.usage),
        "allowances": _named(details.allowances),
    }


def _named(value: object) -> Any:
    """Messages with the names of their fields, all the way down; bytes in hexadecimal."""
    if isinstance(value, msgspec.Struct):
        return {name: _named(field) for name, field in msgspec.structs.asdict(value).items() if name != "rid"}
    if isinstance(value, tuple):
        return [_named(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
