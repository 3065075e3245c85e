"""Jump-ahead: drafts of what a row's grammar leaves no choice about, before anybody guesses.

Between the values of a JSON text nearly all is given: quotes, names, colons. How that text is cut into tokens is the
model's to choose, and the mask allows each way; so it is drafted, cut into the longest tokens, and drawn as drafts are.
Tokens are those without it, a step is saved for each that the model cuts the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.sampling.grammar import Grammars
from workers.speculative.interface import Ints, Proposer


class Forced:
    """Implements `workers.speculative.interface.Proposer`.

    Args:
        grammars: of the slots.
        others: for the rows of which nothing is given.
    """

    def __init__(self, grammars: Grammars, others: Proposer) -> None:
        self._grammars, self._others = grammars, others
        self.behind_ns = 0

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        given = self._grammars.forced_tokens(slots.tolist())
        free = np.array([not tokens for tokens in given], np.bool_)
        others = iter(self._others.propose(slots[free], most[free]) if free.any() else ())
        self.behind_ns = self._others.behind_ns if free.any() else 0
        return [
            np.array(tokens[:limit], np.int64) if tokens else next(others)
            for tokens, limit in zip(given, most.tolist(), strict=True)
        ]
