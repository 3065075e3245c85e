"""The checker finds what it is there to find, and nothing in what is right."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from chaos.answer import Answer, Choice, Json
from chaos.checker import close, violations
from chaos.outcome import Outcome, Request

TOKENS = [5, 9, 2, 7, 7, 1, 8, 3, 4, 6, 11, 12]
TEXT = "one two three"
ENTRY: Json = {"token": "a", "logprob": -0.5, "top_logprobs": {"a": -0.5, "b": -1.5}}


def expected() -> Answer:
    choice = Choice(TEXT, list(TOKENS), "stop", ".", [dict(ENTRY)] * len(TOKENS), ends=1)
    return Answer({0: choice}, 10, len(TOKENS))


def outcome(manners: str = "stay") -> Outcome:
    """A perfect one."""
    request = Request(1, "x", "http", stream=True, manners=manners)  # type: ignore[arg-type]
    return Outcome(request, 100.0, 110.0, expected(), complete=True, times=[101.0, 109.0], response="cmpl-1")


def kinds(of: Outcome, ingress: list[float] | None = None) -> set[str]:
    return {violation.kind for violation in violations(of, expected(), ingress or [])}


def test_what_is_right_is_right() -> None:
    assert kinds(outcome()) == set()


def test_an_answer_that_its_client_left_is_a_beginning() -> None:
    left = outcome("leave")
    left.complete, left.left = False, True
    left.answer.choices[0] = Choice("one t", TOKENS[:4], logprobs=[ENTRY] * 4)
    assert kinds(left) == set()
    left.answer.choices[0].tokens[3] = 0
    assert kinds(left) == {"changed"}


def test_a_break_is_an_ingress_that_was_struck() -> None:
    broken = outcome()
    broken.breaks = [105.0]
    assert kinds(broken) == {"broke"}
    assert kinds(broken, ingress=[104.9]) == set()
    assert kinds(broken, ingress=[105.1]) == {"broke"}


def lost_in_the_middle(of: Outcome) -> None:
    del of.answer.choices[0].tokens[3]


def lost_at_the_end(of: Outcome) -> None:
    del of.answer.choices[0].tokens[-2:]


def came_twice(of: Outcome) -> None:
    of.answer.choices[0].tokens[6:6] = TOKENS[4:6]


def another_token(of: Outcome) -> None:
    of.answer.choices[0].tokens[5] = 99


def another_text(of: Outcome) -> None:
    of.answer.choices[0].text += "!"


def another_reason(of: Outcome) -> None:
    of.answer.choices[0].finish_reason = "length"


def another_logprob(of: Outcome) -> None:
    of.answer.choices[0].logprobs[2] = {**ENTRY, "logprob": -0.6}


def a_logprob_too_few(of: Outcome) -> None:
    of.answer.choices[0].logprobs.pop()


def two_ends(of: Outcome) -> None:
    of.answer.choices[0].ends = 2


def a_wrong_account(of: Outcome) -> None:
    of.answer.completion_tokens += 1


def more_cached_than_there_is(of: Outcome) -> None:
    of.answer.cached_tokens = 11


def one_choice_more(of: Outcome) -> None:
    of.answer.choices[1] = Choice("x", [1], "stop", ends=1)


def no_choice(of: Outcome) -> None:
    of.answer.choices.clear()


def no_end(of: Outcome) -> None:
    of.complete = False


def an_error(of: Outcome) -> None:
    of.complete, of.error = False, "error in the stream"


def a_refusal(of: Outcome) -> None:
    of.complete, of.error, of.times, of.response, of.answer = False, "503", [], "", Answer()


def an_event_out_of_order(of: Outcome) -> None:
    of.oddities.append("event 4 came after 2")


WRONG = [
    (lost_in_the_middle, "lost"), (lost_at_the_end, "lost"), (came_twice, "repeated"), (another_token, "changed"),
    (another_text, "changed"), (another_reason, "changed"), (another_logprob, "changed"), (a_logprob_too_few, "lost"),
    (two_ends, "events"), (a_wrong_account, "usage"), (more_cached_than_there_is, "usage"),
    (one_choice_more, "changed"), (no_choice, "lost"), (no_end, "failed"), (an_error, "failed"),
    (a_refusal, "refused"), (an_event_out_of_order, "events"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind"), WRONG, ids=[spoil.__name__ for spoil, _ in WRONG])
def test_what_is_wrong_is_found(spoil: Callable[[Outcome], None], kind: str) -> None:
    spoiled = outcome()
    spoil(spoiled)
    assert kind in kinds(spoiled)


@given(st.data())
def test_no_other_sequence_of_tokens_passes(data: st.DataObject) -> None:
    """Whatever is cut out, put in or exchanged: complete or left, it is seen, unless it is a beginning."""
    spoiled = outcome()
    spoiled.complete = data.draw(st.booleans())
    spoiled.left = not spoiled.complete
    tokens = data.draw(st.lists(st.sampled_from(TOKENS), max_size=16))
    spoiled.answer.choices[0].tokens = tokens
    same = tokens == TOKENS if spoiled.complete else tokens == TOKENS[: len(tokens)]
    assert (not kinds(spoiled) & {"lost", "repeated", "changed"}) == same


def test_floats_are_equal_but_for_their_last_bits() -> None:
    assert close({**ENTRY, "logprob": -0.50004}, ENTRY)
    assert not close({**ENTRY, "logprob": -0.501}, ENTRY)
    assert close([{"token": "b", "logprob": -1.0}], [{"token": "b", "logprob": -1}])
    assert not close([ENTRY], [])


def test_an_answer_is_the_same_from_a_body_and_from_chunks() -> None:
    """What the doors give differs in form only."""
    logprobs: Json = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "text_offset": [0, 1], "top_logprobs": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    whole, chunks = Answer(), Answer()
    choice = {"index": 0, "text": "ab", "token_ids": [1, 2], "logprobs": logprobs, "finish_reason": "stop"}
    whole.body({"choices": [choice], "usage": usage})
    for at, text in enumerate("ab"):
        part = {name: values and values[at : at + 1] for name, values in logprobs.items()}
        chunks.chunk({"choices": [{"index": 0, "text": text, "token_ids": [at + 1], "logprobs": part}], "usage": None})
    chunks.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.chunk({"choices": [], "usage": usage})
    assert msgspec.to_builtins(whole, str_keys=True) == msgspec.to_builtins(chunks, str_keys=True)
