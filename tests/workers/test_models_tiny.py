"""Random small models compute what transformers computes, from every file format and however they are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from forward import Runner
from tiny import LLAMA3_ROPE, saved, tiny, written
from torch import Tensor

from workers.models.config import read_architecture
from workers.models.load import load_weights
from workers.models.rope import inverse_frequencies

IDS = [int(n) for n in torch.randint(0, 101, (90,), generator=torch.Generator().manual_seed(3))]

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0}}),
    "llama without grouping": ("llama", {"num_key_value_heads": 6}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
}


def expected(model: Any) -> Tensor:
    """transformers' log probabilities, [ids, vocabulary]."""
    with torch.inference_mode():
        logprobs: Tensor = model(torch.tensor([IDS])).logits[0].float().log_softmax(-1)
    return logprobs


def computed(runner: Runner, *chunks: int) -> Tensor:
    """Ours, with the ids fed in chunks of these sizes and the rest one by one."""
    hidden, begin = [], 0
    sizes = [*chunks, *[1] * (len(IDS) - sum(chunks))]
    for size in sizes:
        hidden += runner.step([("a", IDS[begin : begin + size])])
        begin += size
    return runner.logits(torch.cat(hidden)).log_softmax(-1)


def close(found: Tensor, model: Any) -> None:
    torch.testing.assert_close(found, expected(model), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_decode_equal_transformers(variant: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    model = tiny(family, **changes)
    path = saved(model, tmp_path)
    close(computed(Runner(path), len(IDS)), model)
    close(computed(Runner(path, page_tokens=8), 33, 17, 2), model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_counted_as_transformers_does(variant: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    model = tiny(family, **changes)
    assert read_architecture(saved(model, tmp_path)).parameters == model.num_parameters()


def test_weights_know_their_size_and_what_lies_in_one_place_counts_once(tmp_path: Path) -> None:
    for tied in (False, True):
        path = saved(tiny("llama", tie_word_embeddings=tied), tmp_path / str(tied))
        weights = load_weights(path, dtype=torch.float32)
        assert weights.bits == ()
        least = 4 * weights.architecture.parameters
        assert least <= weights.bytes < 2 * least


@pytest.mark.parametrize(("family", "ranks"), [("llama", 2), ("llama", 3), ("qwen2", 2)])
def test_tensor_parallel_ranks_agree_with_one(family: str, ranks: int, tmp_path: Path) -> None:
    """Given three KV heads, 101 ids and two ranks, when nothing divides evenly, then the result is the same."""
    model = tiny(family)
    close(computed(Runner(saved(model, tmp_path), ranks=ranks), 40, 20), model)


def test_shards_with_an_index(tmp_path: Path) -> None:
    model = tiny("llama")
    path = saved(model, tmp_path, max_shard_size="80KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    close(computed(Runner(path), len(IDS)), model)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_gguf_with_permuted_rows_biases_and_heads(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    path = written(model, tmp_path / "tiny.gguf")
    assert read_architecture(path).tied is tied
    close(computed(Runner(path), 50), model)
    close(computed(Runner(path, ranks=2), 50), model)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_gguf_stored_small(kind: str, tmp_path: Path) -> None:
    """The same numbers through another door: what the file holds, dequantised, in transformers' model."""
    model = tiny("llama")
    quantised = gguf.GGMLQuantizationType[kind]
    path = written(model, tmp_path / "tiny.gguf", quantised)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quantize(parameter.numpy(), quantised)
                parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, quantised).copy()).view(parameter.shape))
    close(computed(Runner(path), 50), model)


def test_gguf_carries_llama_3_scaling_as_factors(tmp_path: Path) -> None:
    model = tiny("llama", rope_parameters=LLAMA3_ROPE)
    directory = saved(model, tmp_path / "hf")
    rope = read_architecture(directory).rope
    plain = inverse_frequencies(type(rope)(rope.theta), 16)
    factors = plain / inverse_frequencies(rope, 16)
    assert factors.max() == 8
    assert factors.min() == 1
    path = written(model, tmp_path / "tiny.gguf", factors=factors.numpy())
    close(computed(Runner(path), 50), model)


def test_stop_ids_and_bos_come_from_the_files(tmp_path: Path) -> None:
    model = tiny("qwen2")
    assert read_architecture(written(model, tmp_path / "tiny.gguf")).stop_ids == (2, 5)
    directory = saved(model, tmp_path / "hf")
    assert (read_architecture(directory).stop_ids, read_architecture(directory).bos_id) == ((2, 5), 1)
    (directory / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert read_architecture(directory).stop_ids == (9,)


def test_bfloat16_model_is_near_float32(tmp_path: Path) -> None:
    from workers.models.load import load_model

    model = tiny("llama", initializer_range=0.1)
    runner = Runner(saved(model, tmp_path))
    runner.models = [load_model(tmp_path, dtype=torch.bfloat16, device=torch.device("cpu"))]
    runner.pages = runner.pages.bfloat16()
    found = computed(runner, 80)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(model), rtol=0, atol=0.15)
