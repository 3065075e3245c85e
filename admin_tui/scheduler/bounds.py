"""What keeps steps from doing more: words for each bound, shares of time, and what would help. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, bar
from admin_tui.text import count, duration, percent
from bus.messages.details import ModelSteps
from bus.messages.vitals import StepBound

IDLE: Final = "idle"
NEGLIGIBLE: Final = 0.05


class Bound(NamedTuple):
    """A bound in words.

    Attributes:
        why: what it means, in a few words.
        helps: what would make it faster; empty where nothing is wrong.
    """

    name: str
    colour: str
    why: str
    helps: str = ""


BOUNDS: Final[dict[StepBound | str, Bound]] = {
    IDLE: Bound(IDLE, palette.FAINT, "nobody asked for anything"),
    "demand": Bound("demand", palette.GOOD, "all that is asked for is in the step; nobody waits"),
    "slots": Bound("slots", palette.WARN, "requests wait: every slot is taken", "raise slots, or add a replica"),
    "kv_pages": Bound(
        "KV pages", palette.CRIT, "requests wait for pages", "raise [kv] arena, or lower context_tokens"
    ),
    "token_budget": Bound(
        "token budget", palette.PREFILL, "prompts are cut at step_tokens", "raise step_tokens, if pace allows it"
    ),
    "inter_token_target": Bound(
        "pace target", palette.WATER, "prompts are cut so that answers keep their pace",
        "raise inter_token_target_ms, add a replica, or split [model.pools]",
    ),
    "prefix": Bound("prefix", palette.GOOD, "who waits does so for KV that is on its way"),
    "pipeline": Bound(
        "pipeline", palette.CRIT, "workers wait although the plan was ready",
        "look at CPU of scheduler and workers on 3 Host, at delays on 8 Bus",
    ),
    "trial": Bound("trial", palette.WARN, "a request is suspected of crashing workers, and runs apart"),
    "memory": Bound(
        "memory", palette.CRIT, "steps are small after a worker ran out of memory", "lower step_tokens or slots"
    ),
}  # fmt: skip


class Share(NamedTuple):
    """A bound's share of the time of the window; steps is -1 for idle time."""

    bound: Bound
    share: float
    steps: int


def shares(steps: ModelSteps) -> list[Share]:
    """Where the time of the last steps went, the largest first; idle time and bounds add up to all of it."""
    worked = 1.0 - steps.idle_share
    found = [Share(BOUNDS[b.bound], b.time_share * worked, b.steps) for b in steps.bounds if b.steps]
    if steps.idle_share > 0:
        found.append(Share(BOUNDS[IDLE], steps.idle_share, -1))
    return sorted(found, key=lambda share: -share.share)


def verdict(steps: ModelSteps) -> tuple[Text, Text]:
    """What holds it back, if anything; and what would help."""
    found = [share for share in shares(steps) if share.bound.helps]
    if not steps.window:
        return Text("no steps yet", palette.FAINT), Text()
    if not found or found[0].share < NEGLIGIBLE:
        return Text("nothing holds it back: it does what is asked for", palette.GOOD), Text()
    worst = found[0]
    text = Text(f"{percent(worst.share)} of the time by {worst.bound.name}: ", f"bold {worst.bound.colour}")
    text.append(worst.bound.why, palette.TEXT)
    return text, Text(worst.bound.helps, palette.SOFT)


def lines(steps: ModelSteps, box: Box) -> list[Text]:
    """The verdict, on one line where it fits; then a bar a bound."""
    what, helps = verdict(steps)
    arrow = f" {box.glyphs.arrow} "
    if what.cell_len + len(arrow) + helps.cell_len <= box.width:
        drawn = [Text(arrow, palette.FAINT).join((what, helps)) if helps else what]
    else:
        drawn = [what, Text(f"  {box.glyphs.last} ", palette.FAINT).append_text(helps)]
    why = box.width >= 92
    room = max(6, min(36, box.width - 34 - 58 * why))
    for bound, share, number in shares(steps):
        line = Text(f"{bound.name:<13}", bound.colour)
        line.append(f"{percent(share):>6} ", f"bold {palette.TEXT}")
        line.append_text(bar(share, room, box.glyphs, bound.colour))
        line.append(f"  {f'{count(number)} steps' if number >= 0 else '':<12}", palette.SOFT)
        line.append(bound.why if why else "", palette.SOFT)
        drawn.append(line)
    return drawn


def window(steps: ModelSteps) -> str:
    """`last 1,000 steps, 2m10s`."""
    return f"last {count(steps.window)} steps, {duration(steps.window_s)}"
