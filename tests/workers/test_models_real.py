"""The real files through the forward pass alone give what Hugging Face transformers gives.

`test_execute_reference.py` does it with step plans, slots and sampling around it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import Runner
from reference.huggingface import reference_model

from bus.names import models_directory
from workers.models.config import read_architecture

pytestmark = pytest.mark.model

NAMES = ["smollm2", "qwen05b"]
EVERY = [pytest.param("smollm2"), pytest.param("qwen05b", marks=pytest.mark.slow)]
SOME = ["turns", "german", "json", "text_mixed", "bug", "arabic", "text_python", "system"]


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / f"{name}.json").read_text("utf-8"))
    return found


def model_file(name: str) -> Path:
    path = models_directory() / golden(name)["model"]
    if not path.exists():
        pytest.skip(f"{path.name} is not in the model store")
    return path


@cache
def runner(name: str, ranks: int = 1) -> Runner:
    return Runner(model_file(name), ranks=ranks, cells=400)


def check(found: list[tuple[list[int], list[float]]], prompts: list[dict[str, Any]]) -> None:
    for prompt, (tokens, logprobs) in zip(prompts, found, strict=True):
        assert tokens == prompt["tokens"][: len(tokens)], prompt["name"]
        assert logprobs == pytest.approx(prompt["logprobs"][: len(tokens)], rel=0, abs=1e-3), prompt["name"]


def some(name: str, *wanted: str) -> list[dict[str, Any]]:
    by_name = {prompt["name"]: prompt for prompt in golden(name)["prompts"]}
    return [by_name[prompt] for prompt in wanted or SOME]


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_are_what_others_rely_on(name: str) -> None:
    """Twenty prompts and more, one of at least 1,400 tokens, and no step so close that rounding could decide it."""
    prompts = golden(name)["prompts"]
    assert len(prompts) >= 20
    assert max(len(prompt["ids"]) for prompt in prompts) >= 1400
    for prompt in prompts:
        assert [len(prompt[key]) for key in ("tokens", "logprobs", "gaps")] == [64, 64, 64]
        assert min(prompt["gaps"]) > 1e-3, prompt["name"]


def test_the_qwen_file_has_a_head_of_its_own() -> None:
    architecture = read_architecture(model_file("qwen05b"))
    assert (architecture.tied, architecture.qkv_bias, architecture.stop_ids) == (False, True, (151645,))
    architecture = read_architecture(model_file("smollm2"))
    assert (architecture.tied, architecture.qkv_bias, architecture.stop_ids) == (True, False, (2,))


@pytest.mark.parametrize("name", EVERY)
def test_all_positions_equal_transformers_live(name: str) -> None:
    model = reference_model(model_file(name))
    for prompt in some(name, "text_digits", "chinese"):
        ids = prompt["ids"] + prompt["tokens"]
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        ours = runner(name)
        (hidden,) = ours.step([("live", ids)])
        ours.free("live")
        assert (ours.logits(hidden).log_softmax(-1) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_eight(name: str) -> None:
    prompts = some(name)
    check(runner(name).greedy([prompt["ids"] for prompt in prompts], 24), prompts)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("chunk", [1, 7, 16, 33])
def test_chunked_prefill_beside_decodes(name: str, chunk: int) -> None:
    prompts = some(name, "german", "text_rust", "text_one_word")
    check(runner(name).greedy([prompt["ids"] for prompt in prompts], 12, chunk), prompts)


def test_a_long_prompt_in_chunks() -> None:
    prompts = some("smollm2", "long")
    check(runner("smollm2").greedy([prompts[0]["ids"]], 8, 512), prompts)


@pytest.mark.parametrize("name", EVERY)
def test_two_tensor_parallel_ranks(name: str) -> None:
    prompts = some(name, "german", "text_mixed", "text_one_word")
    check(runner(name, 2).greedy([prompt["ids"] for prompt in prompts], 24, 32), prompts)


@pytest.mark.timeout(600)
def test_gemma_beyond_its_window_in_chunks_and_a_batch() -> None:
    """Two ropes, norms everywhere, a window of 512 in five layers of six, a longer prompt, and short ones beside it."""
    architecture = read_architecture(model_file("gemma3"))
    assert (architecture.name, architecture.tied, architecture.qk_norm) == ("gemma3", True, True)
    assert set(architecture.windows) == {0, 512}
    prompts = some("gemma3", "text_rust", "text_mixed", "text_one_word", "text_long")
    assert len(prompts[-1]["ids"]) > 512 + 200
    ours = Runner(model_file("gemma3"), cells=120)
    check(ours.greedy([prompt["ids"] for prompt in prompts], 10, 200), prompts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_to_its_end(name: str, ranks: int) -> None:
    prompts = golden(name)["prompts"]
    for begin in range(0, len(prompts), 8):
        batch = prompts[begin : begin + 8]
        check(runner(name, ranks).greedy([prompt["ids"] for prompt in batch], 64, 256), batch)
