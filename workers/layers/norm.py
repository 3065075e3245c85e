"""Root-mean-square norm (arXiv:1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RmsNorm:
    """`x / rms(x) * weight`, over the last dimension, computed in float32.

    Args:
        weight: [width]. One in float32 multiplies before the result is rounded to the model's dtype, any other one
            after it, as the models were trained.
        eps: added to the mean square.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        normed = F.rms_norm(x.float(), self._weight.shape, None, self._eps)
        if self._weight.dtype == torch.float32:
            return normed.mul_(self._weight).to(x.dtype)
        return normed.to(x.dtype) * self._weight
