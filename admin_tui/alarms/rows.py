"""Findings and actions as table rows, and one of each in full. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.filters import Value
from admin_tui.glyphs import COLOURS, severity_glyph
from admin_tui.look import Look
from admin_tui.panel import Scene
from admin_tui.table import Column, Row
from admin_tui.text import NOTHING, duration, sanitize
from admin_tui.world import World
from bus.actionlog import ActionRecord
from bus.messages.observe import Finding
from bus.names import InvalidName, parse_process, parse_worker

ALARM_COLUMNS: Final = (
    Column("state", "STATE", 14),
    Column("code", "CODE", 20, screen=100),
    Column("subject", "WHAT", 22),
    Column("since", "FOR", 7, True),
    Column("text", "SAYS", 0),
    Column("note", "WHO LOOKS AFTER IT", 26, screen=140),
)
ALARM_SORTS: Final = ("severity", "since", "code", "subject")
ACTION_COLUMNS: Final = (
    Column("at", "TIME", 14),
    Column("user", "WHO", 10),
    Column("verb", "DID", 11),
    Column("object", "TO", 22),
    Column("result", "RESULT", 8),
    Column("reason", "REASON", 24, screen=110),
    Column("change", "CHANGE", 0, screen=100),
)
ACTION_SORTS: Final = ("at", "user", "verb", "object")
DEPTH: Final = 3


def key_of(finding: Finding) -> str:
    """Of its row."""
    return f"{finding.code} {finding.subject}"


def find(world: World, key: str | None) -> Finding | None:
    """The finding of a row."""
    return next((finding for finding in world.findings if key_of(finding) == key), None)


def alarm_rows(scene: Scene, look: Look) -> list[Row]:
    """Findings that stay, in order; those that nobody looks after first."""
    world = scene.world
    kept = [(finding, _facts(world, finding)) for finding in world.findings]
    kept = [(finding, f) for finding, f in kept if look.keeps(f, faulty=f["state"] == "firing")]
    if look.sort == "severity":
        kept.sort(key=lambda pair: (pair[1]["state"] != "firing", pair[1]["severity"] != "crit"), reverse=look.reverse)
    else:
        kept.sort(key=lambda pair: pair[1][look.sort], reverse=look.reverse != (look.sort == "since"))
    return [_alarm(scene, finding, f) for finding, f in kept]


def _facts(world: World, finding: Finding) -> dict[str, Value]:
    people = world.people
    acknowledged = people.note(finding.code, finding.subject, "acknowledged")
    silenced = people.note(finding.code, finding.subject, "silenced")
    note = silenced or acknowledged
    return {
        "state": "silenced" if silenced else "acknowledged" if acknowledged else "firing",
        "severity": finding.severity,
        "code": finding.code,
        "subject": finding.subject,
        "since": max(0.0, (world.at_ns - finding.since_ns) / 1e9),
        "text": finding.text,
        "user": note.user if note else "",
        "comment": note.comment if note else "",
    }


def _alarm(scene: Scene, finding: Finding, f: dict[str, Value]) -> Row:
    firing = f["state"] == "firing"
    state = severity_glyph(scene.glyphs, finding.severity) if firing else Text(scene.glyphs.dot, palette.FAINT)
    colour = COLOURS.get(finding.severity, palette.WARN) if firing else palette.SOFT
    state.append(f" {f['state']}", colour)
    said = sanitize(str(f["user"]), 20)
    comment = sanitize(str(f["comment"]), 60)
    cells = {
        "state": state,
        "code": Text(sanitize(finding.code, 40), palette.TEXT if firing else palette.SOFT),
        "subject": Text(sanitize(finding.subject, 64), colour),
        "since": Text(duration(float(f["since"])), palette.TEXT),
        "text": Text(sanitize(finding.text), palette.TEXT if firing else palette.SOFT),
        "note": Text(f"{said}: {comment}" if comment else said or NOTHING, palette.SOFT),
    }
    return Row(key_of(finding), cells)


def action_key(record: ActionRecord) -> str:
    """Of its row."""
    return f"{record.at} {record.process} {record.pid} {record.verb} {record.object}"


def action_rows(scene: Scene, look: Look) -> list[Row]:
    """The audit log, newest first."""
    kept = {}
    for record in scene.world.people.actions:
        facts: dict[str, Value] = {
            "at": record.at, "user": record.user, "verb": record.verb, "object": record.object,
            "result": record.result, "reason": record.reason, "program": record.program,
        }  # fmt: skip
        if look.keeps(facts, faulty=record.result != "done"):
            kept[action_key(record)] = (record, facts)
    ordered = sorted(kept.items(), key=lambda item: item[1][1][look.sort], reverse=look.reverse != (look.sort == "at"))
    return [_action(key, record) for key, (record, _) in ordered]


def _action(key: str, record: ActionRecord) -> Row:
    done = record.result == "done"
    cells = {
        "at": Text(time.strftime("%m-%d %H:%M:%S", time.localtime(record.at)), palette.SOFT),
        "user": Text(sanitize(record.user, 24), palette.TEXT),
        "verb": Text(sanitize(record.verb, 16), palette.WATER),
        "object": Text(sanitize(record.object, 64), palette.TEXT),
        "result": Text(record.result, palette.GOOD if done else palette.WARN),
        "reason": Text(sanitize(record.reason, 120) or NOTHING, palette.TEXT if record.reason else palette.FAINT),
        "change": Text(sanitize(_change(record), 200), palette.SOFT),
    }
    return Row(key, cells)


def _change(record: ActionRecord) -> str:
    return " -> ".join(filter(None, (record.before, record.after))) or record.detail


def finding_lines(scene: Scene, finding: Finding | None, width: int) -> list[Text]:
    """What to do about a finding, who looks after it, and what it comes from."""
    if finding is None:
        return [Text("nothing to report" if not scene.world.findings else "no finding", palette.FAINT)]
    people = scene.world.people
    lines = [Text(sanitize(finding.text, 300), palette.TEXT)]
    if finding.advice:
        lines.append(Text("do: ", palette.SOFT).append(sanitize(finding.advice, 300), palette.TEXT))
    for kind in ("acknowledged", "silenced"):
        if (note := people.note(finding.code, finding.subject, kind)) is not None:
            until = f" until {time.strftime('%m-%d %H:%M', time.localtime(note.until_s))}" if note.until_s else ""
            said = Text(f"{kind} by {sanitize(note.user, 40)}{until}", palette.WATER)
            lines.append(said.append(f"  {sanitize(note.comment, 200)}", palette.SOFT))
    chain = list(causes(scene.world, finding))
    if chain:
        lines.append(Text("comes from", palette.SOFT))
    for depth, cause in chain:
        line = Text(f"{'  ' * depth}{scene.glyphs.last} ", palette.FAINT)
        line.append_text(severity_glyph(scene.glyphs, cause.severity))
        line.append(f" {sanitize(cause.subject, 48)} ", f"bold {COLOURS.get(cause.severity, palette.WARN)}")
        lines.append(line.append(sanitize(cause.text, 200), palette.TEXT))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def causes(world: World, finding: Finding) -> Iterator[tuple[int, Finding]]:
    """Findings of what its subject stands on, and of what those stand on, with their depth."""
    seen = {(finding.code, finding.subject)}
    yield from _causes(world, finding, 0, seen)


def _causes(world: World, finding: Finding, depth: int, seen: set[tuple[str, str]]) -> Iterator[tuple[int, Finding]]:
    if depth >= DEPTH:
        return
    for other in world.findings:
        if (other.code, other.subject) not in seen and _stands_on(finding.subject, other.subject):
            seen.add((other.code, other.subject))
            yield depth, other
            yield from _causes(world, other, depth + 1, seen)


def _stands_on(subject: str, other: str) -> bool:
    """Whether one cannot be well where the other is not: models on their scheduler and workers, ranks on each other,
    everybody on the pages."""
    try:
        role, instance = parse_process(other)
    except InvalidName:
        return False
    try:
        own_role, own = parse_process(subject)
    except InvalidName:  # a model
        own_role, own = "", subject
    if role == "kv":
        return own_role not in ("kv", "metrics", "accounts", "supervisor")
    if role == "scheduler":
        return own_role == "ingress" or (not own_role and own == instance)
    if role != "worker":
        return False
    try:
        worker = parse_worker(instance)
        if own_role == "worker":
            mine = parse_worker(own)
            return mine[:2] == worker[:2] and mine != worker
    except InvalidName:
        return False
    return own == worker.model and own_role in ("", "scheduler")


def action_lines(record: ActionRecord | None, width: int) -> list[Text]:
    """One action in full."""
    if record is None:
        return [Text("nobody did anything", palette.FAINT)]
    who = f"{sanitize(record.user, 40)} (uid {record.uid}, {sanitize(record.program, 8)} {record.pid})"
    lines = [
        Text(f"{who} at {sanitize(record.process, 64)}", palette.TEXT),
        Text("said: ", palette.SOFT).append(sanitize(record.detail, 400) or NOTHING, palette.TEXT),
        Text("why: ", palette.SOFT).append(sanitize(record.reason, 400) or NOTHING, palette.TEXT),
    ]
    if record.before or record.after:
        lines.append(Text("before: ", palette.SOFT).append(sanitize(record.before, 300), palette.TEXT))
        lines.append(Text("after: ", palette.SOFT).append(sanitize(record.after, 300), palette.TEXT))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines
