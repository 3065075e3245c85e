"""Which kernel multiplies with a quantised weight: the last column of the registry of formats, layers and kernels.

| weight (`QuantisedWeight`)        | GPU with FP8 (from Ada on)                | other GPUs                        |
|-----------------------------------|-------------------------------------------|-----------------------------------|
| FP8 for rows, inputs rounded      | `product`, many rows: torch's `_scaled_mm`| `product`, weights become 16 bits |
| FP8 in blocks, inputs rounded     | `product`                                 | `product`, weights become 16 bits |
| INT8 for rows, inputs rounded     | `product`, perhaps torch's `_int_mm`      | the same                          |
| everything else                   | `product`; many rows: as floats, by torch | the same                          |

From how many rows on torch multiplies is in the GPU's table (`tuned/*.toml`), and 0 there is never.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.kernels.triton.dequantise import dequantised
from workers.kernels.triton.product import finished, plan_of, product
from workers.kernels.triton.quantise import quantise, quantise_by
from workers.kernels.triton.tuning import Tuning
from workers.weights.quantised.weight import FP8, QuantisedWeight

_ALIGNED = 16  # torch's products of 8 bits take sizes that it divides
_INT_MM_ROWS = 17  # the least that `_int_mm` takes


def rounds_inputs(weight: QuantisedWeight, tuning: Tuning) -> bool:
    """Whether inputs become numbers like the weight's: where they may, and the GPU multiplies such numbers."""
    return weight.input_scale is not None and (weight.numbers.dtype != FP8 or tuning.fp8)


def torch_takes(weight: QuantisedWeight, dtype: torch.dtype, *, rounded: bool) -> bool:
    """Whether torch has a product for it. dtype: of what the layer is given, and gives."""
    if not rounded:
        return True  # with the weight as floats
    if weight.inputs % _ALIGNED or weight.rows % _ALIGNED or weight.scales.shape[1] > 1:
        return False
    return weight.numbers.dtype == torch.int8 or dtype == torch.bfloat16


class QuantisedLinear:
    """`x @ weight.T + bias`.

    Args:
        weight: on the GPU.
        bias: [outputs], or None.
        tuning: of the GPU.
    """

    def __init__(self, weight: QuantisedWeight, bias: Tensor | None, tuning: Tuning) -> None:
        self._weight, self._bias, self._tuning = weight, bias, tuning
        self._rounds = rounds_inputs(weight, tuning)
        self._plan = plan_of(weight, self._rounds, tuning)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs], in x's dtype."""
        least = self._plan.table.torch_rows
        by_torch = 0 < least <= len(x) and torch_takes(self._weight, x.dtype, rounded=self._rounds)
        if not self._rounds:
            if by_torch:
                return F.linear(x, dequantised(self._weight, x.dtype, self._tuning), self._bias)
            return product(x, None, self._weight, self._bias, x.dtype, self._plan)
        inputs, scales = self._rounded(x)
        if not by_torch:
            return product(inputs, scales, self._weight, self._bias, x.dtype, self._plan)
        if self._weight.numbers.dtype == FP8:
            return self._scaled_mm(inputs, scales, x.dtype)
        return self._int_mm(inputs, scales, x.dtype)

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = self._weight
        assert weight.input_scale is not None
        if len(weight.input_scale):
            return quantise_by(x, weight.input_scale, self._tuning)
        return quantise(x, weight.numbers.dtype, weight.group, self._tuning)

    def _scaled_mm(self, inputs: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        found: Tensor = torch._scaled_mm(
            inputs, self._weight.numbers.T, scale_a=scales, scale_b=self._weight.scales.T, bias=self._bias,
            out_dtype=dtype, use_fast_accum=True,
        )  # fmt: skip
        return found

    def _int_mm(self, inputs: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        if len(inputs) < _INT_MM_ROWS:
            return product(inputs, scales, self._weight, self._bias, dtype, self._plan)
        sums = torch._int_mm(inputs, self._weight.numbers.T)
        return finished(sums, scales, self._weight, self._bias, dtype, self._plan)
