"""One request explained: what took longest, where its time went as one bar, wait by wait, event by event. Pure.

What caused what, the metrics process says (`TimelineReply.spans`): the same as `headrace explain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Final, NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import segments
from admin_tui.glyphs import Glyphs
from admin_tui.text import count, duration, request_id, sanitize
from bus.messages.observe import Phase, Span, TimelineReply
from bus.messages.telemetry import TimelineEvent

CHUNKS_SHOWN: Final = 4
MARGIN: Final = 35  # columns before what is told
_PHASES: Final = (("queue", palette.QUEUE), ("prefill", palette.PREFILL), ("decode", palette.DECODE))
_COLOURS: Final[dict[Phase, str]] = {
    "ingress": palette.SOFT, "queue": palette.QUEUE, "prefill": palette.PREFILL, "decode": palette.DECODE,
    "recovery": palette.CRIT, "delivery": palette.SOFT,
}  # fmt: skip
_SIGNS: Final = {
    "held": palette.WARN, "preempted": palette.WARN, "resumed": palette.WATER, "stalled": palette.WARN,
    "first_token": palette.GOOD, "finished": palette.GOOD, "aborted": palette.CRIT, "refused": palette.CRIT,
}  # fmt: skip
_WARNINGS: Final = ("held", "preempted", "stalled")
_NO_TROUBLE: Final = ("turn", "lookup")  # why requests are held that are just on their way
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
    over = any(event.kind in _ENDS for event in events)
    ended = events[-1].at_ns if over else max(now_ns, events[-1].at_ns)
    admitted = _first(events, "admitted", ended)
    first = max(admitted, _first(events, "first_token", ended))
    return Phases((admitted - began) / 1e9, (first - admitted) / 1e9, (ended - first) / 1e9)


def _first(events: Sequence[TimelineEvent], kind: str, otherwise: int) -> int:
    return next((event.at_ns for event in events if event.kind == kind), otherwise)


def lines(reply: TimelineReply, now_ns: int, width: int, glyphs: Glyphs) -> list[Text]:
    """What took longest, where the time went as one bar, the account span by span, then the events it was made from."""
    if not reply.events:
        return [Text("no events: unknown, or too long ago", palette.FAINT)]
    if not reply.spans:  # of a metrics process that does not account
        split = phases(reply.events, now_ns)
        parts = [(split[i], colour) for i, (_, colour) in enumerate(_PHASES)]
        return [segments(parts, width, glyphs), _legend(split), *event_lines(reply.events, now_ns, glyphs)]
    drawn = [Text(part, palette.TEXT) for part in wrap(sanitize(reply.verdict, 400), max(20, width))]
    drawn += [_span_bar(reply.spans, width, glyphs), _span_legend(reply.spans)]
    drawn += span_lines(reply.spans, width, glyphs)
    if (others := len(reply.choices) - 1) > 0:
        drawn.append(Text(f"one of {others + 1} choices of {sanitize(reply.response, 40)}", palette.SOFT))
    return [*drawn, Text("events", palette.FAINT), *event_lines(reply.events, now_ns, glyphs)]


def span_lines(spans: Sequence[Span], width: int, glyphs: Glyphs) -> list[Text]:
    """A span a line with its cause; what is slow has a sign and all of its words. Others in a row are told together."""
    began = spans[0].begin_ns
    drawn: list[Text] = []
    for cause, run in groupby(spans, key=lambda span: None if span.slow else (span.phase, span.cause)):
        group = list(run)
        shown = group if cause is None or len(group) <= CHUNKS_SHOWN + 1 else group[:CHUNKS_SHOWN]
        for span in shown:
            drawn += _span_line(span, began, width, glyphs)
        if rest := group[len(shown) :]:
            phase, took = rest[0].phase, duration((rest[-1].end_ns - rest[0].begin_ns) / 1e9)
            told = f"{len(rest)} more such in {took}"
            drawn.append(_line(rest[0].begin_ns - began, glyphs.branch, phase, told, _COLOURS[phase]))
    return drawn


def _span_line(span: Span, began: int, width: int, glyphs: Glyphs) -> list[Text]:
    took = duration((span.end_ns - span.begin_ns) / 1e9) if span.end_ns > span.begin_ns else ""
    sign = glyphs.states["late"] if span.slow else " "
    parts = wrap(sanitize(span.text, 400), max(20, width - MARGIN)) or [""]
    what = f"{took:>7} {sign} {parts[0]}"
    first = _line(span.begin_ns - began, glyphs.branch, span.phase, what, _COLOURS[span.phase])
    if not span.slow:
        return [first]
    return [first, *(Text(f"{'':{MARGIN}}{part}", palette.TEXT) for part in parts[1:])]


def _span_bar(spans: Sequence[Span], width: int, glyphs: Glyphs) -> Text:
    return segments([(float(span.end_ns - span.begin_ns), _COLOURS[span.phase]) for span in spans], width, glyphs)


def _span_legend(spans: Sequence[Span]) -> Text:
    text = Text()
    for phase, colour in _COLOURS.items():
        if took := sum(span.end_ns - span.begin_ns for span in spans if span.phase == phase):
            text.append(f"{phase} ", colour)
            text.append(f"{duration(took / 1e9)}   ", palette.TEXT)
    text.append(f"total {duration((spans[-1].end_ns - spans[0].begin_ns) / 1e9)}", palette.SOFT)
    return text


def event_lines(events: Sequence[TimelineEvent], now_ns: int, glyphs: Glyphs) -> list[Text]:
    """One line an event; chunks beyond the first few are told together."""
    drawn: list[Text] = []
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
    if not any(event.kind in _ENDS for event in events):
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
    warns = event.kind in _WARNINGS and event.detail not in _NO_TROUBLE
    sign = f"{glyphs.states['late']} " if warns else ""
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
            whose = f" of {', '.join(map(request_id, event.others))}" if event.others else ""
            return "queue", f"held{f': {detail}' if detail else ''}{whose}"
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
            whom = f" to {', '.join(map(request_id, event.others))}" if event.others else ""
            return "preempted", f"gave its pages up{whom}{f': {detail}' if detail else ''}"
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
        case "called":
            return "ingress", f"its client calls it {detail}"
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
