"""A request explained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from admin_tui.glyphs import UNICODE
from admin_tui.requests.timeline import lines, phases
from bus.messages.observe import Span, TimelineReply
from bus.messages.telemetry import TimelineEvent

MS = 1_000_000


def event(at_ms: int, kind: str, value: int = 0, detail: str = "", step: int = 0) -> TimelineEvent:
    return TimelineEvent(1, at_ms * MS, kind, value, step, detail)  # type: ignore[arg-type]


STORY = (
    event(0, "received"), event(4, "tokenized", 400), event(5, "submitted"), event(6, "queued", 2),
    event(7, "held", detail="no pages"), event(100, "admitted", 1), event(101, "hit", 200),
    *(event(110 + 10 * n, "chunk", 20, step=n) for n in range(10)),
    event(210, "first_token"), event(500, "stalled", 90 * MS, step=44), event(1210, "finished", 101, "stop"),
)  # fmt: skip


def told(events: tuple[TimelineEvent, ...], now_ms: int = 0) -> list[str]:
    return [line.plain for line in lines(TimelineReply(0, 1, events), now_ms * MS, 100, UNICODE)]


def test_time_is_split_into_queue_prefill_and_decode() -> None:
    assert phases(STORY, 0) == (0.1, 0.11, 1.0)


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(["queued", "admitted", "first_token", "finished"]))))
def test_phases_add_up_to_the_whole_whatever_is_missing(happened: list[tuple[int, str]]) -> None:
    events = sorted((event(at, kind) for at, kind in happened), key=lambda e: e.at_ns)
    split = phases(events, 1000 * MS)
    assert all(seconds >= 0 for seconds in split)
    if events:
        ended = events[-1].at_ns if any(e.kind == "finished" for e in events) else 1000 * MS
        assert round(split.whole * 1e9) == ended - events[0].at_ns


def test_each_event_is_a_line_and_many_chunks_are_told_together() -> None:
    text = "\n".join(told(STORY))
    assert "held: no pages" in text
    assert "found 200 of 400 tokens" in text
    assert "6 more chunks, 120 tokens" in text
    assert text.count("prefill ") == 6  # legend, four chunks, the rest
    assert "▲ 90 ms between two tokens, step 44" in text
    assert "stop, 101 tokens, 10 ms each" in text
    assert "in hand" not in text


def test_a_request_in_hand_goes_on_until_now() -> None:
    assert told(STORY[:3], now_ms=2000)[-1].endswith("in hand")
    assert "total 2.0 s" in told(STORY[:3], now_ms=2000)[1]


def test_an_unknown_request_says_so() -> None:
    assert told(()) == ["no events: unknown, or too long ago"]


SPANS = (
    Span("ingress", "parse", 0, 4 * MS, "read and checked the request"),
    Span("queue", "pages", 4 * MS, 700 * MS, "waited for 41 pages: 0000bbbb", 0, -1, (0xBBBB,), slow=True),
    *(Span("prefill", "chunk", (700 + n) * MS, (701 + n) * MS, f"20 tokens in step {n}", n, 0) for n in range(9)),
    Span("decode", "prompts", 709 * MS, 1000 * MS, "step 9 computed prompts: " + 12 * "word ", 9, 0, (), slow=True),
)  # fmt: skip


def test_the_account_of_the_metrics_process_is_shown_with_its_causes() -> None:
    reply = TimelineReply(0, 1, STORY, SPANS, verdict="696 ms of 1.00 s went into waiting for pages", choices=(1, 2))
    drawn = [line.plain for line in lines(reply, 0, 80, UNICODE)]
    assert drawn[0] == "696 ms of 1.00 s went into waiting for pages"
    (held,) = [line for line in drawn if "41 pages" in line]
    assert "▲" in held
    assert "queue" in held
    assert any("5 more such" in line for line in drawn)
    assert sum("word" in line for line in drawn) > 1  # what is slow has all of its words
    assert all(len(line) <= 80 for line in drawn[: drawn.index("events")])
    assert "one of 2 choices" in "\n".join(drawn)
