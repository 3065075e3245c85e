"""What proposes draft tokens. A proposal changes how long an answer takes, never what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

Ints = npt.NDArray[np.int64]


class Proposer(Protocol):
    """Proposes drafts for slots, from what it finds in them.

    Every rank of a group proposes the same: what a proposal is made of must be the same on all of them.

    Attributes:
        behind_ns: of the last proposals, what it took to follow tokens that it had not drafted, as a prompt's.
    """

    behind_ns: int

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        """Guess what follows the last token of each slot.

        Args:
            slots: [n].
            most: [n], so many tokens at most, each at least 1.

        Returns:
            For each slot int64 [0 .. most], token ids below the vocabulary; nothing where there is nothing to say.
        """
        ...


@runtime_checkable
class Watcher(Proposer, Protocol):
    """A proposer that drafts from what the model computes: heads of the kinds of EAGLE and MTP."""

    def watch(self, slots: Ints, starts: Ints, hidden: Sequence[Tensor]) -> None:
        """A step was computed, and what it drew is in the slots.

        Args:
            slots: [rows].
            starts: [rows], the position of each row's first hidden state.
            hidden: per row [tokens, hidden], after the model's last norm, without those of wrong drafts.
        """
        ...
