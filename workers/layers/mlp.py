"""The gated MLP (SwiGLU and GeGLU, arXiv:2002.05202), whole or as one of many experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from workers.layers.linear import Product

Activate = Callable[[Tensor], Tensor]

ACTIVATIONS: Final[Mapping[str, Activate]] = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class GatedMlp:
    """`down(activate(gate(x)) * up(x))`.

    Args:
        gate_up: to [gate, up], fused.
        down: back to the residual stream.
        activate: what is between the two, of `workers.operators`.
    """

    def __init__(self, gate_up: Product, down: Product, activate: Activate) -> None:
        self._gate_up, self._down, self._activate = gate_up, down, activate

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same."""
        return self._down(self._activate(self._gate_up(x)))
