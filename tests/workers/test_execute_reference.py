"""The real models through step plans give the tokens and log probabilities of Hugging Face transformers.

The default run takes some prompts, most of them of the small model; `-m slow` takes all of both, every way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Driver, make_open
from real import PAGE_TOKENS, assert_as_reference, driver_of, generate, load, model_file, reference

from bus.messages.requests import Sampling
from bus.packed import unpack_u32
from workers.models.interface import Model

pytestmark = pytest.mark.model

NAMES = ["smollm2", pytest.param("qwen05b", marks=pytest.mark.slow)]
SOME = ["hello", "chinese", "emoji", "text_digits", "code_chat", "whitespace", "text_one_word", "text_rust"]


def some(name: str, *prompts: str) -> list[dict[str, Any]]:
    by_name = {prompt["name"]: prompt for prompt in reference(name)}
    return [by_name[prompt] for prompt in prompts or SOME]


@pytest.fixture(scope="module", params=NAMES)
def real(request: pytest.FixtureRequest) -> Iterator[tuple[str, Model]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that spin beside other processes take ten times as long
    yield request.param, load(request.param)
    torch.set_num_threads(threads)


def check(driver: Driver, prompts: list[dict[str, Any]], count: int = 64, batch: int = 8) -> None:
    for start in range(0, len(prompts), batch):
        together = prompts[start : start + batch]
        for prompt, (tokens, logprobs) in zip(together, generate(driver, together, count), strict=True):
            assert len(tokens) == len(logprobs) == count
            assert_as_reference(prompt, tokens, logprobs)


def test_a_batch_of_eight_with_two_plans_in_flight(real: tuple[str, Model]) -> None:
    name, model = real
    check(driver_of(model, ahead=2), some(name), count=32)


def test_alone(real: tuple[str, Model]) -> None:
    name, model = real
    check(driver_of(model), some(name, "hello", "text_rust"), count=32, batch=1)


@pytest.mark.parametrize("chunk", [7, 16, 50])
def test_chunked_prefill(real: tuple[str, Model], chunk: int) -> None:
    """Chunks that end inside a page, at its end, and beyond; prefill and decode rows share steps."""
    name, model = real
    check(driver_of(model, chunk=chunk), some(name, "emoji", "hello", "text_one_word"), count=8)


def test_a_long_prompt_in_chunks(real: tuple[str, Model]) -> None:
    name, model = real
    check(driver_of(model, chunk=512), some(name, "long"), count=4)


def test_a_cached_prefix(real: tuple[str, Model]) -> None:
    """A second request starts on the pages of the first one, which is still decoding."""
    name, model = real
    driver = driver_of(model)
    (prompt,) = some(name, "emoji")
    ids = prompt["ids"]
    pages = driver.pages_for(len(ids))
    driver.run([(0, 0, len(ids), True)], opens=[make_open(0, ids, pages)])
    cached = len(ids) // PAGE_TOKENS * PAGE_TOKENS
    shared = pages[: cached // PAGE_TOKENS]
    opened = make_open(
        1, ids, [*shared, *driver.pages_for(len(ids) - cached + 8)], computed=cached, sampling=Sampling(logprobs=0)
    )
    results = [driver.run([(1, cached, len(ids) - cached, True), (0, len(ids), 1, True)], opens=[opened])]
    results += [driver.run([(1, len(ids) + step, 1, True)]) for step in range(7)]
    tokens = [unpack_u32(result.tokens).tolist()[0] for result in results]
    assert_as_reference(prompt, tokens, [dict(result.logprobs)[0].chosen for result in results])


def test_prompt_logprobs_score_an_answer(real: tuple[str, Model]) -> None:
    """Prompt and answer given as a prompt: each token of the answer is scored as it was when it was drawn."""
    name, model = real
    driver = driver_of(model)
    (prompt,) = some(name, "hello")
    ids = prompt["ids"] + prompt["tokens"][:32]
    opened = make_open(0, ids, driver.pages_for(len(ids)), prompt_logprobs=1)
    result = driver.run([(0, 0, len(ids), True)], opens=[opened])
    ((slot, first, values),) = result.prompt_logprobs
    assert (slot, first, len(values)) == (0, 1, len(ids) - 1)
    answer = values[len(prompt["ids"]) - 1 :]
    assert_as_reference(
        prompt,
        [int(unpack_u32(value.top_ids)[0]) for value in answer],
        [value.chosen for value in answer],
    )


def test_the_larger_model_in_chunks_and_a_batch() -> None:
    """Biases on q, k and v, and a head of its own; the rest of its tests are slow."""
    torch.set_num_threads(1)
    driver = driver_of(load("qwen05b"), chunk=20)
    check(driver, some("qwen05b", "hello", "chinese", "text_rust", "text_one_word"), count=8)


def two_ranks(name: str, directory: Path, prompts: list[str], count: int) -> list[Any]:
    """What rank 0 of a group of two processes generated: per prompt (tokens, logprobs)."""
    model_file(name)
    script = Path(__file__).with_name("rank.py")
    arguments = [json.dumps({"model": name, "prompts": prompts, "count": count})]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), "real", str(directory), str(rank), "2", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=250)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads(output) for output in outputs)
    assert second["tokens_in_slot"] == first["tokens_in_slot"], "both ranks have the same sequence"
    generated: list[Any] = first["generated"]
    return generated


@pytest.mark.system
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(name: str, tmp_path: Path) -> None:
    chosen = ["hello", "emoji"]
    generated = two_ranks(name, tmp_path, chosen, 16)
    for prompt, (tokens, logprobs) in zip(some(name, *chosen), generated, strict=True):
        assert len(tokens) == 16
        assert_as_reference(prompt, tokens, logprobs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 8}, {"batch": 8, "chunk": 13}, {"batch": 3, "chunk": 100}])
def test_every_prompt_every_way(real: tuple[str, Model], options: dict[str, int]) -> None:
    name, model = real
    driver = driver_of(model, chunk=options.get("chunk", 2048), ahead=2)
    check(driver, reference(name), batch=options["batch"])


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_on_two_ranks(name: str, tmp_path: Path) -> None:
    prompts = reference(name)
    generated = two_ranks(name, tmp_path, [prompt["name"] for prompt in prompts], 64)
    for prompt, (tokens, logprobs) in zip(prompts, generated, strict=True):
        assert_as_reference(prompt, tokens, logprobs)
