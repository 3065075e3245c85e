"""The executor on the GPU's kernels, in Triton's interpreter: the tokens of the CPU, whatever requests ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from driving import Driver, PlainPages
from tiny import saved, tiny

from bus.messages.requests import Sampling, TokenLogprobs
from bus.packed import pack_u32, unpack_u32
from workers.group import Alone
from workers.hbm.copier import HostCopier
from workers.hbm.pages import DevicePages
from workers.kernels.triton.tuning import INTERPRETER, tuning
from workers.models.interface import Model
from workers.models.load import load_model
from workers.operators.fused import fused
from workers.operators.plain import plain
from workers.sampling.banned import Banned
from workers.sampling.on_device import DeviceSamplingTable
from workers.step.execute import Executor, StepBroken
from workers.step.slots import Slots

CPU = torch.device("cpu")
SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
CELLS, PAGE_TOKENS, SLOTS = 16, 8, 4
NOTHING = (torch.tensor([1]), torch.tensor([], dtype=torch.int64))
PROMPTS = [[(7 * at) % 101 for at in range(22)], [4, 4, 60], [12], [9, 30]]
SAMPLINGS = [
    Sampling(temperature=0.0, logprobs=2),
    Sampling(temperature=0.9, seed=2**63 + 5, top_p=0.9, min_tokens=3, suppress=pack_u32(range(90))),
    Sampling(temperature=1.2, seed=11, top_k=20, logit_bias=((3, 4.0), (9, -100.0)), logprobs=0),
    Sampling(temperature=0.0, repetition_penalty=1.6, frequency_penalty=2.0, presence_penalty=1.0),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny("qwen3", **SMALL), tmp_path_factory.mktemp("model"))


def driver(path: Path, *, kernels: bool) -> Driver:
    model: Model = load_model(
        path,
        dtype=torch.float32,
        device=CPU,
        make_operators=fused(torch.float32, CPU) if kernels else plain,
        lay_out=lambda weight: weight,
    )
    a = model.architecture
    pages = PlainPages(torch.full((CELLS, a.layers, 2, a.kv_heads, PAGE_TOKENS, a.head_dim), float("nan")))
    if not kernels:
        slots = Slots(SLOTS, 64, PAGE_TOKENS, a.vocabulary, CELLS, CPU)
        return Driver(Executor(model, slots, pages, Alone()), PAGE_TOKENS, CELLS, chunk=12)
    frames = torch.full((CELLS - 3, *pages.tensor.shape[1:]), float("nan"))
    device = DevicePages(frames, HostCopier(frames, pages.tensor), pages)
    sampler = DeviceSamplingTable(SLOTS, a.vocabulary, CPU, tuning(INTERPRETER))
    slots = Slots(SLOTS, 64, PAGE_TOKENS, a.vocabulary, CELLS, CPU, sampler=sampler, placement=device)
    return Driver(Executor(model, slots, device, Alone()), PAGE_TOKENS, CELLS, chunk=12)


def logprobs(driver: Driver) -> list[tuple[int, TokenLogprobs]]:
    return [each for result in driver.results for each in result.logprobs]


def test_tokens_and_log_probabilities_are_those_of_the_cpu(path: Path) -> None:
    """Greedy, drawn, truncated, penalised, biased and held back, side by side; again in slots that were used before."""
    ours, theirs = driver(path, kernels=True), driver(path, kernels=False)
    for prompts, samplings in ((PROMPTS, SAMPLINGS), (PROMPTS[::-1], SAMPLINGS)):
        assert ours.generate(prompts, 8, samplings) == theirs.generate(prompts, 8, samplings)
    for (row, found), (expected_row, expected) in zip(logprobs(ours), logprobs(theirs), strict=True):
        assert row == expected_row
        assert found.chosen == pytest.approx(expected.chosen, abs=2e-4)
        assert unpack_u32(found.top_ids).tolist() == unpack_u32(expected.top_ids).tolist()


@pytest.mark.parametrize(
    "banned",
    [
        Banned(torch.tensor([4, 6]), left=True),
        Banned(torch.tensor([token for token in range(30) if token not in (4, 6)]), left=False),
    ],
    ids=["by what is left", "by what is not"],
)
def test_what_a_grammar_rules_out_is_not_drawn(banned: Banned) -> None:
    """Masks come row by row; alternatives that are ruled out are not told."""
    drawn = two_rows().draw(torch.arange(30.0).repeat(2, 1), np.array([1, 0]), np.array([5, 5]), {1: banned}, {})
    assert drawn.tokens.tolist() == [29, 6]
    (_, free), (_, masked) = drawn.all_logprobs()
    assert unpack_u32(free.top_ids).tolist() == [29, 28, 27, 26, 25]
    assert unpack_u32(masked.top_ids).tolist() == [6, 4]


def test_what_is_forced_stands_there_with_the_model_s_log_probability() -> None:
    logits = torch.arange(30.0).repeat(2, 1)
    expected = logits[0].log_softmax(-1)[3].item()
    drawn = two_rows(bias=()).draw(logits, np.array([1, 0]), np.array([5, 5]), {}, {1: 3})
    assert drawn.tokens.tolist() == [29, 3]
    assert drawn.all_logprobs()[1][1].chosen == pytest.approx(expected, abs=1e-4)


def two_rows(bias: tuple[tuple[int, float], ...] = ((8, 2.0),)) -> DeviceSamplingTable:
    table = DeviceSamplingTable(2, 30, CPU, tuning(INTERPRETER))
    for slot in range(2):
        table.open(slot, Sampling(temperature=0.0, logprobs=5, logit_bias=bias), *NOTHING)
    return table


def test_logits_that_are_broken_name_their_slot(path: Path) -> None:
    """The kernels say it with a token of -1; the executor makes of it what it makes on a CPU."""
    ours = driver(path, kernels=True)
    ours.generate(PROMPTS[1:2], 1)
    model = ours.executor._model
    model.blocks[0].mlp._down._linear._linear._weight[:] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(StepBroken) as broken:
        ours.generate(PROMPTS[1:2], 1)
    assert broken.value.slots == (0,)
    assert broken.value.together
