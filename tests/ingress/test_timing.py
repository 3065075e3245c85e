"""Where the time of an answer went: right in sum, over the deaths of schedulers and ingresses, and only where asked."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from test_engine_conversation import FACTS, SECOND, Played, deltas, pieces

from bus.messages.requests import Account, Submit
from ingress.api.ledger import ledger, together
from ingress.api.schema_common import RequestTiming
from ingress.job import Job, place_again
from ingress.records import Drawn, frame, read
from ingress.streams import Finish, Usage
from ingress.timing import Timing

MS = 1_000_000
ACCOUNT = Account(5, 40 * MS, (("slots", 30 * MS),), 60 * MS, 16, 32, 200, 2, 1, 0, 0)


@pytest.fixture
def played() -> Played:
    subject = Played()
    subject.up()
    return subject


def timed(finish: Finish | None) -> RequestTiming:
    assert finish is not None
    found = ledger(finish)
    assert isinstance(found, RequestTiming)
    return found


def accounted(request: int, start: int, text: str, account: Account, end: str | None = None) -> object:
    return msgspec.structs.replace(deltas(request, start, text, end), accounts=((request, account),))  # type: ignore[arg-type]


def test_it_is_asked_for_and_told_only_where_the_client_asks(played: Played) -> None:
    plain, asked = played.accepted(1), played.accepted(2, timing=True)
    assert [submit.timing for submit in played.take_sent() if isinstance(submit, Submit)] == [False, True]
    for request, stream in ((1, plain), (2, asked)):
        played.receive(deltas(request, 0, "hi", "length"))
        finish = pieces(stream).finish
        assert finish is not None
        assert (ledger(finish) is UNSET) == (request == 1)


def test_queue_prefill_and_tokens_are_told_in_milliseconds(played: Played) -> None:
    stream = played.accepted(timing=True)
    played.now += 100 * MS
    played.receive(accounted(7, 0, "h", ACCOUNT))  # type: ignore[arg-type]
    played.now += 10 * MS
    played.receive(deltas(7, 1, "e"))
    played.now += 70 * MS
    played.receive(msgspec.structs.replace(deltas(7, 2, "l"), step=44))
    played.now += 10 * MS
    played.receive(deltas(7, 3, "l", "length"))
    told = timed(pieces(stream).finish)
    assert (told.ttft_ms, told.decode_ms, told.total_ms) == (100, 90, 190)
    assert (told.queue_ms, told.held_ms, told.prefill_ms) == (40, {"slots": 30}, 60)
    assert (told.longest_gap_ms, told.longest_gap_step, told.longest_gap_after) == (70, 44, 2)
    assert (told.cached_tokens.memory, told.cached_tokens.disk, told.computed_tokens) == (16, 32, 200)
    assert (told.tokens, told.chunks, told.steps) == (4, 2, 5)
    assert told.request == f"{7:016x}"


def test_a_stop_string_ends_with_an_account_though_the_scheduler_sends_none(played: Played) -> None:
    stream = played.accepted(timing=True, stop=("l",))
    played.receive(accounted(7, 0, "he", ACCOUNT))  # type: ignore[arg-type]
    played.receive(deltas(7, 2, "llo"))
    finish = pieces(stream).finish
    assert finish is not None
    assert finish.stop_reason == "l"
    assert timed(finish).queue_ms == 40


def test_the_death_of_a_scheduler_is_recovery_and_its_account_is_kept(played: Played) -> None:
    stream = played.accepted(timing=True)
    played.receive(accounted(7, 0, "he", ACCOUNT))  # type: ignore[arg-type]
    played.now += 20 * MS
    played.down()
    played.now += 500 * MS
    played.up(FACTS)
    later = Account(9 * SECOND, 5 * MS, (("slots", 2 * MS), ("replica", 3 * MS)), 10 * MS, 48, 0, 2, 1, 1, 0, 0)
    played.now += 30 * MS
    played.receive(accounted(7, 2, "l", later))  # type: ignore[arg-type]
    played.receive(accounted(7, 3, "l", msgspec.structs.replace(later, prefill_ns=11 * MS), "length"))  # type: ignore[arg-type]
    told = timed(pieces(stream).finish)
    assert (told.recovery_ms, told.resumptions, told.longest_gap_ms) == (500, 1, 550)
    assert (told.queue_ms, told.prefill_ms) == (45, 71)  # a later account of the same submission replaces the former
    assert told.held_ms == {"slots": 32, "replica": 3}
    assert told.cached_tokens.memory == 64


def test_the_ingress_that_takes_it_over_goes_on_with_the_account(played: Played) -> None:
    """Through the journal: what was told of the answer holds its timing."""
    stream = played.accepted(timing=True, prompt="hello wo")
    played.now += 50 * MS
    played.receive(accounted(7, 0, "he", ACCOUNT))  # type: ignore[arg-type]
    piece = pieces(stream)
    written = frame(Drawn(0, piece.tokens, (), 0, (), None, piece.timing))
    opening = _opening()
    told = read(frame(opening) + written)
    assert told is not None
    (record,) = told.records
    assert isinstance(record, Drawn)
    job = Job(model="m", prompt=_ids("hello wo"), timing=True, received_ns=SECOND)
    now = played.now + 300 * MS
    (order, generation), _ = place_again(job, played.model, 7, now, 1, [record])
    assert order.timing
    timing = generation.timing
    assert timing is not None
    timing.submitted(now)
    assert (timing.first_ns, timing.tokens, timing.account) == (SECOND + 50 * MS, 2, ACCOUNT)
    assert (timing.adoptions, timing.recovering_ns) == (1, 300 * MS)
    assert timed(Finish("stop", Usage(8, 2), timing=timing)).resumptions == 1  # its scheduler had it all the time


def test_what_comes_again_or_too_early_is_not_counted(played: Played) -> None:
    stream = played.accepted(timing=True)
    played.receive(deltas(7, 0, "he"))
    played.receive(deltas(7, 0, "he"))
    played.receive(deltas(7, 4, "o"))  # what is missing is asked for again
    played.receive(deltas(7, 2, "llo", "length"))
    told = timed(pieces(stream).finish)
    assert (told.tokens, told.resumptions) == (5, 0)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_the_longest_gap_is_the_longest_whatever_comes(gaps: list[int]) -> None:
    """For any times between tokens: first + gaps = last, and the longest is one of them."""
    timing, now = Timing(request=1, received_ns=1), 1
    for step, gap in enumerate(gaps):
        now += gap
        timing.drew(1, step, now)
    told = ledger(Finish("stop", Usage(1, len(gaps)), timing=timing))
    assert isinstance(told, RequestTiming)
    assert timing.first_ns + sum(gaps[1:]) == timing.last_ns
    assert timing.longest_ns == max(gaps[1:], default=0)
    assert told.steps == told.tokens == len(gaps)


def test_several_choices_are_told_one_by_one() -> None:
    finishes = [
        Finish("stop", Usage(1, 1), timing=Timing(request=number, received_ns=1, first_ns=2, last_ns=3))
        for number in (1, 2)
    ]
    told = together([ledger(finish) for finish in finishes])
    assert isinstance(told, RequestTiming)
    assert told.request == f"{1:016x}"
    assert isinstance(told.choices, list)
    assert [each.request for each in told.choices] == [f"{1:016x}", f"{2:016x}"]
    assert together([ledger(Finish("stop", Usage(1, 1)))]) is UNSET


def _ids(text: str) -> list[int]:
    from test_engine_conversation import ids

    return list(ids(text))


def _opening() -> object:
    from ingress.records import Opening

    return Opening("completions", b"{}", "", "", SECOND, "cmpl-0000000000000007", 1, None, (7,), (b"",), 0)
