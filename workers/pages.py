"""Pages as tensors: [cells, layers, 2, kv heads, page tokens, head dim], on bytes that lie as `KvShape` says.

Pages of int8 have a scale for each token and head, K and V apart: what they hold is `numbers * scale`. The tensor is
of the numbers alone. Its strides leave out the scales, which are behind the numbers of each head: `scales_of` has them.

Of a key, few numbers may be far larger than the others (KIVI, arXiv:2402.02750), and the scale of all would leave
little to those. So keys are `spread` before they are rounded, by an orthogonal transform that gives each number a part
of all (QuaRot, arXiv:2404.00456), and queries too, which leaves their products as they were. Where biases make keys so,
the kernels take these out instead (`native/attention_int8.h`).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from bus.messages.steps import KvShape

KV_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
_MOST: Final = 127


def page_tensor(data: Tensor, shape: KvShape) -> Tensor:
    """A view of pages. `data`: uint8 [cells, page bytes]."""
    heads = (len(data), shape.layers, 2, shape.kv_heads)
    dtype = KV_DTYPES[shape.dtype]
    numbers = data.view(dtype).view(*heads, -1)[..., : shape.page_tokens * shape.head_dim]
    return numbers.view(*heads, shape.page_tokens, shape.head_dim)


def new_pages(shape: KvShape, cells: int) -> Tensor:
    """Pages of zeros, in memory of this process."""
    return page_tensor(torch.zeros(cells, shape.page_bytes, dtype=torch.uint8), shape)


def scales_of(pages: Tensor) -> Tensor:
    """Of pages of int8, or of some of their cells, layers, kinds and heads.

    Args:
        pages: int8 [..., page tokens, head dim], from `page_tensor`.

    Returns:
        float32 [..., page tokens], the pages' own.
    """
    *outer, tokens, dim = pages.shape
    strides = (*pages.stride()[:-2], 1)
    return pages.as_strided((*outer, 4 * tokens), strides, pages.storage_offset() + tokens * dim).view(torch.float32)


def spread(x: Tensor) -> Tensor:
    """Walsh and Hadamard's transform of as many numbers at once as a power of two divides them into: n.

    Args:
        x: keys or queries, [..., head dim].

    Returns:
        float32 as `x`. A product of two of these is n times that of what they were.
    """
    block, found = spread_block(x.shape[-1]), x.float()
    half = 1
    while half < block:
        a, b = found.reshape(*x.shape[:-1], -1, 2, half).unbind(-2)
        found = torch.stack([a + b, a - b], -2).flatten(-3)
        half *= 2
    return found


def spread_block(dim: int) -> int:
    """n of `spread`."""
    return dim & -dim


def quantised_kv(kv: Tensor) -> tuple[Tensor, Tensor]:
    """`quantised` of keys, spread, and values. kv: [..., 2, kv heads, head dim]."""
    keys, values = kv.unbind(-3)
    return quantised(torch.stack([spread(keys), values.float()], -3))


def quantised(kv: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of -127 to 127, and what they are to be multiplied with.

    Args:
        kv: [..., head dim].

    Returns:
        int8 [..., head dim], and float32 scales [...].
    """
    wide = kv.float()
    scales = wide.abs().amax(-1) / _MOST
    by = torch.where(scales < torch.finfo(torch.float32).tiny, 0.0, 1 / scales)
    return (wide * by[..., None]).round().to(torch.int8), scales
