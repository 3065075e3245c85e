"""The tables of configurations: each decodes, covers what is served, and what is missing is refused by name."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

from workers.kernels.triton.tuning import INTERPRETER, SHARED_BYTES, NoTuning, tuning, tuning_of

TABLES = sorted(
    each.name.removesuffix(".toml")
    for each in (resources.files("workers.kernels.triton") / "tuned").iterdir()
    if each.name.endswith(".toml")
)


@pytest.mark.parametrize("gpu", TABLES)
def test_a_table_has_something_for_every_model_that_is_served(gpu: str) -> None:
    table = tuning(gpu)
    assert table.gpu == gpu
    for head_dim in (64, 80, 96, 128, 256):
        for kv_bytes in (1, 2, 4):
            split, chunk = table.split_for(head_dim, kv_bytes), table.chunk_for(head_dim, kv_bytes)
            for number in (split.tile, split.warps, chunk.rows, chunk.tile, chunk.warps):
                assert number & (number - 1) == 0, "Triton takes powers of two"
            assert min(split.tile, chunk.tile, chunk.rows) >= 16, "the least that a product on tensor cores takes"
    assert [entry.width for entry in table.rowwise] == sorted(entry.width for entry in table.rowwise)
    assert table.rowwise_for(57344).warps <= 32


@pytest.mark.parametrize("gpu", TABLES)
def test_a_table_multiplies_with_every_form_that_its_gpu_has(gpu: str) -> None:
    table = tuning(gpu)
    kinds = {each.kind for each in table.product}
    assert kinds == {"int8", "weight8", "weight4", *(["fp8"] if gpu != "sm_80" else [])}
    for each in table.product:
        ends = [tile.up_to for tile in each.tiles]
        assert ends == sorted(ends)
        assert ends[-1] >= 1 << 30, "any step"
        assert each.inner >= 32, "the least of a product of 8 bits"
        assert each.inner & (each.inner - 1) == 0
        for tile in each.tiles:
            assert tile.rows >= 16
            assert not any(number & (number - 1) for number in (tile.rows, tile.columns, tile.warps))
    with pytest.raises(NoTuning, match="sm_80: nothing for products of kind 'fp8'"):
        tuning("sm_80").product_for("fp8")


def test_relatives_take_the_nearest_table_and_keep_their_own_abilities() -> None:
    assert tuning("sm_89").split == tuning("sm_86").split
    assert (tuning("sm_80").fp8, tuning("sm_86").fp8, tuning("sm_89").fp8, tuning("sm_90").fp8) == (
        False, False, True, True,
    )  # fmt: skip
    for gpu in SHARED_BYTES:
        assert tuning(gpu).gpu == gpu


def test_what_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(NoTuning, match=r"no tuned configurations for sm_70; there are .*sm_80.*sm_120"):
        tuning("sm_70")
    with pytest.raises(NoTuning, match="sm_90: nothing for prefill attention with head_dim 512, kv_bytes 2"):
        tuning("sm_90").chunk_for(512, 2)
    with pytest.raises(NoTuning, match="sm_80: nothing for rows with width 100000"):
        tuning("sm_80").rowwise_for(100_000)


def test_without_a_gpu_the_interpreter_has_its_own() -> None:
    assert tuning_of(torch.device("cpu")).gpu == INTERPRETER
