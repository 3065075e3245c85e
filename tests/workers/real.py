"""Real models on plain memory, and what Hugging Face transformers says that they answer (`reference/*.json`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Driver, PlainPages

from bus.catalogue import ModelMissing, locate
from bus.messages.requests import Sampling
from bus.names import models_directory
from bus.packed import unpack_u32
from workers.group import Alone, Group
from workers.models.architecture import kv_shape
from workers.models.interface import Model
from workers.models.load import load_model
from workers.step.execute import Executor
from workers.step.slots import Slots

CPU = torch.device("cpu")
PAGE_TOKENS = 16
LOGPROB_TOLERANCE = 1e-3
# Where the two best logits are closer than this, rounding in another order may choose the other.
CLOSE = 1e-3


def reference(name: str) -> list[dict[str, Any]]:
    """Prompts with their greedy continuation: name, ids, tokens, logprobs, gaps."""
    path = Path(__file__).parent / "reference" / f"{name}.json"
    prompts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    return prompts


def model_file(name: str) -> Path:
    """The file that a reference was made from; the test is skipped where it is not in the model store."""
    path = Path(__file__).parent / "reference" / f"{name}.json"
    file = models_directory() / json.loads(path.read_text(encoding="utf-8"))["model"]
    try:
        return locate(str(file))
    except ModelMissing as missing:
        pytest.skip(str(missing))


def load(name: str, group: Group | None = None) -> Model:
    """A model in float32, the path that must be exact."""
    group = group or Alone()
    return load_model(
        model_file(name), dtype=torch.float32, device=CPU, rank=group.rank, ranks=group.ranks, collectives=group
    )


def driver_of(model: Model, *, cells: int = 320, slots: int = 8, group: Group | None = None, **options: int) -> Driver:
    """A driver on pages that are full of NaN: whoever reads what was not written is found out."""
    shape = kv_shape(model.architecture, PAGE_TOKENS, torch.float32)
    size = (cells, shape.layers, 2, shape.kv_heads, shape.page_tokens, shape.head_dim)
    pages = PlainPages(torch.full(size, torch.nan))
    table = Slots(slots, model.architecture.context, PAGE_TOKENS, model.architecture.vocabulary, cells, CPU)
    return Driver(Executor(model, table, pages, group or Alone()), PAGE_TOKENS, cells, **options)


def generate(driver: Driver, prompts: Sequence[dict[str, Any]], count: int) -> list[tuple[list[int], list[float]]]:
    """Greedy tokens and their log probabilities."""
    first = len(driver.results)
    tokens = driver.generate([prompt["ids"] for prompt in prompts], count, [Sampling(logprobs=0)] * len(prompts))
    logprobs: list[list[float]] = [[] for _ in prompts]
    for result in driver.results[first:]:
        slots = unpack_u32(result.slots).tolist()
        for index, value in result.logprobs:
            logprobs[slots[index]].append(value.chosen)
    return list(zip(tokens, logprobs, strict=True))


def assert_as_reference(prompt: dict[str, Any], tokens: Sequence[int], logprobs: Sequence[float]) -> None:
    """Equal tokens, log probabilities within 1e-3; nothing is said beyond a choice that was a toss-up."""
    for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=False)):
        where = f"{prompt['name']}, token {index}, gap {prompt['gaps'][index]}"
        if token != prompt["tokens"][index]:
            assert prompt["gaps"][index] < CLOSE, where
            return
        assert abs(logprob - prompt["logprobs"][index]) < LOGPROB_TOLERANCE, where
