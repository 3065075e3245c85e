"""One request explained: where its time went as one bar, then event by event. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import segments
from admin_tui.glyphs import Glyphs
from admin_tui.text import count, duration, sanitize
from bus.messages.telemetry import TimelineEvent

CHUNKS_SHOWN: Final = 4
_PHASES: Final = (("queue", palette.QUEUE), ("prefill", palette.PREFILL), ("decode", palette.DECODE))
_SIGNS: Final = {
    "held": palette.WARN, "preempted": palette.WARN, "resumed": palette.WATER, "stalled": palette.WARN,
    "first_token": palette.GOOD, "finished": palette.GOOD, "aborted": palette.CRIT, "refused": palette.CRIT,
}  # fmt: skip
_WARNINGS: Final = ("held", "preempted", "stalled")
_ENDS: Final = ("finished", "aborted", "refused")


class Phases(NamedTuple):
    """Seconds of each phase; a phase that was not reached is 0."""

    queue: float
    prefill: float
    decode: float

    @property
    def whole(self) -> float:
        """From the first event to the last."""
        return self.queue + self.prefill + self.decode


def phases(events: Sequence[TimelineEvent], now_ns: int) -> Phases:
    """Split the time of a request; `now_ns` ends one that is still running."""
    if not events:
        return Phases(0.0, 0.0, 0.0)
    began = events[0].at_ns
    ended = events[-1].at_ns if events[-1].kind in _ENDS else max(now_ns, events[-1].at_ns)
    admitted = _first(events, "admitted", ended)
    first = max(admitted, _first(events, "first_token", ended))
    return Phases((admitted - began) / 1e9, (first - admitted) / 1e9, (ended - first) / 1e9)


def _first(events: Sequence[TimelineEvent], kind: str, otherwise: int) -> int:
    return next((event.at_ns for event in events if event.kind == kind), otherwise)


def lines(events: Sequence[TimelineEvent], now_ns: int, width: int, glyphs: Glyphs) -> list[Text]:
    """The bar with its legend, then one line an event; chunks beyond the first few are told together."""
    if not events:
        return [Text("no events: unknown, or too long ago", palette.FAINT)]
    split = phases(events, now_ns)
    drawn = [segments([(split[i], colour) for i, (_, colour) in enumerate(_PHASES)], width, glyphs), _legend(split)]
    began, previous = events[0].at_ns, events[0].at_ns
    for is_chunk, run in groupby(events, key=lambda event: event.kind == "chunk"):
        group = list(run)
        shown = group[:CHUNKS_SHOWN] if is_chunk and len(group) > CHUNKS_SHOWN + 1 else group
        for event in shown:
            drawn.append(_event_line(event, began, previous, events, glyphs))
            previous = event.at_ns
        if rest := group[len(shown) :]:
            tokens = sum(event.value for event in rest)
            told = f"{len(rest)} more chunks, {count(tokens)} tokens in {duration((rest[-1].at_ns - previous) / 1e9)}"
            drawn.append(_line(rest[-1].at_ns - began, glyphs.branch, "prefill", told, palette.PREFILL))
            previous = rest[-1].at_ns
    if events[-1].kind not in _ENDS:
        drawn.append(_line(max(0, now_ns - began), glyphs.last, "now", "in hand", palette.WATER))
    return drawn


def _legend(split: Phases) -> Text:
    text = Text()
    for (name, colour), seconds in zip(_PHASES, split, strict=True):
        text.append(f"{name} ", colour)
        text.append(f"{duration(seconds)}   ", palette.TEXT)
    text.append(f"total {duration(split.whole)}", palette.SOFT)
    return text


def _line(offset_ns: int, mark: str, name: str, what: str, colour: str) -> Text:
    line = Text(f"{offset_ns / 1e9:>9.3f} ", palette.SOFT)
    line.append(f"{mark} ", palette.FAINT)
    line.append(f"{name:<13}", colour)
    line.append(what, palette.TEXT)
    return line


def _event_line(
    event: TimelineEvent, began: int, previous: int, events: Sequence[TimelineEvent], glyphs: Glyphs
) -> Text:
    mark = glyphs.last if event is events[-1] and event.kind in _ENDS else glyphs.branch
    colour = _SIGNS.get(event.kind, palette.PREFILL if event.kind == "chunk" else palette.SOFT)
    name, what = _told(event, began, previous, events)
    sign = f"{glyphs.states['late']} " if event.kind in _WARNINGS else ""
    return _line(event.at_ns - began, mark, name, sign + what, colour)


def _told(event: TimelineEvent, began: int, previous: int, events: Sequence[TimelineEvent]) -> tuple[str, str]:
    """A name and a sentence for an event."""
    detail = sanitize(event.detail, 120)
    also = f" ({detail})" if detail else ""
    since_began, since_previous = duration((event.at_ns - began) / 1e9), duration((event.at_ns - previous) / 1e9)
    match event.kind:
        case "received":
            return "ingress", f"request read{also}"
        case "tokenized":
            return "ingress", f"template and tokens in {since_previous}: {count(event.value)} prompt tokens{also}"
        case "submitted":
            return "ingress", f"sent to the scheduler{also}"
        case "queued":
            return "queue", f"accepted, {count(event.value)} before it{also}"
        case "held":
            return "queue", f"held{f': {detail}' if detail else ''}"
        case "admitted":
            return "queue", f"placed on replica {event.value} after {since_began}{also}"
        case "hit":
            prompt = next((e.value for e in events if e.kind == "tokenized"), 0)
            share = f" of {count(prompt)}" if prompt else ""
            return "prefix", f"found {count(event.value)}{share} tokens{also}"
        case "chunk":
            return "prefill", f"{count(event.value)} tokens, step {count(event.step)}, {since_previous}{also}"
        case "first_token":
            return "first token", f"after {since_began}{also}"
        case "preempted":
            return "preempted", f"gave its pages up{f': {detail}' if detail else ''}"
        case "resumed":
            return "resumed", detail or "on another replica or after a restart"
        case "stalled":
            return "gap", f"{duration(event.value / 1e9)} between two tokens, step {count(event.step)}{also}"
        case "finished":
            return "finished", f"{detail or 'done'}, {count(event.value)} tokens{_per_token(event, events)}"
        case "aborted":
            return "aborted", detail or "by the client"
        case "refused":
            return "refused", detail
        case "named":
            return "ingress", f"a choice of {detail}"
        case "parsed":
            return "ingress", f"request read and parsed in {since_previous}"
        case "rendered":
            return "ingress", f"template rendered in {since_previous}"
        case "orphaned":
            return "recovery", f"its scheduler went away{also}"
        case "adopted":
            return "recovery", "taken over from an ingress that died"
        case "told":
            return "ingress", f"made into text, which took {duration(event.value / 1e9)} in all"
        case "delivered":
            return "ingress", f"written to the client, which was waited for {duration(event.value / 1e9)}"


def _per_token(end: TimelineEvent, events: Sequence[TimelineEvent]) -> str:
    first = _first(events, "first_token", 0)
    return f", {duration((end.at_ns - first) / (end.value - 1) / 1e9)} each" if first and end.value > 1 else ""
