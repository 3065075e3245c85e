"""Pages as tensors lie as their shape says, and int8 stands for what it was made of to half a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bus.blocks import KV_LAYOUT, root_digest
from bus.messages.steps import KvShape
from kv.slabs import identity_of
from workers.pages import KV_DTYPES, new_pages, page_tensor, quantised, scales_of, spread, spread_block

SHAPES = st.builds(
    KvShape,
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 5, 16, 33]),
    st.sampled_from([16, 64, 80, 128]),
    st.sampled_from(sorted(KV_DTYPES)),
)


@given(shape=SHAPES, cells=st.integers(1, 4), stray=st.integers(0, 64))
def test_numbers_and_scales_are_all_of_a_page_and_nothing_else(shape: KvShape, cells: int, stray: int) -> None:
    """Law: each byte of a page belongs to one number or one scale, and what is between pages to nobody."""
    data = torch.zeros(cells, shape.page_bytes + 4 * stray, dtype=torch.uint8)
    pages = page_tensor(data[:, : shape.page_bytes], shape)
    assert pages.shape == (cells, shape.layers, 2, shape.kv_heads, shape.page_tokens, shape.head_dim)
    pages.fill_(1)
    if shape.dtype == "int8":
        assert data.count_nonzero() == pages.numel(), "a number lies on another one"
        scales_of(pages).view(torch.uint8).fill_(1)
        assert scales_of(pages).shape == pages.shape[:-1]
    assert data[:, : shape.page_bytes].any(-1).all()
    assert data.count_nonzero() <= cells * shape.page_bytes
    if shape.dtype == "int8":
        assert data[:, : shape.page_bytes].all(), "a byte of nobody"


@given(shape=SHAPES.filter(lambda shape: shape.dtype == "int8"))
def test_scales_are_those_of_the_same_heads(shape: KvShape) -> None:
    """Law: of any part of the pages, `scales_of` is the same part of all scales; a head's are behind its numbers."""
    pages = new_pages(shape, 3)
    scales = scales_of(pages)
    scales.copy_(torch.arange(scales.numel()).view(scales.shape))
    pages.fill_(-1)
    for part in (slice(1, None), (slice(None), -1), (slice(None), slice(None), 1), (2, slice(None), 0, slice(1, 2))):
        assert torch.equal(scales_of(pages[part]), scales[part])
    head = pages[1, 0, 1, 0]
    assert scales_of(head).data_ptr() == head.data_ptr() + shape.page_tokens * shape.head_dim


@given(
    rows=st.lists(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
)
def test_int8_stands_for_numbers_to_half_a_step(rows: list[list[float]]) -> None:
    x = torch.tensor(rows)
    numbers, scales = quantised(x)
    assert numbers.abs().max() <= 127
    error = (numbers.double() * scales.double()[:, None] - x.double()).abs()
    # What is below the least normal number is zero. The division and the product that find a number round.
    bound = scales.double()[:, None] * (0.5 + 127 * 2**-22)
    assert (error <= torch.where(bound > 0.6 * torch.finfo(torch.float32).tiny, bound, 127 * 1.2e-38)).all()


@pytest.mark.parametrize("other", ["bfloat16", "float16", "float32"])
def test_a_cache_in_another_dtype_is_never_found(other: str) -> None:
    """Neither by the digests of blocks nor on disk."""
    shapes = [KvShape(2, 2, 16, 64, dtype) for dtype in ("int8", other)]
    roots = {root_digest(b"weights", shape.dtype, KV_LAYOUT, shape.page_tokens) for shape in shapes}
    assert len(roots) == 2
    assert len({identity_of(b"one root", shape) for shape in shapes}) == 2


@given(rows=st.integers(1, 4), dim=st.sampled_from([4, 16, 48, 64, 80, 128]), seed=st.integers(0, 1 << 20))
def test_spreading_leaves_products_as_they_were(rows: int, dim: int, seed: int) -> None:
    """Law: but for a factor, and rounding."""
    a, b = torch.randn(2, rows, dim, generator=torch.Generator().manual_seed(seed)).unbind()
    found = (spread(a).double() * spread(b).double()).sum(-1) / spread_block(dim)
    torch.testing.assert_close(found, (a.double() * b.double()).sum(-1), rtol=1e-5, atol=1e-5 * dim)


def test_a_number_that_is_far_larger_leaves_something_to_the_others() -> None:
    """Given keys as in Qwen2.5, when they become int8, then less is lost where they are spread first."""
    keys = torch.randn(1000, 64, generator=torch.Generator().manual_seed(1))
    keys[:, 5] += 150

    def lost(spreads: bool) -> float:
        numbers, scales = quantised(spread(keys) if spreads else keys)
        meant = numbers.float() * scales[..., None]
        meant = spread(meant) / spread_block(64) if spreads else meant
        return float((meant - keys).square().mean().sqrt())

    assert lost(spreads=True) < lost(spreads=False) / 4
