"""Products with quantised weights, in Triton's interpreter: what float64 makes of the numbers, alone and in company.

Kernels only; what checkpoints become is in `test_weights_quantised_gpu`.
"""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from workers.kernels.triton import experts, product, quantise
from workers.kernels.triton.dequantise import dequantised
from workers.kernels.triton.launch import launches
from workers.kernels.triton.tuning import INTERPRETER, ProductKind, Tile, Tuning, tuning
from workers.operators.products import QuantisedLinear, rounds_inputs, torch_takes
from workers.weights.prepared import stacked_weight
from workers.weights.quantised.matrix import Matrix
from workers.weights.quantised.weight import FP8, QuantisedWeight, joined, of_floats, of_matrix, unpacked

TABLE = tuning(INTERPRETER)
KINDS = ("fp8", "fp8 in blocks", "fp8, static", "int8", "int8, float inputs", "int4", "int4 of 128", "int4 for rows")
few = settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_of(kind: str, rows: int, inputs: int, seed: int = 0) -> QuantisedWeight:
    """Of a kind; a row of zeros and scales far apart are in each."""
    floats = random(seed, rows, inputs) * torch.logspace(-6, 3, rows)[:, None]
    floats[rows // 2] = 0
    if kind in ("fp8", "int8", "int4"):
        return of_floats(floats, kind)  # type: ignore[arg-type]
    if kind == "int8, float inputs":
        return of_floats(floats, "int8").weight_only()
    if kind == "fp8, static":
        made = of_floats(floats, "fp8")
        return QuantisedWeight(made.numbers, made.scales, made.group, None, torch.tensor([0.01]))
    if kind == "fp8 in blocks":
        scales = random(seed, -(-rows // 32), -(-inputs // 64)).abs() + 1e-3
        spread = scales.repeat_interleave(32, 0)[:rows]
        numbers = (floats.clamp(-2, 2) * 200).to(FP8)
        return of_matrix(Matrix(numbers, spread, 0, 0, torch.arange(inputs) // 64), torch.empty(0))
    group = 128 if kind == "int4 of 128" else inputs
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (rows, inputs), generator=generator).to(torch.uint8)
    scales = random(seed + 1, rows, inputs // group).abs()
    return of_matrix(Matrix(codes, scales, 8, 4), None)


def width(kind: str, inputs: int) -> int:
    """Codes of 4 bits fill groups; FP8 and INT8 end anywhere."""
    return (
        math.ceil(inputs / 128) * 128
        if kind == "int4 of 128"
        else math.ceil(inputs / 32) * 32
        if "int4" in kind
        else inputs
    )


def rounded_reference(x: Tensor, weight: QuantisedWeight) -> tuple[Tensor, Tensor | None]:
    if weight.input_scale is None:
        return x, None
    if len(weight.input_scale):
        return quantise.reference_by(x, weight.input_scale)
    return quantise.reference(x, weight.numbers.dtype, weight.group)


@given(kind=st.sampled_from(KINDS), rows=st.integers(1, 9), outputs=st.integers(1, 150), inputs=st.integers(33, 300),
       bias=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
@example(kind="int8", rows=1, outputs=1, inputs=33, bias=True, seed=0)
@example(kind="fp8 in blocks", rows=5, outputs=130, inputs=257, bias=False, seed=0)
@example(kind="int4 of 128", rows=5, outputs=70, inputs=700, bias=True, seed=0)
@few
def test_a_product_is_what_float64_makes_of_the_same_numbers(
    kind: str, rows: int, outputs: int, inputs: int, bias: bool, seed: int
) -> None:
    """Law: of any sizes, with rows of zeros and scales of all magnitudes."""
    inputs = width(kind, inputs)
    weight, x = weight_of(kind, outputs, inputs, seed), random(seed + 7, rows, inputs) * 10.0 ** (seed % 9 - 4)
    x[0] = 0
    added = random(seed, outputs) if bias else None
    found = QuantisedLinear(weight, added, TABLE)(x)
    expected = product.reference(*rounded_reference(x, weight), weight, added)
    terms = product.reference(
        *rounded_reference(x.abs(), weight), positive(weight), None if added is None else added.abs()
    )
    assert bool(((found - expected).abs() <= 1e-6 * terms).all())
    torch.testing.assert_close(found[0], torch.zeros(outputs) if added is None else added, rtol=0, atol=0)


def positive(weight: QuantisedWeight) -> QuantisedWeight:
    """With what adds up to the magnitudes of its terms."""
    codes, scales = weight.numbers, weight.scales
    if weight.four_bits:
        codes = unpacked(codes, weight.group, signed=weight.mins is None)
    numbers = codes.float().abs().to(FP8) if codes.dtype == FP8 else codes.abs()
    if weight.mins is None:
        return QuantisedWeight(numbers, scales.abs(), weight.group, None, weight.input_scale)
    return QuantisedWeight(numbers, scales.abs(), weight.group, weight.mins.abs())


@given(kind=st.sampled_from(KINDS), dtype=st.sampled_from([torch.bfloat16, torch.float16]), seed=st.integers(0, 99))
@settings(few, max_examples=6)
def test_inputs_of_16_bits_are_rounded_once_at_the_end(kind: str, dtype: torch.dtype, seed: int) -> None:
    weight, x = weight_of(kind, 40, 128, seed), random(seed, 3, 128).to(dtype)
    weight = QuantisedWeight(
        weight.numbers, weight.scales.clamp(1e-3, 1), weight.group, weight.mins, weight.input_scale
    )
    found = QuantisedLinear(weight, None, TABLE)(x)
    assert found.dtype == dtype
    expected = product.reference(*rounded_reference(x, weight), weight, None)
    step = 2.0 ** (-8 if dtype == torch.bfloat16 else -11)
    torch.testing.assert_close(found.double(), expected, rtol=1.01 * step, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_and_in_any_company(kind: str) -> None:
    """Splits that are programs of their own and splits that one program walks are added in one order."""
    weight, x = weight_of(kind, 70, 1024 if "128" in kind or "rows" in kind else 512), random(1, 37, 1024)
    one_tile = QuantisedLinear(weight, None, table_with(tiles=(Tile(1 << 30, 16, 64, 4, 1),)))
    splits = one_tile._plan.splits
    assert splits > 1

    def computed(rows: Tensor, *, shared_out: bool) -> Tensor:
        with launches(run=True) as seen:
            found = one_tile(rows[:, : weight.inputs])
        of_products = [each.arguments for each in seen if each.kernel.__name__ == "_product"]
        assert [each["SHARED_OUT"] for each in of_products] == [shared_out]
        return found

    together = computed(x, shared_out=False)
    assert torch.equal(computed(x[3:6], shared_out=True), together[3:6])
    assert torch.equal(computed(x[5:6], shared_out=True), together[5:6])


def table_with(kind: ProductKind | None = None, **changes: object) -> Tuning:
    """The table, with other numbers for products of one kind, or of all."""
    return msgspec.structs.replace(
        TABLE,
        product=tuple(
            msgspec.structs.replace(each, **changes) if kind in (None, each.kind) else each for each in TABLE.product
        ),
    )


@pytest.mark.parametrize("kind", ["fp8", "fp8, static", "fp8 in blocks", "int8"])
def test_what_is_no_number_stays_in_its_row(kind: str) -> None:
    weight, x = weight_of(kind, 20, 96), random(3, 4, 96)
    linear = QuantisedLinear(weight, None, TABLE)
    clean = linear(x)
    x[1, 5], x[2, 70] = math.nan, math.inf
    found = linear(x)
    assert torch.equal(found[::3], clean[::3])
    assert found[1].isnan().all()
    if kind != "fp8, static":  # there infinity is cut off where FP8 ends
        assert not found[2].isfinite().any()


@given(rows=st.integers(1, 4), inputs=st.integers(1, 200), group=st.sampled_from([0, 32, 64]),
       dtype=st.sampled_from([FP8, torch.int8]), seed=st.integers(0, 99))  # fmt: skip
@settings(few, max_examples=10)
def test_rows_are_rounded_as_torch_rounds_them(
    rows: int, inputs: int, group: int, dtype: torch.dtype, seed: int
) -> None:
    x = random(seed, rows, inputs) * 100
    x[-1] = 0
    found, scales = quantise.quantise(x, dtype, group or inputs, TABLE)
    expected, expected_scales = quantise.reference(x, dtype, group or inputs)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0)
    assert float((found.float() - expected.float()).abs().max()) <= (1 if dtype == torch.int8 else 32)
    assert (found.float() == expected.float()).float().mean() > 0.98, "a tie may fall to either side"


@pytest.mark.parametrize("kind", KINDS)
def test_dequantised_is_what_the_weight_stands_for(kind: str) -> None:
    weight = weight_of(kind, 33, width(kind, 200))
    torch.testing.assert_close(dequantised(weight, torch.float32, TABLE), weight.weights(), rtol=1e-6, atol=1e-30)


def test_torch_multiplies_from_the_table_s_rows_on() -> None:
    """As floats, and with integers: the same within rounding, by no product of ours."""
    for kind, table_kind in (("int4", "weight4"), ("int8", "int8")):
        weight, x, bias = weight_of(kind, 32, 64), random(1, 20, 64), random(2, 32)
        with launches(run=True) as seen:
            found = QuantisedLinear(weight, bias, table_with(table_kind, torch_rows=18))(x)  # type: ignore[arg-type]
        assert "_product" not in {each.kernel.__name__ for each in seen}
        ours = QuantisedLinear(weight, bias, TABLE)(x)
        torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max()))


def test_who_multiplies_follows_from_what_the_gpu_has() -> None:
    """FP8 without products of FP8 is read as 16 bits; torch takes rows with a scale each, and no blocks."""
    weight = weight_of("fp8", 32, 64)
    assert rounds_inputs(weight, tuning("sm_90"))
    assert rounds_inputs(weight, tuning("sm_89"))
    assert not rounds_inputs(weight, tuning("sm_80"))
    assert rounds_inputs(weight_of("int8", 32, 64), tuning("sm_80"))
    assert not rounds_inputs(weight.weight_only(), tuning("sm_90"))
    assert torch_takes(weight, torch.bfloat16, rounded=True)
    assert not torch_takes(weight, torch.float16, rounded=True)
    assert not torch_takes(weight_of("fp8 in blocks", 32, 128), torch.bfloat16, rounded=True)
    assert not torch_takes(weight_of("fp8", 33, 64), torch.bfloat16, rounded=True)
    assert torch_takes(weight_of("int4", 33, 64), torch.bfloat16, rounded=False)


@pytest.mark.parametrize("kind", ["fp8", "fp8 in blocks", "int4", "int4 of 128"])
def test_experts_are_quantised_too(kind: str) -> None:
    """All in one launch: as each alone, and zeros for rows of nobody here."""
    rows, inputs = 40, 128
    mine = [weight_of(kind, rows, inputs, seed).weight_only() for seed in range(3)]
    together = stacked_weight(mine)
    assert isinstance(together, QuantisedWeight)
    x, experts_of = random(5, 7, inputs), torch.tensor([0, 2, 5, 1, 2, 0, 2])
    entry = TABLE.grouped_for(7 // 3)
    found = experts.grouped(x, together, experts.align(experts_of, 3, entry.rows), 7, TABLE)
    floats = torch.stack([each.weights() for each in mine])
    torch.testing.assert_close(found, experts.reference(x, floats, experts_of), rtol=1e-5, atol=1e-4)


def test_parts_of_one_product_are_joined() -> None:
    """q, k and v with scales of their own for a tensor, for blocks, and for all inputs."""
    parts = [weight_of("fp8, static", rows, 64) for rows in (32, 16, 16)]
    parts[1] = QuantisedWeight(parts[1].numbers, parts[1].scales, 64, None, torch.tensor([0.5]))
    whole = joined(parts)
    assert torch.equal(whole.weights(), torch.cat([part.weights() for part in parts]))
    assert whole.input_scale is not None
    assert whole.input_scale.tolist() == [0.5]
    blocks = [weight_of("fp8 in blocks", rows, 256) for rows in (256, 100)]
    assert torch.equal(joined(blocks).weights(), torch.cat([part.weights() for part in blocks]))
