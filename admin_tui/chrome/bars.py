"""The top bar, the alarm line and the key line, as pure drawings."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import spread
from admin_tui.glyphs import COLOURS, severity_glyph
from admin_tui.panel import Scene
from admin_tui.text import duration, sanitize

Keys = Sequence[tuple[str, str]]
BANNER_ADVICE: Final = "see: headrace status, systemctl status"


class Status(NamedTuple):
    """What the top bar says beside the world."""

    label: str
    paused: bool
    clock: str


def wall_clock() -> str:
    """Time of day."""
    return time.strftime("%H:%M:%S")


def host_name() -> str:
    """This host, for the top bar."""
    return sanitize(socket.gethostname(), 24)


def top_bar(scene: Scene, status: Status, host: str, width: int) -> Text:
    """`headrace  host  models  ● 6 ok ▲ 1 warn ✖ 0 crit      12:00:00  live 2 Hz`."""
    world, glyphs = scene.world, scene.glyphs
    left = Text(" headrace", f"bold {palette.WATER}")
    left.append(f"  {host}", palette.TEXT)
    names = [sanitize(model.model, 24) for model in world.models]
    if names and width >= 100:
        left.append("  " + ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else ""), palette.SOFT)
    right = _health(scene)
    right.append(f"  {status.clock}  ", palette.SOFT)
    age = world.age_s(scene.now_ns)
    if status.paused:
        right.append("paused ", f"bold {palette.WARN}")
    elif world.stale(scene.now_ns):
        right.append(f"{glyphs.states['late']} stale {duration(age)} ", f"bold {palette.WARN}")
    else:
        right.append(f"{status.label} 2 Hz ", palette.GOOD)
    return spread(left, right, width)


def _health(scene: Scene) -> Text:
    world, glyphs = scene.world, scene.glyphs
    warn = sum(finding.severity == "warn" for finding in world.findings)
    crit = len(world.findings) - warn
    well = sum(world.condition(name) == "ready" for name in world.names())
    text = Text()
    for condition, number, word, colour in (
        ("ready", well, "ok", COLOURS["ready"]),
        ("late", warn, "warn", COLOURS["warn"] if warn else palette.FAINT),
        ("dead", crit, "crit", COLOURS["crit"] if crit else palette.FAINT),
    ):
        text.append(f"{glyphs.states[condition]} {number} {word}  ", colour)
    return text


def alarm_line(scene: Scene, width: int) -> Text:
    """The worst finding; where the bus is gone, that, with how old everything on the screen is."""
    world, glyphs = scene.world, scene.glyphs
    if world.down or world.vitals:
        age = world.age_s(scene.now_ns)
        why = sanitize(world.down, 40) or "does not answer"
        seen = f"what you see is {duration(age)} old" if world.heard_ns else "nothing seen yet"
        line = Text(f" {glyphs.states['dead']} no word from metrics@host ({why}), {seen}")
        doors = "; Fleet asks processes themselves" if world.vitals else ""
        line.append(f"{doors}  {BANNER_ADVICE}")
        line.stylize(f"bold {palette.GROUND} on {palette.CRIT}")
        line.pad_right(max(0, width - line.cell_len))
        line.truncate(width)
        return line
    loud = [finding for finding in world.findings if not world.people.quiet(finding.code, finding.subject)]
    if not loud:
        quiet = f", {len(world.findings)} that somebody looks after or has silenced" if world.findings else ""
        return Text(f" {glyphs.states['ready']} nothing to report{quiet}", palette.FAINT)
    worst = loud[0]
    line = Text(" ")
    line.append_text(severity_glyph(glyphs, worst.severity))
    line.append(f" {sanitize(worst.subject, 48)} ", f"bold {COLOURS.get(worst.severity, palette.WARN)}")
    line.append(sanitize(worst.text), palette.TEXT)
    more = len(loud) - 1
    since = duration((world.at_ns - worst.since_ns) / 1e9)
    tail = Text(f"for {since}" + (f"  +{more} more " if more else " "), palette.SOFT)
    return spread(line, tail, width)


def key_lines(tabs: Keys, keys: Keys, active: str, width: int, height: int, *, may_act: bool = True) -> Text:
    """The screens, the active one lit, and the keys of this one: a line each, or on one line the screens as digits.

    Where not all keys fit, the last two stay: help and quit.
    """
    screens = Text(" ")
    for key, title in tabs:
        lit = title == active
        screens.append_text(_key(key, title if lit or height > 1 else "", lit=lit))
    pieces = [_key(key, label, lit=False, may_act=may_act) for key, label in keys]
    last = Text().join(pieces[-2:])
    line = screens if height == 1 else Text(" ")
    if height == 1:
        line.append(" ")
    for piece in pieces[:-2]:
        if line.cell_len + piece.cell_len + last.cell_len - 2 > width:
            break
        line.append_text(piece)
    line.append_text(last)
    return line if height == 1 else Text("\n").join((line, screens))


def _key(key: str, label: str, *, lit: bool, may_act: bool = True) -> Text:
    acts = len(key) == 1 and key.isupper()
    if acts and not may_act:
        return Text(f"{key} {label}  ", palette.FAINT)
    piece = Text(key, f"bold {palette.WARN if acts else palette.WATER}")
    piece.append(f" {label}  " if label else " ", f"bold {palette.TEXT}" if lit else palette.SOFT)
    return piece
