"""A mixture of experts (arXiv:1701.06538, 2401.04088) in place of an MLP: each token is computed by a few of many.

Expert parallel: each rank has some of the experts whole. All ranks have every token and route it alike, each computes
what its experts are chosen for, and the sum over ranks that ends an MLP anyway brings it together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.layers.linear import Product
from workers.models.interface import Collectives
from workers.operators.interface import Mixture


def route(logits: Tensor, chosen: int, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """Which experts compute each token, and what their results weigh.

    Args:
        logits: [tokens, experts].
        chosen: experts of each token.
        normalised: the weights of a token's experts are made to add up to 1; else they are their share among all.

    Returns:
        Weights, float32, and experts, int64; both [tokens, chosen], the heaviest first.
    """
    weights, experts = logits.softmax(-1, dtype=torch.float32).topk(chosen, -1)
    return weights / weights.sum(-1, keepdim=True) if normalised else weights, experts


class ExpertMlp:
    """Implements what `GatedMlp` does, with experts.

    A token's results are added in the order of its choice, whatever else is in the batch.

    Args:
        router: to the logits of all experts.
        mixture: the experts of this rank.
        chosen, normalised: see `route`.
        collectives: the ranks.
    """

    def __init__(
        self, router: Product, mixture: Mixture, *, chosen: int, normalised: bool, collectives: Collectives
    ) -> None:
        self._router, self._mixture, self._collectives = router, mixture, collectives
        self._chosen, self._normalised = chosen, normalised

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same."""
        weights, choices = route(self._router(x), self._chosen, normalised=self._normalised)
        results = self._mixture(x, choices)
        weighted = results.view(*choices.shape, -1).float() * weights[..., None]
        return self._collectives.all_reduce(weighted.sum(1).to(x.dtype))
