"""What a grammar leaves of a vocabulary, as ids: those that are left or those that are not, whichever are fewer.

Within a text nearly everything may come next, between texts hardly anything: so one of the two is short, and nothing
has to be done for the rest of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Banned(NamedTuple):
    """What may not be drawn.

    Attributes:
        ids: int64 [n], ascending.
        left: they are what may be drawn, and all else may not; otherwise they are what may not.
    """

    ids: Tensor
    left: bool

    def apply(self, logits: Tensor) -> None:
        """Rule it out, in place. logits: float32 [vocabulary]."""
        if self.left:
            kept = logits[self.ids]
            logits.fill_(-torch.inf)
            logits[self.ids] = kept
        else:
            logits[self.ids] = -torch.inf


def banned_by(words: npt.NDArray[np.uint32], vocabulary: int, device: torch.device) -> Banned | None:
    """What a mask rules out; None where that is everything.

    Args:
        words: a bit for each token, set where it may be drawn; [vocabulary / 32, rounded up], written over.
        vocabulary: number of logits.
    """
    last = np.uint32((1 << (vocabulary - 32 * (len(words) - 1))) - 1)
    words[-1] &= last
    allowed = int(np.bitwise_count(words).sum())
    if not allowed:
        return None
    left = 2 * allowed <= vocabulary
    if not left:
        np.invert(words, out=words)
        words[-1] &= last
    some = np.flatnonzero(words)
    bits = np.flatnonzero(np.unpackbits(words[some].view(np.uint8), bitorder="little"))
    return Banned(torch.from_numpy((some[bits >> 5] << 5) + (bits & 31)).to(device), left)
