"""Beam search is that of transformers: the same answers in the same order after as many steps, for every width, penalty
and way to stop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus.messages.requests import TokenLogprobs
from ingress.samples.beams import Beam, Beams, BeamSearch, Candidate, EarlyStopping

transformers = pytest.importorskip("transformers")

VOCABULARY = 13
VALUE = TokenLogprobs(0.0)


@lru_cache
def model(seed: int) -> Any:
    """A language model of no words, whose next token depends on all that came before; sharp, so that beams differ."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.6, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


class Theirs(NamedTuple):
    """What `generate` answers: tokens and scores, best first, after so many steps."""

    answers: list[list[int]]
    scores: list[float]
    steps: int


def theirs(seed: int, prompt: list[int], asked: Beams, stops: Sequence[int], most: int) -> Theirs:
    found = model(seed).generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=asked.width, do_sample=False,
        max_new_tokens=most, length_penalty=asked.length_penalty, early_stopping=asked.early_stopping,
        num_return_sequences=asked.returned, eos_token_id=list(stops) or None, pad_token_id=0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    answers = [_cut(row.tolist()[len(prompt) :], stops) for row in found.sequences]
    return Theirs(answers, found.sequences_scores.tolist(), len(found.scores))


def _cut(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """Without what fills it up behind its end."""
    first = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[: first + 1]


def extend(seed: int, prompt: list[int], beams: Sequence[Beam], keep: int) -> list[list[Candidate]]:
    """What the scheduler is asked for."""
    with torch.no_grad():
        rows = torch.tensor([[*prompt, *beam.tokens] for beam in beams])
        logprobs = model(seed)(rows).logits[:, -1].float().log_softmax(-1)
    best = logprobs.sort(dim=-1, descending=True, stable=True)
    return [
        [Candidate(token, value, VALUE) for token, value in zip(ids[:keep], values[:keep], strict=True)]
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def ours(seed: int, prompt: list[int], asked: Beams, stops: Sequence[int], most: int) -> tuple[list[Beam], int]:
    search, steps = BeamSearch(asked, stops, most), 0
    while not search.over:
        search.advance(extend(seed, prompt, search.running, search.keep))
        steps += 1
    return search.best(), steps


early: st.SearchStrategy[EarlyStopping] = st.sampled_from([True, False, "never"])


@given(
    seed=st.integers(0, 5),
    prompt=st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=4),
    width=st.integers(2, 4),
    returned=st.integers(1, 4),
    penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.5]),
    stopping=early,
    stops=st.sets(st.integers(1, VOCABULARY - 1), max_size=4),
    most=st.integers(1, 12),
)
@example(seed=0, prompt=[1], width=4, returned=4, penalty=1.0, stopping=False, stops={3}, most=9)
@settings(max_examples=150, deadline=None)
def test_answers_are_those_of_transformers(
    seed: int, prompt: list[int], width: int, returned: int, penalty: float, stopping: EarlyStopping, stops: set[int],
    most: int,
) -> None:  # fmt: skip
    asked = Beams(width, min(returned, width), penalty, stopping)
    expected = theirs(seed, prompt, asked, sorted(stops), most)
    best, steps = ours(seed, prompt, asked, sorted(stops), most)
    scores = [beam.score for beam in best]
    assert scores == pytest.approx(expected.scores, abs=1e-4)
    if all(abs(left - right) > 1e-4 for left, right in pairwise(scores)):
        assert [list(beam.tokens) for beam in best] == expected.answers
    assert steps == expected.steps


@given(
    width=st.integers(1, 4), stops=st.sets(st.integers(0, 8), max_size=2), most=st.integers(1, 6),
    stopping=early, data=st.data(),
)  # fmt: skip
def test_it_ends_with_answers_in_order_whatever_is_drawn(
    width: int, stops: set[int], most: int, stopping: EarlyStopping, data: st.DataObject
) -> None:
    """Also where a grammar leaves few tokens, or none: at most `width` beams, each once, none beyond the limit."""
    search = BeamSearch(Beams(width, width, 1.0, stopping), stops, most)
    steps = 0
    while not search.over:
        assert len(search.running) <= width
        assert len({beam.tokens for beam in search.running}) == len(search.running)
        nexts = []
        for _ in search.running:
            tokens = data.draw(st.lists(st.integers(0, 8), unique=True, max_size=search.keep))
            logprobs = sorted((data.draw(st.floats(-9, -0.01)) for _ in tokens), reverse=True)
            nexts.append([Candidate(*each, VALUE) for each in zip(tokens, logprobs, strict=True)])
        search.advance(nexts)
        steps += 1
    assert steps <= most
    best = search.best()
    assert len(best) == width
    there = [beam for beam in best if beam.tokens]
    assert [beam.score for beam in there] == sorted((beam.score for beam in there), reverse=True)
    for beam in there:
        assert len(beam.tokens) <= most
        assert not set(beam.tokens[:-1]) & stops
        assert beam.ended == ("stop" if beam.tokens[-1] in stops else "length")


def test_cut_short_the_running_beams_are_the_answers() -> None:
    search = BeamSearch(Beams(2, 2), [], 100)
    for _ in range(3):
        search.advance(extend(1, [1, 2], search.running, search.keep))
    running = [beam.tokens for beam in search.running]
    search.end()
    assert search.over
    assert [beam.tokens for beam in search.best()] == running
    assert {beam.ended for beam in search.best()} == {"length"}
