"""The loader's rules: what must be there and no more, who holds which part, and what identifies the files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import saved, tiny, written

from bus.memfd import Room
from workers.models.architecture import kv_shape
from workers.models.config import read_architecture
from workers.models.load import load_model, load_weights
from workers.weights import digest, room
from workers.weights.digest import weights_digest
from workers.weights.sharding import TooManyRanks, shard_of, split
from workers.weights.source import WeightsError

CPU = torch.device("cpu")


def load(path: Path, **options: Any) -> Any:
    return load_model(path, dtype=torch.float32, device=CPU, **options)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return saved(tiny("qwen2"), tmp_path / "model")


def edit_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "missing"),
        ("model.layers.2.self_attn.k_proj.bias", None, "missing"),
        ("lm_head.weight", None, "missing"),
        ("model.norm.weight", torch.ones(7), r"has shape \[7\], expected \[96\]"),
        ("model.layers.0.self_attn.q_norm.weight", torch.ones(16), "not a tensor of qwen2"),
        ("model.layers.0.self_attn.v_proj.bias", torch.zeros(48, dtype=torch.int32), "type I32 cannot be read"),
    ],
)
def test_wrong_tensors_are_named(directory: Path, name: str, tensor: torch.Tensor | None, problem: str) -> None:
    edit_weights(directory, **{name: tensor})
    with pytest.raises(WeightsError, match=f"{name}: {problem}") as caught:
        load(directory)
    assert caught.value.tensor == name


def test_a_tied_model_ignores_a_head_and_old_frequencies(tmp_path: Path) -> None:
    directory = saved(tiny("llama", tie_word_embeddings=True), tmp_path)
    edit_weights(
        directory,
        **{"lm_head.weight": torch.ones(101, 96), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)},
    )
    load(directory)


def test_a_gguf_with_a_tensor_too_many(tmp_path: Path) -> None:
    """Rope factors that no llama has asked for stand in a qwen2 file's place only by mistake."""
    model = tiny("qwen2")
    path = written(model, tmp_path / "a.gguf", factors=np.ones(5, np.float32))
    with pytest.raises(WeightsError, match=r"a\.gguf: rope_freqs.weight: has shape \[5\], expected \[8\]"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_type": "mamba"}, "architecture 'mamba' is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"use_sliding_window": True, "sliding_window": 9, "layer_types": ["linear_attention"]}, "linear_attention"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers"),
    ],
)
def test_configurations_that_cannot_be_served_are_refused(
    directory: Path, changes: dict[str, Any], problem: str
) -> None:
    edit_config(directory, **changes)
    with pytest.raises(WeightsError, match=problem):
        load(directory)


def test_files_that_are_missing_or_broken(directory: Path) -> None:
    weights = directory / "model.safetensors"
    content = weights.read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        weights.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            load(directory)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor"):
        load(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(directory)
    (directory / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json: cannot be read"):
        load(directory)


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ({"weight_map": {"a": "part.safetensors"}}, "part.safetensors, which is not there"),
        ({"weight_map": {"a": "../model.safetensors"}}, "outside its directory"),
        ({"weight_map": {"absent": "model.safetensors"}}, "absent: missing, though the index has it"),
        ({}, "not a safetensors index"),
    ],
)
def test_an_index_is_not_trusted(directory: Path, index: dict[str, Any], problem: str) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=problem):
        load(directory)


def test_progress_goes_from_nothing_to_all(directory: Path) -> None:
    told: list[float] = []
    load_weights(directory, dtype=torch.float32, progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.2
    assert told[-1] == 1.0


def test_a_rank_without_a_kv_head_is_refused(directory: Path) -> None:
    with pytest.raises(TooManyRanks, match="3 KV heads cannot be shared by 4 ranks"):
        load(directory, rank=0, ranks=4)


@given(total=st.integers(0, 10_000), ranks=st.integers(1, 16))
def test_a_split_is_in_order_complete_and_even(total: int, ranks: int) -> None:
    """Law: the parts are the whole, in order, and sizes differ by one at most."""
    parts = split(total, ranks)
    assert [index for part in parts for index in part] == list(range(total))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_heads_stay_with_their_kv_head(directory: Path) -> None:
    architecture = read_architecture(directory)
    first, second = (shard_of(architecture, rank, 2) for rank in range(2))
    assert (first.kv_heads, first.heads) == (range(2), range(4))
    assert (second.kv_heads, second.heads) == (range(2, 3), range(4, 6))
    assert first.vocabulary_sizes == second.vocabulary_sizes == (51, 50)


def test_pages_have_the_heads_of_all_ranks(directory: Path) -> None:
    shape = kv_shape(read_architecture(directory), 16, torch.bfloat16)
    assert shape.page_bytes == 3 * 2 * 3 * 16 * 16 * 2
    assert shape.dtype == "bfloat16"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    hashed: list[Path] = []
    real = digest._hash
    monkeypatch.setattr(digest, "_hash", lambda file: hashed.append(file) or real(file))
    return hashed


def test_a_digest_is_kept_until_the_file_changes(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = count_hashes(monkeypatch)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"weights")
    first = weights_digest(file)
    assert weights_digest(file) == first
    assert len(hashed) == 1
    file.write_bytes(b"Weights")
    os.utime(file, ns=(1, 1))
    assert weights_digest(file) != first
    assert len(hashed) == 2
    assert list(state.rglob("*.part")) == []


def test_a_sidecar_is_trusted_only_for_the_file_it_saw(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = count_hashes(monkeypatch)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"weights")
    status = file.stat()
    sidecar = tmp_path / "a.gguf.sha256"
    sidecar.write_text(f"{'ab' * 32} {status.st_size} {status.st_mtime_ns}\n")
    trusted = weights_digest(file)
    assert not hashed
    for broken in ("rubbish", f"{'ab' * 31} {status.st_size} {status.st_mtime_ns}", f"{'ab' * 32} 1 1", "\xff"):
        sidecar.write_bytes(broken.encode("latin-1"))
        assert weights_digest(file) != trusted
    assert len(hashed) == 1
    assert state.exists()


@pytest.mark.usefixtures("state")
def test_a_directory_counts_weights_and_configuration(directory: Path) -> None:
    first = weights_digest(directory)
    edit_config(directory, rms_norm_eps=1e-3)
    second = weights_digest(directory)
    edit_weights(directory, **{"model.norm.weight": torch.ones(96)})
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert len({first, second, weights_digest(directory)}) == 3
    with pytest.raises(WeightsError, match="none"):
        weights_digest(directory / "none")


def test_a_model_without_room_is_refused_before_it_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(tensor.numel() for tensor in load_file(directory / "model.safetensors").values())
    for left, fits in ((4 * weights, True), (4 * weights - 1, False)):
        monkeypatch.setattr(room, "room_for_memory", lambda left=left: Room(left, "control group /small (memory.max)"))
        if fits:
            load(directory)
            continue
        with pytest.raises(WeightsError, match=r"in float32 do not fit: control group /small \(memory.max\) leaves"):
            load(directory)
        load_weights(directory, dtype=torch.float32, ranks=2)  # half of them each
