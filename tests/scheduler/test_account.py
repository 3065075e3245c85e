"""Where a request's time went, as its scheduler tells it: nothing twice, nothing missing, whatever happened to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.account import Book

WAITS = st.sampled_from([None, "slots", "pages", "disk", "sibling", "lookup"])


@given(st.lists(st.tuples(WAITS, st.integers(0, 50), st.integers(0, 50), st.booleans()), min_size=1, max_size=12))
def test_queue_and_prefill_are_all_of_the_time_until_the_newest_first_token(
    rounds: list[tuple[str | None, int, int, bool]],
) -> None:
    """For any waits, placings and losses: queue + prefill + what was decoded between is the whole, and waits that have
    a cause are never more than the queue."""
    now, decoded = 1000, 0
    book = Book(now)
    for number, (why, waited, prefill, preempted) in enumerate(rounds):
        book.held(why, now)  # type: ignore[arg-type]
        now += waited
        book.placed(8, 16, now)
        book.chunk(32)
        now += prefill
        book.drew(now)
        if number < len(rounds) - 1:
            now += 7
            decoded += 7
            book.left(now, preempted=preempted)
    account = book.account()
    assert account.queue_ns + account.prefill_ns + decoded == now - 1000
    assert sum(ns for _, ns in account.held) <= account.queue_ns
    assert {why for why, _ in account.held} <= {why for why, _, _, _ in rounds}
    assert (account.placed, account.chunks, account.computed_tokens) == (len(rounds),) * 2 + (32 * len(rounds),)
    assert (account.memory_tokens, account.disk_tokens) == (8 * len(rounds), 16 * len(rounds))
    assert account.preemptions + account.resumptions == len(rounds) - 1
    assert account.preemptions == sum(preempted for _, _, _, preempted in rounds[:-1])


def test_a_wait_that_changes_its_cause_is_told_by_cause() -> None:
    book = Book(0)
    book.held("lookup", 2)
    book.held("pages", 5)
    book.held("slots", 25)
    book.placed(0, 0, 40)
    assert dict(book.account().held) == {"lookup": 3, "pages": 20, "slots": 15}
    assert book.account().queue_ns == 40


def test_what_was_lost_before_a_token_was_drawn_counts_as_prefill() -> None:
    book = Book(0)
    book.placed(0, 0, 10)
    book.left(35, preempted=False)
    book.placed(0, 0, 50)
    book.drew(80)
    book.drew(99)  # the next token is none of its business
    account = book.account()
    assert (account.queue_ns, account.prefill_ns, account.resumptions) == (25, 55, 1)
