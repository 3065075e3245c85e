"""A decoder on packed weights computes what transformers computes, and the same bits however its work is cut."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from forward import Runner
from test_models_tiny import IDS, VARIANTS, close, computed
from tiny import saved, tiny, written

from workers.host import cpu_flags
from workers.kernels.build import library
from workers.kernels.pack import Kernels, Scheme
from workers.models.config import read_architecture
from workers.models.load import load_weights
from workers.models.packed import Misfit, misfit
from workers.weights.sharding import shard_of
from workers.weights.source import WeightsError

pytestmark = pytest.mark.kernels


def kernels(scheme: Scheme = "file", threads: int = 2) -> Kernels:
    return Kernels(library(cpu_flags()), threads, scheme)


# Of families that have nothing beside llama.
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    **VARIANTS,
    "mistral": ("mistral", {"sliding_window": None}),
    "phi3": ("phi3", {"sliding_window": None}),
}


@pytest.mark.parametrize("variant", PLAIN)
def test_floats_equal_transformers_and_cuts_change_no_bit(variant: str, tmp_path: Path) -> None:
    family, changes = PLAIN[variant]
    model = tiny(family, **changes)
    path = saved(model, tmp_path)
    whole = computed(Runner(path, kernels=kernels()), len(IDS))
    close(whole, model)
    # Other chunks, another page size, another number of threads: the same bits.
    assert torch.equal(whole, computed(Runner(path, page_tokens=8, kernels=kernels(threads=1)), 33, 17, 2))


def test_neighbours_in_a_batch_change_no_bit(tmp_path: Path) -> None:
    runner = Runner(saved(tiny("llama"), tmp_path), kernels=kernels(), dtype=torch.bfloat16)
    (alone,) = runner.step([("a", IDS[:40])])
    ours = [runner.step([("a", [token])])[0] for token in IDS[40:50]]
    chunk, *_ = runner.step([("b", IDS[:40]), ("c", IDS[7:80]), ("d", IDS[3:4])])
    assert torch.equal(chunk, alone)
    for at, token in enumerate(IDS[40:50]):
        _, mine, _ = runner.step([("c", IDS[at : at + 3]), ("b", [token]), ("d", IDS[at : at + 1])])
        assert torch.equal(mine, ours[at])


@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_a_long_sequence_equals_transformers_and_cuts_change_no_bit(head_dim: int, tmp_path: Path) -> None:
    """Over several splits of attention: whole, in chunks that end anywhere, and token by token at their edges."""
    model = tiny("qwen2", max_position_embeddings=1024, head_dim=head_dim, num_attention_heads=6, num_key_value_heads=2)
    path = saved(model, tmp_path)
    ids = (IDS * 7)[:590]

    def hidden(*chunks: int, threads: int = 2) -> torch.Tensor:
        runner, found, begin = Runner(path, kernels=kernels(threads=threads)), [], 0
        for size in chunks:
            found += runner.step([("a", ids[begin : begin + size])])
            begin += size
        return torch.cat(found)

    whole = hidden(590)
    assert torch.equal(whole, hidden(200, 55, *[1] * 5, 250, *[1] * 4, 76, threads=1))
    with torch.no_grad():  # in float64: its float32 differs from processor to processor, by as much as ours does
        expected = model.double().model(torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(whole.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_time_of_steps_is_accounted_for(tmp_path: Path) -> None:
    runner = Runner(saved(tiny("llama"), tmp_path), kernels=kernels())
    (model,) = runner.models
    assert not any(model.spent_ns().values())
    began = time.monotonic_ns()
    (hidden,) = runner.step([("a", IDS)])
    runner.logits(hidden)
    spent, passed = model.spent_ns(), time.monotonic_ns() - began
    assert all(spent.values())
    assert sum(spent.values()) <= passed
    assert sum(model.spent_ns().values()) == sum(spent.values()), "nothing is counted between steps"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_ranks_agree_with_one(family: str, tmp_path: Path) -> None:
    """Heads 2 + 1, an MLP of 160 as 96 + 64: between groups of 32."""
    model = tiny(family, num_attention_heads=6, head_dim=32)
    close(computed(Runner(saved(model, tmp_path), ranks=2, kernels=kernels()), 33, 17, 2), model)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_codes_of_a_file_are_near_its_floats(family: str, kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    """What is left is the rounding of activations, which a random model magnifies; rows, biases and heads are in their
    places."""
    path = written(tiny(family), tmp_path / "m.gguf", kind)
    exact, found = computed(Runner(path), len(IDS)), computed(Runner(path, kernels=kernels()), len(IDS))
    divergence = (exact.exp() * (exact - found)).sum(-1)
    assert float(divergence.mean()) < 0.1
    floats = computed(Runner(path, kernels=kernels("floats")), len(IDS))
    torch.testing.assert_close(floats, exact, rtol=1e-4, atol=1e-3)


def test_rounding_at_load_costs_more_with_fewer_bits(tmp_path: Path) -> None:
    path = saved(tiny("llama"), tmp_path)
    exact = computed(Runner(path), len(IDS))
    lost = []
    for scheme in ("floats", "int8", "int4"):
        found = computed(Runner(path, kernels=kernels(scheme)), len(IDS))  # type: ignore[arg-type]
        lost.append(float((exact.exp() * (exact - found)).sum(-1).mean()))
    assert lost[0] < 1e-6 < lost[1] < 0.15
    assert 2 * lost[1] < lost[2] < 2


def test_a_tensor_too_many_and_one_too_few(tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    path = saved(model, tmp_path / "m")
    Runner(path, kernels=kernels())
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'))
    with pytest.raises(WeightsError, match="not a tensor of llama"):
        Runner(path, kernels=kernels())
    (path / "config.json").write_text(config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(WeightsError, match="missing"):
        Runner(path, kernels=kernels())


@pytest.mark.parametrize(
    ("family", "lacking"),
    [
        ("mistral", "mistral's windows"),
        ("mixtral", "mixtral's experts"),
        ("qwen3", "qwen3's norms of q and k"),
        ("qwen3_moe", "qwen3_moe's experts, norms of q and k"),
        ("gemma2", "gemma2's windows, norms after attention and MLP, activation, multipliers, soft caps"),
        ("gemma3_text", "gemma3's windows, norms of q and k, norms after attention and MLP, activation, multipliers"),
        ("phi3", "phi3's windows"),
        ("granite", "granite's multipliers"),
    ],
)
def test_what_a_family_has_beside_llama_is_not_computed_without_it(family: str, lacking: str, tmp_path: Path) -> None:
    path = saved(tiny(family), tmp_path)
    with pytest.raises(Misfit, match=f"^{lacking}$"):
        load_weights(path, dtype=torch.bfloat16, kernels=kernels())


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    architecture = read_architecture(saved(tiny("llama"), tmp_path))
    shard = shard_of(architecture, 0, 1)
    assert misfit(architecture, shard) == ""
    assert "heads of 24" in misfit(dataclasses.replace(architecture, head_dim=24), shard)
    assert "hidden size of 100" in misfit(dataclasses.replace(architecture, hidden=100), shard)
    odd = dataclasses.replace(architecture, intermediate=150)
    assert "MLP of 150" in misfit(odd, shard_of(odd, 0, 1))
