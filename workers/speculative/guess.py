"""What a drafter draws from its logits: what the model would draw from the same, at the same place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from workers.sampling.draw import BrokenLogits, draw
from workers.sampling.table import SamplingTable
from workers.step.slots import Ints, Slots

NOTHING = -1


def guess(slots: Slots, of: Ints, logits: Tensor, ahead: int) -> list[int]:
    """A token for each slot, `ahead` tokens behind its last; `NOTHING` where there is none to draw.

    Seeds and positions are the request's, so the Gumbel noise is what the model's draw will have: the more alike the
    two distributions are, the more often both draw the same token, also at high temperatures. Penalties are left out:
    they count tokens that nobody has drawn.

    Args:
        of: [n], the slots.
        logits: float32 [n, vocabulary]; may be overwritten.
    """
    assert isinstance(slots.sampling, SamplingTable)
    parameters = slots.sampling.rows(of, slots.length[of] + ahead)
    parameters = replace(parameters, logprobs=np.full(len(of), -1, np.int64), adjustments=[None] * len(of))
    try:
        tokens: list[int] = draw(logits, parameters).tokens.tolist()
    except BrokenLogits:
        return [NOTHING] * len(of)
    return tokens
