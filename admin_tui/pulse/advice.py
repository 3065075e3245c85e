"""What needs the operator, with what to do about it; and every process at a glance. Pure drawings."""

from __future__ import annotations

from textwrap import wrap

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import spread
from admin_tui.glyphs import COLOURS, severity_glyph
from admin_tui.panel import Scene
from admin_tui.text import duration, sanitize, size
from bus.messages.observe import Finding

_ROUGHLY = ("dead", "late", "warming", "draining", "off", "ready")


def advisor(scene: Scene, width: int, height: int) -> list[Text]:
    """Findings with what to do about them: in full where there is room, one line each where there is not."""
    findings = scene.world.findings
    if not findings:
        return [Text("nothing needs you" if scene.world.heard_ns else "nothing heard yet", palette.FAINT)]
    in_full = [line for finding in findings for line in _in_full(scene, finding, width)]
    if len(in_full) <= height:
        return in_full
    fits = len(findings) if len(findings) <= height else max(1, height - 1)
    lines = [_head(scene, finding, width, sanitize(finding.text)) for finding in findings[:fits]]
    if fits < len(findings):
        lines.append(Text(f"  {len(findings) - fits} more", palette.FAINT))
    return lines


def _head(scene: Scene, finding: Finding, width: int, text: str) -> Text:
    line = severity_glyph(scene.glyphs, finding.severity)
    line.append(f" {sanitize(finding.subject, 48)}", f"bold {COLOURS.get(finding.severity, palette.WARN)}")
    line.append(f"  {text}" if text else "", palette.TEXT)
    return spread(line, Text(duration((scene.world.at_ns - finding.since_ns) / 1e9), palette.SOFT), width)


def _in_full(scene: Scene, finding: Finding, width: int) -> list[Text]:
    lines = [_head(scene, finding, width, "")]
    room = max(8, width - 4)
    lines += [Text(f"  {part}", palette.TEXT) for part in wrap(sanitize(finding.text), room)]
    for number, part in enumerate(wrap(sanitize(finding.advice), room)):
        lines.append(Text(f"  {scene.glyphs.last if number == 0 else ' '} {part}", palette.SOFT))
    return lines


def processes(scene: Scene, width: int, height: int) -> list[Text]:
    """One process a line, the troubled ones first; CPU and memory at the right."""
    world = scene.world
    names = sorted(world.names(), key=lambda name: (_ROUGHLY.index(world.condition(name)), name))
    fits = len(names) if len(names) <= height else max(1, height - 1)
    lines = []
    for name in names[:fits]:
        condition = world.condition(name)
        left = Text(f"{scene.glyphs.states[condition]} ", COLOURS[condition])
        left.append(f"{condition:<9}", COLOURS[condition])
        left.append(sanitize(name, 64), palette.TEXT)
        sample = world.processes.get(name)
        right = Text()
        if sample is not None:
            right.append(f" {100 * world.pace(name).cores:>3.0f} %{size(sample.rss_bytes):>6}", palette.SOFT)
        lines.append(spread(left, right, width))
    if fits < len(names):
        lines.append(Text(f"{len(names) - fits} more", palette.FAINT))
    return lines or [Text("none heard of", palette.FAINT)]
