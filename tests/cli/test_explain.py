"""`headrace explain`: ids as people have them, and a waterfall that fits the screen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.messages.observe import GetTimeline, Span, TimelineReply
from bus.messages.telemetry import TimelineEvent
from cli.explain import NotAnId, as_values, question, rows

ID = 0x0CDA4687DC7ACFCB


def test_ids_are_taken_as_clients_and_screens_show_them() -> None:
    asked = question("chatcmpl-0cda4687dc7acfcb")
    assert (asked.request, asked.response) == (ID, "chatcmpl-0cda4687dc7acfcb")
    assert question(" cmpl-0cda4687dc7acfcb:17\n").response == "cmpl-0cda4687dc7acfcb"  # an event's id
    assert question("embd-0cda4687dc7acfcb").request == question("req_0cda4687dc7acfcb").request == ID
    assert question("0cda4687dc7acfcb") == GetTimeline(1, ID, "0cda4687dc7acfcb", "cda4687dc7acfcb")
    assert question("0xCDA4687DC7ACFCB").request == ID
    assert question("dc7acfcb") == GetTimeline(1, 0, "dc7acfcb", "dc7acfcb")
    assert question("Client-7/a") == GetTimeline(1, 0, "Client-7/a")  # what a client called it


@pytest.mark.parametrize("text", ["", "a b", "caf\xe9", "x" * 513, "\x1b[31m"])
def test_anything_else_is_no_id_and_says_what_is(text: str) -> None:
    with pytest.raises(NotAnId, match="chatcmpl-"):
        question(text)


SPANS = st.lists(
    st.tuples(st.sampled_from(["chunk", "decode", "pages"]), st.integers(0, 50), st.booleans()),
    min_size=1,
    max_size=150,
)


@given(SPANS, st.integers(4, 40))
def test_the_waterfall_is_short_and_leaves_nothing_out(drawn: list[tuple[str, int, bool]], most: int) -> None:
    """For any spans: rows are in order without a gap, they stand for all spans, and are few unless most are slow."""
    spans, at = [], 0
    for cause, length, slow in drawn:
        spans.append(Span("prefill", cause, at, at + length, "text", slow=slow))
        at += length
    lines = rows(spans, most)
    assert sum(row.spans for row in lines) == len(spans)
    assert [lines[0].span.begin_ns, lines[-1].span.end_ns] == [0, at]
    assert all(left.span.end_ns == right.span.begin_ns for left, right in pairwise(lines))
    assert len(lines) <= most + 1


def test_programs_get_times_since_the_beginning_and_ids_in_hexadecimal() -> None:
    event = TimelineEvent(ID, 100, "held", 3, detail="pages", others=(255,))
    reply = TimelineReply(1, ID, (event,), (Span("queue", "pages", 100, 900, "text", requests=(255,)),), "m")
    told = as_values(reply)
    assert (told["request"], told["total_ns"]) == ("0cda4687dc7acfcb", 800)
    assert told["spans"][0]["requests"] == told["events"][0]["others"] == ["00000000000000ff"]
