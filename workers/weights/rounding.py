"""Rounding matrices to 4 bits, as little as what they are multiplied with notices.

Two things make it better than to the nearest of 16 steps between a group's least and greatest weight:

- **The grid.** Cutting the extremes of a group a little often makes the rest so much finer that the sum of squared
  errors falls. A few such cuts are tried, each with the scale and minimum that least squares gives for its codes; the
  first try is no cut, so that no group becomes worse, and weights that are on a grid already stay as they are.
- **The feedback.** Inputs of a matrix depend on each other. What rounding the weights of one input did to the outputs,
  the weights of inputs after it take back in part: GPTQ (arXiv:2210.17323), in the form of LDLQ (arXiv:2307.13304),
  which needs one Cholesky factor of the inputs' second moments, and no inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from workers.kernels.round import Rounder
from workers.weights.codes import Codes
from workers.weights.sharding import GROUP

DAMPING: Final = 0.01  # of the mean moment, added to each: what few samples say of rare inputs is not taken for true
SPAN: Final = 2560  # inputs at most that feed back to each other; a factor takes the third power of it


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of the inputs of a matrix.

    Attributes:
        importance: [inputs], the mean square of each.
        feedback: unit upper triangular factors U of their second moments U D U^T, one for each run of inputs.
    """

    importance: Tensor
    feedback: tuple[Tensor, ...]


def moments(inputs: Tensor) -> Moments:
    """Of samples [tokens, inputs], float32."""
    spans = torch.split(inputs, _span(inputs.shape[1]), dim=1)
    return Moments(inputs.square().mean(0), tuple(_factor(span.T @ span / len(span)) for span in spans))


def fitted(weights: Tensor, rounder: Rounder, seen: Moments | None = None) -> Codes:
    """Round a matrix to 4 bits with a scale and a minimum for each row and group of inputs.

    Args:
        weights: [rows, inputs] float32, contiguous.
        rounder: of the kernels.
        seen: of its inputs. Without it they count as independent, and all the same: no group's squared error is greater
            than that of rounding to the nearest.
    """
    rows, inputs = weights.shape
    codes = torch.empty(rows, inputs, dtype=torch.uint8)
    scales, mins = (torch.empty(rows, inputs // GROUP) for _ in range(2))
    importance = torch.ones(inputs) if seen is None else seen.importance
    begin = 0
    for feedback in (None,) if seen is None else seen.feedback:
        end = inputs if feedback is None else begin + len(feedback)
        run, groups = slice(begin, end), slice(begin // GROUP, end // GROUP)
        rounder.run(weights[:, run], importance[run], feedback, codes[:, run], scales[:, groups], mins[:, groups])
        begin = end
    return Codes(4, GROUP, 0, codes.numpy(), scales.numpy(), mins.numpy())


def _factor(second: Tensor) -> Tensor:
    """The unit upper triangular U of U D U^T, which is `second` with a damped diagonal."""
    diagonal = second.diagonal()
    damping = float(diagonal.mean()) * DAMPING or 1.0
    while math.isfinite(damping):
        diagonal += damping
        # Factors are of lower triangles: the last input first, and back.
        lower, failed = torch.linalg.cholesky_ex(second.flip(0, 1))
        if not failed:
            unit: Tensor = lower / lower.diagonal()
            return unit.flip(0, 1).contiguous()
        damping *= 10
    return torch.eye(len(second))  # samples that are no numbers tell nothing


def _span(inputs: int) -> int:
    """Into which runs so many inputs are cut: as few as may be, of about the same length."""
    runs = -(-inputs // SPAN)
    return -(-inputs // (runs * GROUP)) * GROUP
