"""What GPUs have to have, and what models may ask of them: refused by name, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import saved, tiny

from bus.config import Config, ConfigError, ModelConfig, load_config
from workers.encoding.loading import dtype_of
from workers.engine import choose
from workers.gpu import TEST_MEMORY, Gpus, device_for, misfit, why_no_group, why_not
from workers.host import Unsuitable, assign
from workers.loading import load
from workers.models.load import load_weights
from workers.weights.prepared import stacked
from workers.weights.quantised.config import Quantisation

WHOLE = Gpus("2.13.0", "13.0", driver=True, found=2, triton=True)


def model(**fields: object) -> ModelConfig:
    return ModelConfig(name="m", source="path:/m", device="cuda", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"built_for": "", "torch": "2.13.0+cpu"}, r"torch 2\.13\.0\+cpu is built without CUDA: install"),
        ({"driver": False, "found": 0}, r"no NVIDIA driver \(/dev/nvidiactl is missing\)"),
        ({"found": 0}, r"finds no GPU, though there is a driver; CUDA_VISIBLE_DEVICES is '7': .*nvidia-smi"),
        ({"triton": False}, r"pip install 'headrace\[gpu\]'"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    changes: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert re.search(said, why_not(WHOLE._replace(**changes))) if said else why_not(WHOLE) == ""  # type: ignore[arg-type]


FP8 = Quantisation("fp8")


@pytest.mark.parametrize(
    ("asked", "quantisation", "capability", "said"),
    [
        ({}, None, (8, 0), ""),
        ({}, FP8, (9, 0), ""),
        ({}, FP8, (8, 9), ""),
        ({}, FP8, (8, 6), ""),
        ({}, None, (7, 5), "GPUs since compute capability 8.0; this one has 7.5"),
        ({}, Quantisation("gptq"), (8, 0), ""),
        ({"tensor_parallel": 3}, None, (9, 0), "tensor_parallel = 3 does not divide its 8 KV heads"),
        ({"tensor_parallel": 2}, None, (9, 0), ""),
        ({"standby": 1}, None, (9, 0), "standby = 1"),
        ({"deterministic": True}, None, (9, 0), "deterministic = true"),
        ({"quantize": "int4"}, None, (8, 0), ""),
        ({"quantize": "fp8"}, None, (9, 0), ""),
        ({"quantize": "none"}, FP8, (9, 0), ""),
        ({"quantize": "int8"}, FP8, (9, 0), 'quantize = "int8" rounds floats, and its checkpoint is fp8 already'),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    asked: dict[str, object], quantisation: Quantisation | None, capability: tuple[int, int], said: str
) -> None:
    found = misfit(model(**asked), kv_heads=8, quantisation=quantisation, capability=capability)
    assert found.startswith(said) or said in found
    assert bool(found) == bool(said)


def test_each_replica_has_a_gpu_of_its_own_while_there_are_enough() -> None:
    other = ModelConfig(name="n", source="x.gguf", device="cuda")
    models = (model(replicas=2), ModelConfig(name="cpu", source="x.gguf"), other)
    config = Config(model=models)
    where = [(models[0], 0), (models[0], 1), (other, 0)]
    places = [device_for(each, replica, config, 3).index for each, replica in where]
    assert places == [0, 1, 2]
    assert device_for(other, 0, config, 2).index == 0


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4), st.integers(1, 8), st.data())
def test_ranks_of_a_replica_are_never_on_one_gpu(
    shapes: list[tuple[int, int]], count: int, data: st.DataObject
) -> None:
    """Law: where there are as many GPUs as all ranks together, each rank has one; always where there are enough for a
    replica, the ranks of a replica have different ones."""
    models = tuple(
        ModelConfig(name=f"m{n}", source="x.gguf", device="cuda", replicas=replicas, tensor_parallel=ranks)
        for n, (replicas, ranks) in enumerate(shapes)
    )
    config, chosen = Config(model=models), data.draw(st.sampled_from(models))
    if chosen.tensor_parallel <= count:
        own = [device_for(chosen, 0, config, count, rank) for rank in range(chosen.tensor_parallel)]
        assert len(set(own)) == chosen.tensor_parallel
    everyone = [
        device_for(each, replica, config, 64, rank).index
        for each in models
        for replica in range(each.replicas)
        for rank in range(each.tensor_parallel)
    ]
    assert everyone == list(range(len(everyone)))


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({}, 2, ""),
        ({"nccl": False}, 1, ""),
        ({"nccl": False}, 2, r"tensor_parallel = 2 takes NCCL, which torch 2\.13\.0 is built without"),
        ({}, 4, "tensor_parallel = 4 takes so many GPUs, and there are 2"),
        ({"found": 1}, 2, "and there is 1"),
    ],
)
def test_what_a_group_is_missing_is_said(changes: dict[str, object], ranks: int, said: str) -> None:
    found = why_no_group(WHOLE._replace(**changes), ranks)  # type: ignore[arg-type]
    assert re.search(said, found) if said else found == ""


def test_a_stand_in_refuses_what_a_gpu_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are those of a start, with the files at hand."""
    monkeypatch.setenv(TEST_MEMORY, "8MiB")
    path = saved(tiny("llama"), tmp_path)
    asked = ModelConfig(name="m", source=f"path:{path}", device="cuda", tensor_parallel=2)
    with pytest.raises(Unsuitable, match=r"'m' cannot be served on a GPU.*= 2 does not divide its 3 KV"):
        choose(asked, torch.device("cpu"), 1, path)


def test_a_model_for_a_gpu_is_not_packed_for_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_MEMORY, "8MiB")
    path = saved(tiny("llama"), tmp_path)
    config = Config(model=(ModelConfig(name="m", source=f"path:{path}", device="cuda", dtype="float32"),))
    assignment = assign("worker@m.0.0", config)
    assert assignment.in_device_memory
    loaded = load(assignment, lambda _: None)
    assert loaded.engine.kernels is None  # type: ignore[union-attr]


def test_a_budget_that_is_no_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[[model]]\nname = "m"\nsource = "x.gguf"\ndevice_kv = "much"\n')
    with pytest.raises(ConfigError, match=r"device_kv.*'much' is not a size"):
        load_config(file)


def test_fp8_is_asked_for_on_a_gpu_only(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[[model]]\nname = "m"\nsource = "x.gguf"\nquantize = "fp8"\n')
    with pytest.raises(ConfigError, match=r'quantize.*FP8 is multiplied on GPUs: with device = "cuda"'):
        load_config(file)


def test_an_encoder_is_not_served_on_a_gpu() -> None:
    with pytest.raises(Unsuitable, match='device = "cuda" is not for encoders'):
        dtype_of(model())


def test_weights_move_once_and_experts_lie_one_behind_the_other(tmp_path: Path) -> None:
    """What is one place in files is one place on the device; all experts of a layer are one tensor without a copy."""
    path = saved(tiny("qwen3_moe", tie_word_embeddings=True), tmp_path)
    weights = load_weights(path, dtype=torch.float32, lay_out=lambda weight: weight)
    moved = weights.on(torch.device("cpu"))
    assert moved.head().data_ptr() == moved.embedding().data_ptr() != weights.embedding().data_ptr()
    assert moved.bytes == weights.bytes
    for name, tensor in weights.tensors.items():
        assert torch.equal(moved.tensors[name], tensor)
    layer = next(layer for layer in range(3) if weights.architecture.experts_of(layer))
    ups = [moved.expert(layer, number)[0] for number in range(8)]
    together = stacked(ups)
    assert together.data_ptr() == ups[0].data_ptr()
    assert torch.equal(together, torch.stack(ups))
    assert torch.equal(stacked(ups[::2]), torch.stack(ups[::2]))
