"""Root-mean-square norm (arXiv:1910.07467)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class RmsNorm:
    """`x / rms(x) * weight`, computed in float32.

    Args:
        weight: [hidden].
        eps: added to the mean square.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] to the same."""
        normed = F.rms_norm(x.float(), self._weight.shape, None, self._eps)
        # The weight is applied after rounding to the model's dtype, as the models were trained.
        return normed.to(x.dtype) * self._weight
