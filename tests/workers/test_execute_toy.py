"""The executor with a model that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from driving import Driver, PlainPages, as_array, make_open, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import PAGE_TOKENS, VOCABULARY, Toy, expected_greedy, expected_logits, toy_pages

from bus.messages.requests import Sampling
from bus.packed import unpack_f32, unpack_u32
from workers.group import Alone
from workers.step.execute import Executor, StepBroken
from workers.step.slots import Slots

CELLS, CONTEXT = 96, 64


def new_executor(poison: int = -1) -> tuple[Executor, PlainPages, Toy]:
    model, pages = Toy(poison), PlainPages(toy_pages(CELLS))
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, torch.device("cpu"))
    return Executor(model, slots, pages, Alone()), pages, model


def new_driver(**options: int) -> Driver:
    return Driver(new_executor()[0], PAGE_TOKENS, CELLS, **options)


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=17), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(prompts, st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
def test_greedy_tokens_are_those_of_the_model_alone(batch: list[list[int]], count: int, chunk: int, ahead: int) -> None:
    """Whatever the batch, the chunk size and the number of plans made before a result is looked at."""
    assert new_driver(chunk=chunk, ahead=ahead).generate(batch, count) == [
        expected_greedy(prompt, count) for prompt in batch
    ]


@settings(max_examples=15, deadline=None)
@given(prompts, st.integers(0, 2**64 - 1))
def test_a_resumed_request_draws_what_it_would_have_drawn(batch: list[list[int]], seed: int) -> None:
    """Tokens at temperature 1 in a batch, against one slot that is opened again after every token."""
    samplings = [Sampling(temperature=1.0, seed=seed + row, repetition_penalty=1.1) for row in range(len(batch))]
    whole = new_driver().generate(batch, 5, samplings)
    for prompt, tokens, sampling in zip(batch, whole, samplings, strict=True):
        driver = new_driver()
        emitted: list[int] = []
        for _ in range(5):
            sequence = prompt + emitted
            opened = make_open(3, sequence, driver.pages_for(CONTEXT)[:8], sampling=sampling, prompt_tokens=len(prompt))
            driver.free = list(range(CELLS))
            result = driver.run([(3, 0, len(sequence), True)], opens=[opened])
            emitted += as_array(result.tokens)
        assert emitted == tokens


def test_a_cached_prefix_is_read_from_the_pages_of_another_slot() -> None:
    executor, _, _ = new_executor()
    driver = Driver(executor, PAGE_TOKENS, CELLS)
    prompt = list(range(10, 23))
    driver.run([(0, 0, 13, True)], opens=[make_open(0, prompt, [4, 9, 2, 7])])
    other = [*prompt[:8], 60, 61, 62]
    result = driver.run([(1, 8, 3, True)], opens=[make_open(1, other, [4, 9, 30], computed=8)])
    assert as_array(result.tokens) == expected_greedy(other, 1)


def test_a_plan_that_only_closes_runs_nothing() -> None:
    driver = new_driver()
    driver.run([(0, 0, 2, True)], opens=[make_open(0, [1, 2], [1])])
    result = driver.run(closes=[0])
    assert (result.slots, result.tokens, result.ran_ns) == (b"", b"", 0)


def test_pages_are_committed_as_far_as_they_are_valid() -> None:
    executor, pages, _ = new_executor()
    driver = Driver(executor, PAGE_TOKENS, CELLS)
    driver.run([(0, 0, 6, False)], opens=[make_open(0, range(9), [5, 6, 8])])
    assert pages.valid == {(5, 1005): 4, (6, 1006): 2}
    driver.run([(0, 6, 3, True)])
    assert pages.valid == {(5, 1005): 4, (6, 1006): 4, (8, 1008): 1}


def test_results_name_slots_in_plan_order() -> None:
    driver = new_driver()
    opens = [make_open(slot, [slot, slot + 1], [slot]) for slot in (5, 2, 7)]
    result = driver.run([(5, 0, 2, True), (2, 0, 1, False), (7, 0, 2, True)], opens=opens)
    assert as_array(result.slots) == [5, 7]
    assert as_array(result.tokens) == [*expected_greedy([5, 6], 1), *expected_greedy([7, 8], 1)]


def test_logprobs_index_the_drawn_tokens() -> None:
    driver = new_driver()
    opens = [make_open(slot, [slot], [slot], sampling=Sampling(logprobs=slot - 1)) for slot in range(3)]
    result = driver.run([(slot, 0, 1, True) for slot in range(3)], opens=opens)
    assert [index for index, _ in result.logprobs] == [1, 2]
    for index, value in result.logprobs:
        logprobs = torch.log_softmax(expected_logits([index]), -1)
        assert value.chosen == pytest.approx(float(logprobs.max()), abs=1e-6)
        assert len(unpack_u32(value.top_ids)) == index - 1


@pytest.mark.parametrize("chunks", [[11], [3, 8], [1, 1, 9], [4, 4, 3]])
def test_prompt_logprobs_of_every_prompt_token_but_the_first(
    chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any chunks, with logits held for 2 rows at a time, and not of tokens that were generated before."""
    monkeypatch.setattr("workers.step.execute._LOGITS_AT_ONCE", 2 * VOCABULARY)
    tokens, prompt_tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 8
    driver = new_driver()
    opens = [
        make_open(1, tokens, [9, 8, 7], prompt_tokens=prompt_tokens, prompt_logprobs=2, sampling=Sampling(logprobs=1))
    ]
    found: dict[int, tuple[float, list[int], list[float]]] = {}
    start = 0
    for count in chunks:
        result = driver.run([(1, start, count, start + count == len(tokens))], opens=opens)
        opens, start = [], start + count
        for slot, first, values in result.prompt_logprobs:
            assert slot == 1
            for position, value in enumerate(values, start=first):
                found[position] = (value.chosen, unpack_u32(value.top_ids).tolist(), unpack_f32(value.top).tolist())
    assert sorted(found) == list(range(1, prompt_tokens))
    for position, (chosen, ids, top) in found.items():
        logprobs = torch.log_softmax(expected_logits(tokens[:position]), -1)
        assert chosen == pytest.approx(float(logprobs[tokens[position]]), abs=1e-6)
        assert ids == logprobs.topk(2).indices.tolist()
        assert top == pytest.approx(logprobs.topk(2).values.tolist(), abs=1e-6)


def test_broken_logits_name_the_slot_and_the_worker_goes_on() -> None:
    executor, pages, _ = new_executor(poison=50)
    opens = [make_open(4, [1, 2], [1]), make_open(6, [3, 50], [2])]
    with pytest.raises(StepBroken, match="not finite") as caught:
        executor.run(make_plan(1, [(4, 0, 2, True), (6, 0, 2, True)], opens=opens))
    assert (caught.value.slots, caught.value.together) == ((6,), True)
    assert pages.valid == {}, "a step that failed commits nothing"
    with pytest.raises(StepBroken, match="closed") as caught:
        executor.run(make_plan(2, [(4, 2, 1, True)]))
    assert caught.value.slots == (), "a slot that the failure closed is not to blame"
    result = executor.run(make_plan(3, [(4, 0, 2, True)], opens=[make_open(4, [1, 2], [1])]))
    assert as_array(result.tokens) == expected_greedy([1, 2], 1)


def test_an_error_inside_the_model_is_not_shared_by_the_group() -> None:
    executor, _, model = new_executor()

    def out_of_memory(*_: object) -> torch.Tensor:
        raise MemoryError("no")

    model.forward = out_of_memory  # type: ignore[method-assign]
    with pytest.raises(StepBroken, match="MemoryError: no") as caught:
        executor.run(make_plan(1, [(0, 0, 1, True)], opens=[make_open(0, [1], [1])]))
    assert (caught.value.slots, caught.value.together) == ((), False)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError("no"), True),
        (torch.OutOfMemoryError("of the GPU"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_running_out_of_memory_is_told_apart_from_other_errors(error: Exception, is_memory: bool) -> None:
    executor, _, model = new_executor()

    def fails(*_: object) -> torch.Tensor:
        raise error

    model.forward = fails  # type: ignore[method-assign]
    with pytest.raises(StepBroken) as caught:
        executor.run(make_plan(1, [(0, 0, 1, True)], opens=[make_open(0, [1], [1])]))
    assert caught.value.out_of_memory is is_memory


def test_torch_says_it_on_this_host_in_the_words_that_are_looked_for() -> None:
    executor, _, model = new_executor()
    model.forward = lambda *_: torch.empty(1 << 58)  # type: ignore[method-assign]
    with pytest.raises(StepBroken) as caught:
        executor.run(make_plan(1, [(0, 0, 1, True)], opens=[make_open(0, [1], [1])]))
    assert caught.value.out_of_memory


def test_the_last_token_of_a_full_context_can_be_drawn_and_not_computed() -> None:
    driver = new_driver()
    tokens = [int(token) for token in np.arange(CONTEXT) % VOCABULARY]
    result = driver.run([(0, 0, CONTEXT, True)], opens=[make_open(0, tokens, driver.pages_for(CONTEXT))])
    assert as_array(result.tokens) == expected_greedy(tokens, 1)
    with pytest.raises(StepBroken, match="context"):
        driver.run([(0, CONTEXT, 1, True)])
