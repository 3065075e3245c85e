"""`headrace explain`: where one request's time went, as a waterfall. What caused what, the metrics process says."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.observe import GetTimeline, Span, TimelineReply, ToObserver
from bus.names import METRICS, OBSERVE_DOOR
from cli.supervisor.logfiles import printable

PATIENCE_S: Final = 3.0
BAR: Final = 28
MOST_ROWS: Final = 24
MARGIN: Final = 44  # columns before the text
_RESPONSE: Final = re.compile(r"(chatcmpl-|cmpl-|resp_|msg_|embd-|rerank-|req_)([0-9a-f]{16})(:\d+)?")
_HEX: Final = re.compile(r"(0x)?([0-9a-f]{4,16})")
_CALLED: Final = re.compile(r"[\x21-\x7e]{1,512}")
_COLOURS: Final[dict[str, str]] = {
    "ingress": "cyan", "queue": "yellow", "prefill": "magenta", "decode": "blue", "recovery": "red",
    "delivery": "cyan",
}  # fmt: skip


class NotAnId(ValueError):
    """The text names no request."""


class Row(msgspec.Struct, frozen=True):
    """A line of the waterfall: one span, or several: of a kind, or `mixed`."""

    span: Span
    spans: int = 1
    mixed: bool = False


def question(text: str) -> GetTimeline:
    """What to ask for an id as clients or screens show it.

    Raises:
        NotAnId: it is neither.
    """
    given = text.strip()
    if (response := _RESPONSE.fullmatch(given.lower())) is not None:
        name = f"{response[1]}{response[2]}"
        return GetTimeline(1, int(response[2], 16), name)
    if (number := _HEX.fullmatch(given.lower())) is not None:
        digits = number[2]
        exact = int(digits, 16) if len(digits) > 8 else 0
        return GetTimeline(1, exact, given, suffix=digits.lstrip("0") or "0")
    if _CALLED.fullmatch(given) is not None:
        return GetTimeline(1, 0, given)
    raise NotAnId(
        f"{printable(text)} is no request id: give that of a response (chatcmpl-…, cmpl-…), 4 to 16 hexadecimal digits "
        "as `headrace top` shows them, or what the client called it (X-Client-Request-Id)"
    )


def rows(spans: Sequence[Span], most: int = MOST_ROWS) -> list[Row]:
    """Spans as lines, neighbours of one cause together where there are too many; what is slow keeps its own line."""
    lines = [Row(span) for span in spans]
    if len(lines) <= most:
        return lines
    together: list[Row] = []
    for row in lines:
        last = together[-1] if together else None
        alike = last is not None and (last.span.phase, last.span.cause) == (row.span.phase, row.span.cause)
        if last is not None and alike and not last.span.slow and not row.span.slow:
            merged = msgspec.structs.replace(last.span, end_ns=row.span.end_ns, requests=())
            together[-1] = Row(merged, last.spans + 1)
        else:
            together.append(row)
    if len(together) <= most:
        return together
    # The longest ones stay; what is between two of them is told as one line.
    longest = sorted(together, key=lambda row: row.span.begin_ns - row.span.end_ns)[: most // 2]
    keep = {id(row) for row in longest}
    kept: list[Row] = []
    for row in together:
        last = kept[-1] if kept else None
        if id(row) in keep or last is None or id(last) in keep:
            kept.append(row)
        else:
            merged = msgspec.structs.replace(last.span, end_ns=row.span.end_ns, requests=(), slow=False)
            kept[-1] = Row(merged, last.spans + row.spans, mixed=True)
    return kept


def explain(text: str, *, as_json: bool) -> int:
    """Ask, print. Exit code 1 where the request is unknown, 2 where the text is no id, 69 where nobody answers."""
    try:
        asked = question(text)
    except NotAnId as error:
        print(error, file=sys.stderr)
        return 2
    reply = ask(asked)
    if reply is None:
        print(
            f"{METRICS} does not answer: it keeps the timelines (headrace status shows whether it runs)",
            file=sys.stderr,
        )
        return 69
    if not reply.events:
        print(
            f"nothing is known of {printable(text)}: it was never here, is more than [metrics] timelines requests ago, "
            "or was before the metrics process last started",
            file=sys.stderr,
        )
        return 1
    if as_json:
        print(msgspec.json.encode(as_values(reply)).decode())
    else:
        _print(reply)
    return 0


def as_values(reply: TimelineReply) -> dict[str, Any]:
    """For programs: ids as hexadecimal, times in ns since the request's first event."""
    begin = reply.events[0].at_ns
    return {
        "request": f"{reply.request:016x}",
        "response": reply.response,
        "model": reply.model,
        "choices": [f"{request:016x}" for request in reply.choices],
        "verdict": reply.verdict,
        "total_ns": reply.spans[-1].end_ns - begin if reply.spans else 0,
        "spans": [
            {
                "phase": span.phase, "cause": span.cause, "begin_ns": span.begin_ns - begin,
                "end_ns": span.end_ns - begin, "text": span.text, "step": span.step, "replica": span.replica,
                "requests": [f"{request:016x}" for request in span.requests], "slow": span.slow,
            }
            for span in reply.spans
        ],
        "events": [
            {
                "at_ns": event.at_ns - begin, "kind": event.kind, "value": event.value, "step": event.step,
                "replica": event.replica, "detail": event.detail,
                "others": [f"{request:016x}" for request in event.others],
            }
            for event in reply.events
        ],
    }  # fmt: skip


def ask(asked: GetTimeline) -> TimelineReply | None:
    """The metrics process's answer; None where there is none in time."""
    loop = PollLoop()
    answers: list[TimelineReply] = []

    def receive(message: ToObserver) -> None:
        if isinstance(message, TimelineReply):
            answers.append(message)

    link: Link[ToObserver] = Link(
        Visitor("cli", loop), METRICS, OBSERVE_DOOR, "observe", ToObserver, on_message=receive
    )
    try:
        until, sent = time.monotonic() + PATIENCE_S, False
        while not answers and time.monotonic() < until and not link.refusal:
            sent = sent or (link.up and link.send(asked))
            loop.turn(0.05)
        return answers[0] if answers else None
    finally:
        link.close()
        loop.close()


def _print(reply: TimelineReply) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(100, console.width) if console.is_terminal else 10_000
    begin, end = reply.spans[0].begin_ns, reply.spans[-1].end_ns
    head = Text(f"request {reply.request:016x}", "bold")
    head.append(f"  {printable(reply.model)}" if reply.model else "", "default")
    head.append(f"  {printable(reply.response)}" if reply.response else "", "dim")
    console.print(head)
    console.print(Text(printable(reply.verdict)))
    console.print()
    for row in rows(reply.spans):
        console.print(_line(row, begin, max(1, end - begin), width))
    others = [request for request in reply.choices if request != reply.request]
    if others:
        console.print()
        console.print(Text(f"{len(others)} more choices: " + ", ".join(f"headrace explain {n:016x}" for n in others)))


def _line(row: Row, begin: int, whole: int, width: int) -> Text:
    span, colour = row.span, _COLOURS[row.span.phase]
    length = span.end_ns - span.begin_ns
    first = min(BAR - 1, (span.begin_ns - begin) * BAR // whole)
    last = max(first + 1, min(BAR, -(-(span.end_ns - begin) * BAR // whole)))
    line = Text(f"{(span.begin_ns - begin) / 1e9:>8.3f} {_length(length):>8} ", "dim")
    line.append(" " * first)
    line.append(("█" if length else "·") * (last - first), colour)
    line.append(" " * (BAR - last))
    line.append(f" {'▲' if span.slow else ' '} ", "yellow")
    line.append(f"{span.phase:<9}", colour)
    told = "short ones" if row.mixed else "like this"
    text = f"{row.spans} {told}, the first: {span.text}" if row.spans > 1 else span.text
    line.append(printable(text))
    line.truncate(max(MARGIN, width), overflow="ellipsis")
    return line


def _length(ns: int) -> str:
    ms = ns / 1e6
    return "" if not ns else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"
