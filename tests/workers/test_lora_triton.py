"""The grouped kernels of adapters in Triton's interpreter: what torch computes, and the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from workers.kernels.triton.lora import TILE, expand, reference, shrink, tiles_of

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
few = settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))


def drawn(seed: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(
    owners=st.lists(st.integers(-1, 2), min_size=1, max_size=40),
    rank=st.integers(1, 70),
    inputs=st.integers(1, 150),
    outputs=st.integers(1, 90),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@example(owners=[0] * 17 + [-1, 1], rank=256, inputs=128, outputs=64, dtype=torch.bfloat16, seed=0)
@example(owners=[-1, -1], rank=8, inputs=32, outputs=32, dtype=torch.float32, seed=0)
@few
def test_tokens_get_what_their_adapters_add_and_others_nothing(
    owners: list[int], rank: int, inputs: int, outputs: int, dtype: torch.dtype, seed: int
) -> None:
    groups = [(slot, [at for at, owner in enumerate(owners) if owner == slot]) for slot in range(3)]
    tiles = tiles_of([group for group in groups if group[1]], CPU)
    x, scales = drawn(seed, len(owners), inputs, dtype=dtype), torch.tensor([0.5, 2.0, 1.3])
    a = drawn(seed + 1, 3, rank, inputs, dtype=dtype) / inputs**0.5
    b = drawn(seed + 2, 3, outputs, rank, dtype=dtype) / rank**0.5
    fused = drawn(seed + 3, len(owners), outputs + 7, dtype=dtype)  # a part of a wider output
    before = fused.clone()
    expand(shrink(x, a, scales, tiles), b, tiles, fused[:, 5 : 5 + outputs])
    expected = before.clone()
    reference(x, a, b, scales, tiles, expected[:, 5 : 5 + outputs])
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(fused.float(), expected.float(), rtol=tolerance, atol=tolerance)
    untouched = torch.tensor([owner < 0 for owner in owners])
    assert torch.equal(fused[untouched], before[untouched])
    assert torch.equal(fused[:, :5], before[:, :5])
    assert torch.equal(fused[:, 5 + outputs :], before[:, 5 + outputs :])


def test_a_token_has_the_same_bits_in_any_company() -> None:
    rank, inputs, outputs = 20, 100, 70
    x, scales = drawn(1, 50, inputs, dtype=torch.float32), torch.tensor([0.7, 1.9])
    a, b = drawn(2, 2, rank, inputs, dtype=torch.float32), drawn(3, 2, outputs, rank, dtype=torch.float32)

    def computed(groups: list[tuple[int, list[int]]]) -> torch.Tensor:
        out, tiles = torch.zeros(50, outputs), tiles_of(groups, CPU)
        expand(shrink(x, a, scales, tiles), b, tiles, out)
        return out

    together = computed([(1, list(range(0, 50, 2))), (0, list(range(1, 50, 2)))])
    # Each is the first of a tile: products of the interpreter depend on the place in it, those of a GPU do not.
    for token in (0, 1, 2 * TILE, 2 * TILE + 1):
        assert torch.equal(computed([((token + 1) % 2, [token])])[token], together[token])
