"""Drafts: whatever is proposed, the tokens are those without, and so is all that goes with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from driving import Driver, PlainPages, Running, make_open, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from toy import PAGE_TOKENS, VOCABULARY, Toy, expected_greedy, toy_pages

from bus.messages.requests import Sampling
from bus.messages.steps import StepResult
from bus.packed import unpack_u32
from workers.group import Alone
from workers.speculative.lookup import Lookup, continuation, likeliest, longest_match
from workers.speculative.verify import NOTHING, draw_along
from workers.step.execute import Executor, StepBroken
from workers.step.slots import Slots

CELLS, CONTEXT = 192, 64


class Guesses:
    """Proposes what greedy decoding would draw, with some tokens changed, and some left out."""

    def __init__(self, slots: Slots, seed: int, wrong: float) -> None:
        self.slots, self.random, self.wrong = slots, np.random.default_rng(seed), wrong
        self.behind_ns = 0

    def propose(self, slots: np.ndarray, most: np.ndarray) -> Sequence[np.ndarray]:
        proposed = []
        for slot, limit in zip(slots.tolist(), most.tolist(), strict=True):
            right = np.array(expected_greedy(self.slots.tokens(slot).tolist(), limit), np.int64)
            other = self.random.integers(0, VOCABULARY, limit)
            changed = np.where(self.random.random(limit) < self.wrong, other, right)
            proposed.append(changed[: self.random.integers(0, limit + 1)])
        return proposed


class DraftingDriver(Driver):
    """Allows drafts in every row that draws, and plans ahead without knowing how many tokens came."""

    def __init__(self, seed: int = 0, wrong: float = 0.3, *, most: int = 5, ahead: int = 2, poison: int = -1) -> None:
        slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, torch.device("cpu"))
        self.pages_in_memory, self.slots = PlainPages(toy_pages(CELLS)), slots
        proposer = Guesses(slots, seed, wrong)
        super().__init__(
            Executor(Toy(poison), slots, self.pages_in_memory, Alone(), proposer=proposer),
            PAGE_TOKENS, CELLS, ahead=ahead,
        )  # fmt: skip
        self.most, self.drafted, self.accepted, self.context = most, 0, 0, CONTEXT

    def speculate(self, prompts: Sequence[Sequence[int]], count: int, samplings: Sequence[Sampling]) -> list[list[int]]:
        """As `generate`, with drafts; whoever has enough tokens goes on, as far as its pages reach."""
        sequences = [Running(slot, list(prompt), self.pages_for(self.context)) for slot, prompt in enumerate(prompts)]
        opens = [
            make_open(s.slot, s.tokens, s.pages, sampling=sampling)
            for s, sampling in zip(sequences, samplings, strict=True)
        ]
        rows = [(s.slot, 0, len(s.tokens), True) for s in sequences]
        out: list[list[int]] = [[] for _ in prompts]
        pending = [self.run(rows, opens=opens)]
        flying = {s.slot: 1 for s in sequences}
        while any(len(tokens) < count for tokens in out):
            while len(pending) < self.ahead:
                least = [len(prompts[slot]) + len(out[slot]) + flying[slot] - 1 for slot in flying]
                step = [
                    (slot, start, 1, True)
                    for slot, start in zip(flying, least, strict=True)
                    if start < self.context - 20
                ]
                self.step += 1
                plan = replace(make_plan(self.step, step), drafts=bytes([self.most] * len(step)))
                self.results.append(self.executor.run(plan))
                pending.append(self.results[-1])
                for slot, *_ in step:
                    flying[slot] += 1
            self._enter(pending.pop(0), out, flying)
        return [tokens[:count] for tokens in out]

    def _enter(self, result: StepResult, out: list[list[int]], flying: dict[int, int]) -> None:
        slots, tokens = unpack_u32(result.slots).tolist(), unpack_u32(result.tokens).tolist()
        counts = list(result.drawn) or [1] * len(slots)
        assert sum(counts) == len(tokens)
        self.drafted += sum(result.drafted)
        self.accepted += sum(counts) - len(counts)
        for slot, several in zip(slots, counts, strict=True):
            out[slot] += tokens[:several]
            del tokens[:several]
            flying[slot] -= 1


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=6)


def plain(prompts: Sequence[Sequence[int]], count: int, samplings: Sequence[Sampling]) -> list[list[int]]:
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, torch.device("cpu"))
    return Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone()), PAGE_TOKENS, CELLS).generate(
        prompts, count, samplings
    )


@settings(max_examples=40, deadline=None)
@given(prompts, st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 7), st.integers(1, 2))
def test_drafts_change_nothing_that_is_drawn(
    batch: list[list[int]], seed: int, wrong: float, most: int, ahead: int
) -> None:
    """Greedy, sampled, truncated and penalised rows together, whatever is proposed and however many plans fly."""
    kinds = (
        Sampling(),
        Sampling(temperature=1.0, seed=seed),
        Sampling(temperature=0.2, seed=seed, top_p=0.9, top_k=5),
        Sampling(repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
        Sampling(temperature=0.5, seed=seed, repetition_penalty=1.2),
    )
    samplings = [kinds[(seed + row) % len(kinds)] for row in range(len(batch))]
    driver = DraftingDriver(seed, wrong, most=most, ahead=ahead)
    assert driver.speculate(batch, 15, samplings) == plain(batch, 15, samplings)
    assert driver.accepted <= driver.drafted


def test_right_drafts_are_all_taken() -> None:
    driver = DraftingDriver(wrong=0.0)
    driver.speculate([[3, 4], [5]], 20, [Sampling()] * 2)
    assert driver.accepted == driver.drafted > 20


def test_wrong_drafts_are_not_committed() -> None:
    """A page is valid as far as tokens are final, whatever was computed behind them."""
    driver = DraftingDriver(wrong=1.0, ahead=1)
    driver.speculate([[3, 4]], 9, [Sampling()])
    (valid,) = [sum(driver.pages_in_memory.valid.values())]
    assert valid == driver.slots.length[0] - 1


def test_log_probabilities_go_with_their_tokens() -> None:
    wanted = [Sampling(logprobs=2), Sampling(), Sampling(logprobs=0, temperature=1.0, seed=3)]
    batch = [[1, 2, 3], [4], [9, 9]]

    driver = DraftingDriver(wrong=0.2, ahead=1)
    driver.speculate(batch, 8, wanted)
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, torch.device("cpu"))
    without = Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone()), PAGE_TOKENS, CELLS)
    without.generate(batch, 8, wanted)
    for slot in (0, 2):
        assert _values(driver.results, slot)[:8] == _values(without.results, slot)[:8]
    assert not _values(driver.results, 1)


def _values(results: Sequence[StepResult], slot: int) -> list[object]:
    found: list[object] = []
    for result in results:
        slots = unpack_u32(result.slots)
        owner = np.repeat(slots, list(result.drawn) or [1] * len(slots))
        found += [value for index, value in result.logprobs if owner[index] == slot]
    return found


def test_a_row_whose_logits_break_behind_a_draft_is_named() -> None:
    (fatal,) = expected_greedy([3, 4], 1)
    driver = DraftingDriver(wrong=0.0, poison=fatal)
    with pytest.raises(StepBroken) as broken:
        driver.speculate([[3, 4], [5]], 20, [Sampling()] * 2)
    assert broken.value.slots == (0,)


# --- prompt lookup -------------------------------------------------------------------------------------------------

words = st.lists(st.integers(0, 3), min_size=0, max_size=40)


@given(words)
def test_the_longest_match_is_the_longest(ids: list[int]) -> None:
    """As found by trying every place."""
    tokens = np.array(ids, np.int32)

    def agree(end: int) -> int:
        length = 0
        while length < end and ids[end - 1 - length] == ids[len(ids) - 1 - length] and length < 32:
            length += 1
        return length

    lengths = {end: agree(end) for end in range(1, len(ids))}
    longest = max(lengths.values(), default=0)
    match = longest_match(tokens)
    assert match.length == longest
    if longest:
        assert match.after.tolist() == [end for end, length in lengths.items() if length == longest]


@given(words, st.integers(1, 9), st.sampled_from([continuation, likeliest]))
def test_what_is_proposed_followed_before(ids: list[int], most: int, follow: object) -> None:
    tokens = np.array(ids, np.int32)
    proposed = follow(tokens, most)  # type: ignore[operator]
    assert proposed.dtype == np.int64
    assert len(proposed) <= most
    match = longest_match(tokens)
    if match.length < 2:
        assert not len(proposed)
    elif len(proposed):
        assert int(proposed[0]) in {ids[place] for place in match.after.tolist()}


def test_text_that_repeats_is_continued() -> None:
    text = np.array([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], np.int32)
    assert continuation(text, 4).tolist() == [4, 5, 6, 7]
    assert continuation(np.array([9, 5, 5, 5], np.int32), 6).tolist() == [5] * 6
    assert not len(continuation(np.array([1, 2, 3], np.int32), 4))


def test_the_suffix_way_takes_what_followed_most_often() -> None:
    text = np.array([1, 2, 8, 1, 2, 8, 4, 1, 2, 8, 4, 1, 2, 9, 1, 2], np.int32)
    assert continuation(text, 2).tolist() == [9, 1]
    assert likeliest(text, 2).tolist() == [8, 4]


def test_lookup_reads_the_slots() -> None:
    lookup = Lookup({0: np.array([1, 2, 3, 1, 2], np.int32), 1: np.array([4, 5], np.int32)}.__getitem__)
    first, second = lookup.propose(np.array([0, 1]), np.array([2, 2]))
    assert first.tolist() == [3, 1]
    assert not len(second)


# --- the distribution ----------------------------------------------------------------------------------------------

SEEDS, WORDS = 20_000, 12


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_sampled_tokens_have_the_distribution_of_the_model(temperature: float) -> None:
    """Pearson's test over 20,000 seeds, of the tokens behind right drafts, and of those that a wrong draft stood for.

    The drafts favour tokens that the model does not, so that anything biased towards them is seen.
    """
    logits = torch.from_numpy(np.random.default_rng(3).normal(0, 1.5, (2, WORDS)).astype(np.float32))
    slots = Slots(SEEDS, 8, 4, WORDS, 2, torch.device("cpu"))
    drafts = np.random.default_rng(4).integers(0, WORDS // 2, (SEEDS, 1))
    opens = [make_open(n, [1], [0], sampling=Sampling(temperature=temperature, seed=n)) for n in range(SEEDS)]
    slots.apply(make_plan(1, opens=opens))
    of, widths = np.arange(SEEDS), np.full(SEEDS, 2)
    found = draw_along(slots, of, logits.repeat(SEEDS, 1), widths, drafts).tokens
    right = found[:, 0] == drafts[:, 0]
    assert np.array_equal(right, found[:, 1] != NOTHING)
    expected = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    assert _misfit(found[:, 0], expected[0]) < LIMIT
    assert _misfit(found[right, 1], expected[1]) < LIMIT
    # And no draft has weight: given what was drafted, the draw is the same.
    for draft in range(WORDS // 2):
        assert _misfit(found[drafts[:, 0] == draft, 0], expected[0]) < LIMIT


LIMIT = 37.4  # of chi-squared with 11 degrees of freedom, one in ten thousand is larger


def _misfit(tokens: np.ndarray, expected: np.ndarray) -> float:
    counts = np.bincount(tokens, minlength=WORDS)
    wanted = expected * len(tokens)
    return float(((counts - wanted) ** 2 / wanted).sum())
