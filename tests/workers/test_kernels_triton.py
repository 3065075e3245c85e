"""The GPU's smaller kernels, in Triton's interpreter, against float64 and torch, over random shapes with edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from workers.attention.interface import HeadNorms
from workers.kernels.triton import activation, embedding, norm, rotary
from workers.kernels.triton import experts as grouped_experts
from workers.kernels.triton.tuning import INTERPRETER, tuning

TUNING = tuning(INTERPRETER)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
# About two units in the last place.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
few = settings(max_examples=12, deadline=None, phases=PHASES)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    tolerance = TOLERANCE[dtype] * scale
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


@given(
    rows=st.integers(1, 5), hidden=st.integers(1, 300), dtype=DTYPES, exact=st.booleans(), residual=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]), seed=st.integers(0, 99),
)  # fmt: skip
@example(rows=2, hidden=256, dtype=torch.float32, exact=False, residual=True, scale=1.0, seed=0)
@example(rows=1, hidden=100, dtype=torch.bfloat16, exact=True, residual=True, scale=0.5, seed=0)
@few
def test_norm_after_adding_the_residual(
    rows: int, hidden: int, dtype: torch.dtype, exact: bool, residual: bool, scale: float, seed: int
) -> None:
    """Law: as float64 has it. `exact`: the weight is in float32, as Gemma's."""
    x = random(seed, rows, hidden, dtype=dtype)
    weight = random(seed + 1, hidden, dtype=torch.float32 if exact else dtype)
    before = random(seed + 2, rows, hidden, dtype=dtype) if residual else None
    stream = None if before is None else before.clone()
    found = norm.add_rms_norm(x, stream, weight, 1e-5, TUNING, scale)
    total = x.double() if before is None else scale * x.double() + before.double()
    expected = total / (total.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(found, expected, dtype, 4)
    with_torch, with_torch_total = norm.reference(x, before, weight, 1e-5, scale)
    assert found.dtype == with_torch.dtype == dtype
    close(found, with_torch, dtype, 4)
    if stream is not None:
        close(stream, with_torch_total, dtype)


def test_norm_of_a_part_of_wider_rows() -> None:
    x, weight = random(1, 4, 100), random(2, 60)
    close(norm.add_rms_norm(x[:, 40:], None, weight, 1e-5, TUNING), norm.reference(x[:, 40:], None, weight, 1e-5)[0],
          torch.float32)  # fmt: skip


@given(rows=st.integers(1, 4), hidden=st.integers(1, 200), kind=st.sampled_from([torch.int8, torch.float8_e4m3fn]),
       seed=st.integers(0, 99))  # fmt: skip
@few
def test_quantised_rows_are_what_they_were(rows: int, hidden: int, kind: torch.dtype, seed: int) -> None:
    """Norm and activation: numbers times scale is the plain result within half a step, and a row of zeros stays one."""
    x, gate_up, weight = random(seed, rows, hidden), random(seed + 1, rows, 2 * hidden), random(seed + 2, hidden)
    x[0] = gate_up[0] = 0
    for (found, scales), plain in (
        (norm.add_rms_norm_quantised(x, None, weight, 1e-5, TUNING, kind), norm.reference(x, None, weight, 1e-5)[0]),
        (activation.gated_quantised(gate_up, TUNING, kind), activation.reference(gate_up)),
    ):
        expected, expected_scales = norm.quantised_reference(plain, kind)
        torch.testing.assert_close(scales, expected_scales, rtol=1e-5, atol=1e-8)
        assert not found[0].float().any()
        assert (found.float() == expected.float()).float().mean() > 0.9  # the others are at the edge between two steps
        slack = 0.5 if kind == torch.int8 else 2**-4 * expected.float().abs() + 2**-10
        assert ((found.float() - plain / expected_scales[:, None]).abs() <= slack + 1e-3).all()


@given(rows=st.integers(0, 4), width=st.integers(1, 200), dtype=DTYPES, seed=st.integers(0, 99))
@few
def test_the_gated_activation(rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    gate_up = random(seed, rows, 2 * width, dtype=dtype) * 4
    found = activation.gated(gate_up, TUNING)
    gate, up = gate_up.double().chunk(2, -1)
    close(found, gate * torch.sigmoid(gate) * up, dtype, 4)
    found = activation.gated(gate_up, TUNING, "gelu_tanh")
    close(found, torch.nn.functional.gelu(gate, approximate="tanh") * up, dtype, 4)


@given(
    tokens=st.integers(1, 5), heads=st.integers(0, 4), kv_heads=st.integers(1, 3), half=st.sampled_from([8, 20, 32]),
    rest=st.sampled_from([0, 0, 4, 24]), dtype=DTYPES, turned=st.booleans(), normed=st.booleans(),
    kind=st.sampled_from([None, torch.int8, torch.float8_e4m3fn]), seed=st.integers(0, 99),
)  # fmt: skip
@few
def test_rotation_and_pages(
    tokens: int, heads: int, kv_heads: int, half: int, rest: int, dtype: torch.dtype, turned: bool, normed: bool,
    kind: torch.dtype | None, seed: int,
) -> None:  # fmt: skip
    """Against torch, in place and in the pages; tokens are spread over the pages, and the rest of them is untouched.

    `rest`: numbers of a head that are not rotated."""
    dim, page_tokens, cells = 2 * half + rest, 8, 4
    qkv = random(seed, tokens, heads + 2 * kv_heads, dim, dtype=dtype)
    angle = random(seed + 1, tokens, half) * 100
    angles = (angle.cos(), angle.sin()) if turned else None
    norms = HeadNorms(random(seed + 2, dim, dtype=dtype), random(seed + 3, dim, dtype=dtype), 1e-6) if normed else None
    scales = None if kind is None else torch.rand(2, kv_heads) / 20 + 0.02
    places = torch.randperm(cells * page_tokens, generator=torch.Generator().manual_seed(seed))[:tokens]

    def destination(pages: Tensor) -> rotary.Destination:
        return rotary.Destination(pages, places // page_tokens, places % page_tokens, scales)

    pages = torch.zeros(cells, 2, kv_heads, page_tokens, dim).to(kind or dtype)
    expected_pages, expected = pages.clone(), qkv.clone()
    rotary.reference(expected, kv_heads, angles, destination(expected_pages), norms)
    rotary.rotate_and_write(qkv, kv_heads, angles, destination(pages), norms)
    close(qkv, expected, dtype, 4)
    if kind is None:
        close(pages, expected_pages, dtype, 4)
    else:
        step = 1.0 if kind == torch.int8 else 2**-3 * expected_pages.float().abs() + 2**-9
        differences = (pages.float() - expected_pages.float()).abs()
        assert (differences <= step).all()
        assert (differences == 0).float().mean() > 0.9  # the others are at the edge between two steps
    assert (pages.float() == 0).sum() >= (cells * page_tokens - tokens) * 2 * kv_heads * dim


@given(st.data())
@few
def test_ranks_embed_together_what_one_embeds_alone(data: st.DataObject) -> None:
    """Law: each id is held by one rank, and the others bring exact zeros; ids beyond the vocabulary are nobody's."""
    sizes = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any))
    hidden, dtype = data.draw(st.integers(1, 150)), data.draw(DTYPES)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=6)))
    weight = random(3, sum(sizes), hidden, dtype=dtype)
    total, first = torch.zeros(len(ids), hidden, dtype=torch.float64), 0
    for size in sizes:
        mine = weight[first : first + size]
        found = embedding.embed(ids, mine, first, TUNING)
        if size:
            assert torch.equal(found, embedding.embed_reference(ids, mine, first))
        total += found.double()
        first += size
    assert torch.equal(total, weight[ids].double())
    assert not embedding.embed(torch.tensor([sum(sizes) + 3]), weight, 0, TUNING).any()


@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=3).filter(any), rows=st.integers(1, 3),
       cap=st.sampled_from([0.0, 5.0]), dtype=DTYPES, seed=st.integers(0, 99))  # fmt: skip
@few
def test_gathered_logits_stand_in_the_order_of_the_vocabulary(
    sizes: list[int], rows: int, cap: float, dtype: torch.dtype, seed: int
) -> None:
    parts = random(seed, len(sizes), rows, max(sizes), dtype=dtype) * 6
    found = embedding.assemble_logits(parts, sizes, cap, TUNING)
    torch.testing.assert_close(found, embedding.assemble_reference(parts, sizes, cap), rtol=1e-5, atol=1e-5)


@given(
    tokens=st.integers(1, 9), chosen=st.integers(1, 3), experts=st.integers(1, 6), first=st.integers(0, 3),
    outputs=st.integers(1, 90), inputs=st.integers(1, 70), dtype=DTYPES, seed=st.integers(0, 99),
)  # fmt: skip
@few
def test_each_row_is_multiplied_by_its_expert(
    tokens: int, chosen: int, experts: int, first: int, outputs: int, inputs: int, dtype: torch.dtype, seed: int
) -> None:
    """Law: as torch has it, for any choices, experts of other ranks and experts that nobody has chosen among them."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.randint(0, experts + 4, (tokens, chosen), generator=generator).flatten() - first
    x, weight = random(seed, tokens, inputs, dtype=dtype), random(seed + 1, experts, outputs, inputs, dtype=dtype)
    block = TUNING.grouped_for(len(choices) // experts).rows
    blocks = grouped_experts.align(choices, experts, block)
    kept = blocks.rows[blocks.rows >= 0].tolist()
    assert sorted(kept) == [row for row, expert in enumerate(choices.tolist()) if 0 <= expert < experts]
    found = grouped_experts.grouped(x, weight, blocks, len(choices), TUNING)
    close(found, grouped_experts.reference(x, weight, choices), dtype, 20)
    wide = random(seed + 2, len(choices), inputs, dtype=dtype)
    found = grouped_experts.grouped(wide, weight, blocks, len(choices), TUNING)
    close(found, grouped_experts.reference(wide, weight, choices), dtype, 20)
