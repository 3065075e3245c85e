"""What kernels compute with that is not one of them. All of it runs on a GPU and in Triton's interpreter.

The interpreter keeps bfloat16 as bare 16-bit integers: arithmetic and products on it are wrong without an error,
rounding to it truncates, and to FP8 it loses the carry (127.4 becomes 64). So kernels load, widen to float32, compute,
and round where they store, through `narrow`; only operands of products stay narrow, through `operand`. Both are plain
conversions on a GPU. Where the interpreter runs, one widens, and the other rounds so that there is nothing left to get
wrong.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
_LIFT = tl.constexpr(INTERPRETED)
LOG2E = tl.constexpr(1.4426950408889634)
FP8_MAX = tl.constexpr(448.0)  # of e4m3
INT8_MAX = tl.constexpr(127.0)


@triton.jit
def operand(x, like):
    """`x` as an operand of a product with `like`'s dtype; FP8 and INT8 keys are exact in 16 bits."""
    if _LIFT:
        return x.to(tl.float32)
    return x.to(like)


@triton.jit
def tanh(x):
    """By the exponential, which every target has; exact at both ends."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _nearest(x, DROPPED: tl.constexpr):
    """float32 without its last bits, to nearest, ties to even."""
    bits = x.to(tl.int32, bitcast=True)
    half: tl.constexpr = (1 << (DROPPED - 1)) - 1
    bits = (bits + half + ((bits >> DROPPED) & 1)) & (-1 << DROPPED)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 rounded to a storage dtype; clamped first where that is FP8 or INT8."""
    if dtype == tl.int8:
        x = tl.floor(tl.clamp(x, -INT8_MAX, INT8_MAX) + 0.5)
    elif dtype == tl.float8e4nv:
        x = tl.clamp(x, -FP8_MAX, FP8_MAX)
        if _LIFT:
            # Below 2 ** -6 steps are 2 ** -9 wide; the sum with a large number rounds to them.
            x = tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, _nearest(x, 20))
    elif _LIFT and dtype == tl.bfloat16:
        x = _nearest(x, 16)
    return x.to(dtype)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 that `dtype` can hold."""
    return narrow(x, dtype).to(tl.float32)


@triton.jit
def row_scale(peak, dtype: tl.constexpr):
    """What a row of largest magnitude `peak` is divided by to fill `dtype`; 1 for a row of zeros."""
    limit: tl.constexpr = INT8_MAX if dtype == tl.int8 else FP8_MAX
    return tl.where(peak > 0, peak / limit, 1.0)


@triton.jit
def log1p_minus(v):
    """`-log(1 - v)` for v in [0, 1), to the last bits of float32 also where v is small (Kahan's correction)."""
    u = 1.0 - v
    return tl.where(u == 1.0, v, -tl.log(u) * tl.div_rn(v, tl.where(u == 1.0, 1.0, 1.0 - u)))
