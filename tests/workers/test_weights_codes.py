"""Codes stand for the numbers that gguf reads, and rounding floats to codes loses no more than half a step."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from test_weights_gguf import blocks, file_with

from workers.weights.codes import GROUP, READABLE, divisible, from_floats, from_gguf
from workers.weights.gguf_file import GgufFile
from workers.weights.source import WeightsError

KINDS = sorted(READABLE, key=lambda kind: kind.name)
SCALES_ARE_PRODUCTS = {Kind.Q4_K, Kind.Q5_K, Kind.Q6_K}  # rounded to float16 here


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_codes_are_the_numbers_of_the_file(kind: Kind, tmp_path: Path) -> None:
    raw = blocks(kind, 40, 512)
    found = GgufFile(file_with(tmp_path / "a.gguf", "m", raw, kind)).codes("m", slice(3, 33))
    assert found is not None
    expected = gguf.dequantize(raw, kind)[3:33]
    assert found.codes.max() < 1 << found.bits
    tolerance = 2e-3 * np.abs(expected).max() if kind in SCALES_ARE_PRODUCTS else 0
    np.testing.assert_allclose(found.weights(), expected, rtol=0, atol=tolerance)


def test_floats_of_a_file_have_no_codes(tmp_path: Path) -> None:
    assert GgufFile(file_with(tmp_path / "a.gguf", "m", np.zeros((2, 32), np.float32), None)).codes("m") is None


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    raw = np.zeros((2, 256 // 256 * gguf.GGML_QUANT_SIZES[Kind.Q2_K][1]), np.uint8)
    with pytest.raises(WeightsError, match="m: type Q2_K cannot be read"):
        GgufFile(file_with(tmp_path / "a.gguf", "m", raw, Kind.Q2_K)).codes("m")


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.data())
def test_a_part_is_the_part_of_the_whole(kind: Kind, seed: int, data: st.DataObject) -> None:
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (5, 2 * size), dtype=np.uint8) & np.uint8(0x3B)
    whole = from_gguf(kind, raw)
    groups = whole.codes.shape[1] // GROUP
    begin = data.draw(st.integers(0, groups))
    end = data.draw(st.integers(begin, groups))
    columns = slice(begin * GROUP, end * GROUP)
    order = np.array(data.draw(st.permutations(range(5))))
    np.testing.assert_array_equal(whole.take(order, columns).weights(), whole.weights()[order, columns])


@pytest.mark.parametrize(("bits", "steps"), [(8, 254), (4, 15)])
def test_rounding_is_to_the_nearest_code(bits: int, steps: int) -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (7, 96)).astype(np.float32)
    weights[2, 32:64] = 0
    weights[3, :32] = 0.5
    found = from_floats(weights, bits)
    grouped = weights.reshape(7, 3, GROUP)
    span = 2 * np.abs(grouped).max(-1) if bits == 8 else grouped.max(-1) - grouped.min(-1)
    half_a_step = 0.5 * (span / steps).repeat(GROUP, 1).reshape(weights.shape)
    slack = 2e-3 * np.abs(grouped).max(-1).repeat(GROUP, 1).reshape(weights.shape)  # scales and mins are float16
    assert (np.abs(found.weights() - weights) <= half_a_step + slack).all()
    assert not found.weights()[2, 32:64].any()


def test_where_columns_may_be_cut() -> None:
    assert divisible(None, 64)
    assert divisible(slice(32, 96), 96)
    assert not divisible(slice(0, 48), 96)
    assert not divisible(None, 40)
