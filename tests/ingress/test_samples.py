"""Samples of a call: what may be asked, which is the best, and the tokens that all have together."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import tiny_metadata

from bus.messages.requests import Finished, TokenLogprobs
from ingress.api.answer import total_usage
from ingress.api.validate import chat_request, completion_request
from ingress.errors import ApiError
from ingress.generation import Generation
from ingress.samples.asked import Most, beams_of, samples_of, wants_logprobs
from ingress.samples.beams import Beams
from ingress.samples.best import chosen, mean_logprob, ranked
from ingress.samples.pool import POOL, TokenPool
from ingress.samples.scorers import check_scorer, said, yes
from ingress.streams import Finish, Part, Piece, Usage
from ingress.text.stop import StopStrings
from ingress.text.tokenizer import from_gguf

TOKENIZER = from_gguf(tiny_metadata())


def completion(**more: Any) -> Any:
    return completion_request(json.dumps({"model": "m", "prompt": "x", **more}).encode())


def chat(**more: Any) -> Any:
    return chat_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **more}).encode())


# --- what may be asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "temperature": 0}, "best_of"),
        ({"best_of_scorer": "judge"}, "best_of_scorer"),
        ({"n": 2, "best_of": 2, "best_of_scorer": "judge"}, "best_of_scorer"),
        ({"beam_width": 3}, "beam_width"),
        ({"length_penalty": 1.5}, "length_penalty"),
        ({"early_stopping": True}, "early_stopping"),
        ({"use_beam_search": True, "stream": True}, "use_beam_search"),
        ({"use_beam_search": True, "beam_width": 2, "n": 3}, "beam_width"),
        ({"use_beam_search": True, "beam_width": 2, "best_of_scorer": "judge"}, "best_of_scorer"),
        ({"use_beam_search": True, "beam_width": 2, "temperature": 0.7}, "temperature"),
        ({"use_beam_search": True, "beam_width": 2, "top_p": 0.7}, "top_p"),
        ({"use_beam_search": True, "beam_width": 2, "top_k": 7}, "top_k"),
        ({"use_beam_search": True, "beam_width": 2, "min_p": 0.1}, "min_p"),
        ({"use_beam_search": True, "beam_width": 2, "stop": "x"}, "stop"),
        ({"use_beam_search": True, "beam_width": 2, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"use_beam_search": True, "beam_width": 2, "include_timing": True}, "include_timing"),
        ({"max_total_tokens": 0}, "max_total_tokens"),
        ({"early_stopping": "always", "use_beam_search": True}, "early_stopping"),
    ],
)
@pytest.mark.parametrize("surface", [completion, chat])
def test_contradictions_are_refused_by_name(surface: Any, more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        surface(**more)
    assert refused.value.status == 400
    assert refused.value.param == param


def test_a_search_does_not_close_thoughts() -> None:
    with pytest.raises(ApiError, match="thinking_token_budget: not with use_beam_search"):
        chat(use_beam_search=True, beam_width=2, thinking_token_budget=9)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": ["a", "b"], "best_of": 65}, "prompt"),
        ({"max_tokens": 0, "echo": True, "logprobs": 1, "best_of": 2}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "logprobs": 1, "use_beam_search": True}, "max_tokens"),
        ({"echo": True, "logprobs": 1, "use_beam_search": True}, "echo"),
    ],
)
def test_contradictions_of_completions(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        completion(**more)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [({"n": 5}, "n"), ({"best_of": 6}, "best_of"), ({"use_beam_search": True, "beam_width": 4}, "beam_width")],
)
def test_what_is_more_than_is_configured_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    most = Most(4, 5, 3)
    most.check(completion(n=4))
    most.check(completion(best_of=5))
    most.check(completion(use_beam_search=True, beam_width=3))
    with pytest.raises(ApiError) as refused:
        most.check(completion(**more))
    assert refused.value.param == param
    assert f"max_{param}" in refused.value.message


def test_what_is_asked_of_samples() -> None:
    assert samples_of(completion()) == 1
    assert samples_of(completion(n=2, best_of=5)) == 5
    assert wants_logprobs(completion(n=2, best_of=5))
    assert not wants_logprobs(completion(best_of=5, best_of_scorer="judge"))
    assert beams_of(completion()) is None
    assert beams_of(completion(use_beam_search=True, n=2)) == Beams(2, 2)
    assert beams_of(completion(use_beam_search=True, best_of=3)) == Beams(3, 1)
    asked = completion(use_beam_search=True, beam_width=4, n=2, length_penalty=0.5, early_stopping="never")
    assert beams_of(asked) == Beams(4, 2, 0.5, "never")


# --- the best ------------------------------------------------------------------------------------------------------


def sample(logprobs: list[float], reason: Any = "stop", cached: int = 0) -> Piece:
    tokens = tuple(range(len(logprobs)))
    raw = tuple(TokenLogprobs(value) for value in logprobs)
    return Piece("x", tokens, (), Finish(reason, Usage(7, len(tokens), cached)), raw)


def test_the_mean_counts_every_token() -> None:
    assert mean_logprob(sample([-1.0, -3.0])) == -2.0
    assert mean_logprob(sample([])) == float("-inf")


@given(st.lists(st.floats(-20, 0) | st.just(float("nan")), min_size=1, max_size=9), st.data())
def test_the_best_are_in_order_and_the_account_is_of_all(scores: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(scores)))
    samples = [sample([-1.0] * data.draw(st.integers(0, 5)), cached=16 * (at > 0)) for at in range(len(scores))]
    best = chosen(samples, scores, n)
    order = ranked(samples, scores)
    assert [each.tokens for each in best] == [samples[at].tokens for at in order[:n]]
    known = [scores[at] for at in order if scores[at] == scores[at]]
    assert known == sorted(known, reverse=True)
    usage = total_usage([each.finish for each in best if each.finish is not None], n)
    assert usage.completion_tokens == sum(len(each.tokens) for each in samples)
    assert usage.prompt_tokens == 7
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_what_a_guard_has_stopped_is_behind_everything_else() -> None:
    samples = [sample([-0.1], "content_filter"), sample([-5.0]), sample([-4.0], "length")]
    assert ranked(samples, [-0.1, -5.0, -4.0]) == [2, 1, 0]


def test_a_judge_reads_what_is_said_and_called_and_not_what_is_thought() -> None:
    parts = (Part("reasoning", "hm"), Part("text", "Let me see. "), Part("tool", '{"a":1}', 0, "look"))
    assert said(Piece("Let me see. ", parts=parts)) == 'Let me see. look {"a":1}'
    assert said(Piece("plain")) == "plain"


def test_a_judges_word() -> None:
    assert yes([(" Yes", -0.1), ("No", -3.0), ("maybe", -4.0)]) == pytest.approx(0.948, abs=1e-3)
    assert yes([("yes", -1.0), (" YES", -1.0), ("no", -1.0)]) == pytest.approx(2 / 3)
    assert yes([("perhaps", -0.1)]) == 0.5


@pytest.mark.parametrize(
    ("name", "code"),
    [("mean_logprob", None), ("ranks", None), ("writes", None), ("embeds", "wrong_model_kind"), ("hidden", ""),
     ("nobody", "")],
)  # fmt: skip
def test_a_scorer_is_a_model_that_can_judge_and_that_the_caller_may_use(name: str, code: str | None) -> None:
    kinds = {"ranks": "rerank", "writes": "generate", "embeds": "embed", "hidden": "generate"}
    engine: Any = SimpleNamespace(models={model: SimpleNamespace(kind=kind) for model, kind in kinds.items()})
    request = completion(best_of=2, best_of_scorer=name)
    if code is None:
        check_scorer(request, engine, lambda model: model != "hidden")
        return
    with pytest.raises(ApiError) as refused:
        check_scorer(request, engine, lambda model: model != "hidden")
    assert (refused.value.param, refused.value.code or "") == ("best_of_scorer", code)


# --- the tokens of all ---------------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 30),
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=60),
)
def test_no_token_is_delivered_that_the_pool_does_not_have(
    size: int, lengths: list[int], turns: list[tuple[int, int]]
) -> None:
    """However deliveries are interleaved: samples end by themselves or with the pool, and together have what it had."""
    pool = TokenPool(size)
    samples = [Generation(TOKENIZER, 3) for _ in lengths]
    for each in samples:
        each.pool = pool
    ends: dict[int, Finish] = {}

    def deliver(at: int, count: int) -> None:
        if at in ends or at >= len(lengths):
            return
        known = len(samples[at].emitted)
        fresh = [97] * min(count, lengths[at] - known)
        last = known + len(fresh) >= lengths[at]
        finished = Finished(at, "length", lengths[at], 0, 0) if last else None
        piece, verdict = samples[at].take(known, fresh, (), finished)
        assert verdict in ("going", "stopped", "finished")
        if verdict != "going":
            assert piece is not None
            assert piece.finish is not None
            ends[at] = piece.finish

    for at, count in turns:
        deliver(at, count)
    for at in range(len(lengths)):
        while at not in ends:
            deliver(at, 2)
    drawn = [len(each.emitted) for each in samples]
    assert sum(drawn) == min(size, sum(lengths))
    assert pool.left == size - sum(drawn)
    for at, finish in ends.items():
        assert finish.reason == "length"
        assert finish.usage.completion_tokens == drawn[at]
        assert finish.usage.allowed == size
        if drawn[at] < lengths[at]:
            assert finish.stop_reason == POOL


def test_tokens_behind_a_stop_string_go_back() -> None:
    pool = TokenPool(10)
    generation = Generation(TOKENIZER, 3, stop=StopStrings(("b",)))
    generation.pool = pool
    piece, verdict = generation.take(0, list(b"abcd"))
    assert verdict == "stopped"
    assert piece is not None
    assert piece.finish is not None
    assert piece.finish.stop_reason == "b"
    assert pool.left == 8
