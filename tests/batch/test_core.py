"""States of a batch, its window, and what is made of answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.core import state
from batch.core.desk import Desk, Pending
from batch.core.state import Batch
from batch.core.verdict import MAX_ATTEMPTS, Outcome, told, verdict
from batch.core.window import LATEST_S, Window

NS = 1_000_000_000
BATCH = Batch(
    id="batch_1", project="o/p", key="k", endpoint="/v1/embeddings", input_file="file-1", created_s=1000,
    window_s=3600, completion_window="1h",
)  # fmt: skip


def test_a_batch_goes_one_way() -> None:
    running = state.validated(BATCH, "m", 3, 1001)
    done = state.ended(state.answered(running, 1002), "out", "", 1003)
    assert (done.status, done.over, done.times) == (
        "completed", True, {"in_progress": 1001, "finalizing": 1002, "completed": 1003},
    )  # fmt: skip
    for change in (state.cancelled, state.expired, state.answered):
        with pytest.raises(state.Impossible):
            change(done, 1004)


def test_cancelling_is_idempotent_and_possible_while_lines_are_open() -> None:
    for batch in (BATCH, state.validated(BATCH, "m", 3, 1001)):
        cancelling = state.cancelled(batch, 1002)
        assert cancelling.status == "cancelling"
        assert state.cancelled(cancelling, 1003) is cancelling
        assert state.ended(cancelling, "", "err", 1004).status == "cancelled"
    with pytest.raises(state.Impossible):
        state.cancelled(state.expired(BATCH, 1002), 1003)


def test_every_state_leads_to_an_end() -> None:
    for status, following in state.NEXT.items():
        assert bool(following) != (status in state.OVER)


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "code", "attempts", "expected"),
    [
        (200, "", 1, "kept"),
        (400, "invalid_value", 1, "kept"),
        (401, "invalid_api_key", 1, "kept"),
        (404, "model_not_found", 1, "kept"),
        (429, "rate_limit_exceeded", 1, "later"),
        (429, "insufficient_quota", 99, "later"),
        (503, "not_ready", 99, "later"),
        (500, "generation_failed", 1, "again"),
        (500, "generation_failed", MAX_ATTEMPTS, "kept"),
        (500, "quarantined", 1, "kept"),
        (502, "stream_lost", 1, "again"),
    ],
)
def test_what_an_answer_means(status: int, code: str, attempts: int, expected: str) -> None:
    assert verdict(Outcome(status, error(code)), attempts) == expected


def test_usage_is_read_under_both_names() -> None:
    chat = b'{"id":"c","usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}'
    response = b'{"id":"r","usage":{"input_tokens":5,"output_tokens":2,"input_tokens_details":{"cached_tokens":4}}}'
    assert told(chat)[1] == told(response)[1]
    assert (told(chat)[0], told(chat)[1].total_tokens, told(chat)[1].input_tokens_details.cached_tokens) == ("c", 7, 4)
    assert told(b"nonsense")[0] == ""


@given(st.lists(st.sampled_from(["answered", "refused", "time"]), max_size=200), st.integers(1, 64))
def test_a_window_is_never_shut_for_good_nor_larger_than_it_may_be(events: list[str], most: int) -> None:
    window, now_ns = Window(most), 0
    for event in events:
        match event:
            case "answered":
                window.answered()
            case "refused":
                window.refused(0.0, now_ns)
            case "time":
                now_ns += NS // 10
        assert 1 <= window.size <= most
        assert window.opens_ns <= now_ns + LATEST_S * NS


def test_a_full_window_that_is_refused_counts_once_and_grows_again() -> None:
    window = Window(32)
    for _ in range(32):
        window.refused(2.0, 0)
    assert (window.size, window.opens_ns) == (16, 2 * NS)
    for _ in range(1000):
        window.answered()
    assert window.size == 32


def desk(**projects: int) -> Desk:
    """A desk with a batch of ten lines for each project; how many in flight are allowed."""
    found = Desk(ahead=100, most=100)
    for project, limit in projects.items():
        found.open(f"of {project}", project, "m", limit)
        found.feed(f"of {project}", [Pending(number, 0, 1, 0) for number in range(1, 11)], more=False)
    return found


def test_projects_take_turns() -> None:
    found = desk(a=6, b=6)
    taken = [found.take(0) for _ in range(7)]
    assert [each.ref.batch if each else None for each in taken] == ["of a", "of b"] * 3 + [None]


def test_what_waits_for_its_time_stands_in_nobodys_way() -> None:
    found = desk(a=2)
    first, second = found.take(0), found.take(0)
    assert first is not None
    assert second is not None
    assert found.answered(first.ref, Outcome(500, b"{}"), 0) == "again"
    third = found.take(0)
    assert third is not None
    assert third.ref.number == 3
    assert found.answered(second.ref, Outcome(200, b"{}"), 0) == "kept"
    found.written(second.ref)
    again = found.take(10 * NS)
    assert again is not None
    assert (again.ref, again.attempt) == (first.ref, 2)
