"""Which tokens top-k, top-p and min-p leave to draw from.

In the order of vLLM, on logits already divided by the temperature: min-p (relative to the most likely token), top-k,
top-p over what is left, renormalised. The most likely token always stays. Only the head of the order is looked at;
a row whose candidates reach beyond it is looked at further, with the same result by any way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from workers.sampling.order import best_first

# Most nuclei end within the first, nearly all within the second; a whole row is sorted where neither settles it.
_HEADS: Final = (256, 4096)


class Truncation(NamedTuple):
    """Parameters of some rows, each [rows]."""

    top_k: Tensor  # int64, 0 is off
    top_p: Tensor  # float64
    min_p: Tensor  # float32


class Candidates(NamedTuple):
    """Tokens to draw from, best first.

    Attributes:
        ids: int64 [rows, n].
        logits: float32 [rows, n]; minus infinity beyond a row's candidates.
    """

    ids: Tensor
    logits: Tensor


def candidates(logits: Tensor, truncation: Truncation) -> Candidates:
    """The candidates of each row. logits: float32 [rows, vocabulary], finite maximum."""
    return _trimmed(_within(logits, truncation, _HEADS))


def _within(logits: Tensor, truncation: Truncation, heads: tuple[int, ...]) -> Candidates:
    """Candidates found in the first of `heads` that settles a row, or in the whole row."""
    if not heads:
        return _among(logits, truncation, logits.shape[-1])[0]
    found, settled = _among(logits, truncation, heads[0])
    rest = torch.nonzero(~settled).squeeze(-1)
    if not len(rest):
        return found
    wider = _within(logits[rest], Truncation(*(values[rest] for values in truncation)), heads[1:])
    more = wider.ids.shape[1] - found.ids.shape[1]
    ids = torch.nn.functional.pad(found.ids, (0, more))
    values = torch.nn.functional.pad(found.logits, (0, more), value=-torch.inf)
    ids[rest], values[rest] = wider.ids, wider.logits
    return Candidates(ids, values)


def _among(logits: Tensor, truncation: Truncation, head: int) -> tuple[Candidates, Tensor]:
    """Candidates among the first `head` tokens, and per row whether that settles the matter (bool [rows])."""
    vocabulary = logits.shape[-1]
    ids = best_first(logits, head)
    head = ids.shape[-1]
    values = logits.gather(-1, ids)
    top_k, top_p, min_p = (parameter.unsqueeze(-1) for parameter in truncation)

    # min-p and top-k both keep a prefix of the order, so their meet is a length.
    survivors = (logits >= values[:, :1] + min_p.log()).sum(-1, keepdim=True)
    limit = torch.where(top_k > 0, torch.minimum(survivors, top_k), survivors).clamp(min=1)

    # Softmax goes row by row; logsumexp reduces one row in parallel pieces and so depends on the number of rows.
    log_total = values[:, :1] - torch.log_softmax(logits, dim=-1).gather(-1, ids[:, :1])
    mass = (values - log_total).to(torch.float64).exp()
    through = mass.cumsum(-1)
    before = through - mass
    total = through.gather(-1, limit.clamp(max=head) - 1)
    total = torch.where(limit == vocabulary, torch.ones_like(total), total)

    rank = torch.arange(head, device=logits.device)
    keep = (rank < limit) & ((before < top_p * total) | (top_p >= 1)) | (rank == 0)
    ends_inside = limit <= head
    nucleus_inside = (limit == vocabulary) & (top_p < 1) & (before[:, -1:] >= top_p * total)
    return Candidates(ids, values.masked_fill(~keep, -torch.inf)), (ends_inside | nucleus_inside).squeeze(-1)


def _trimmed(found: Candidates) -> Candidates:
    """Without the columns in which no row has a candidate."""
    width = int((found.logits > -torch.inf).sum(-1).max())
    return Candidates(found.ids[:, :width], found.logits[:, :width])
