"""Log probabilities of drawn and prompt tokens, in the form in which they travel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from bus.packed import pack_f32, pack_u32
from workers.sampling.order import best_first


def token_logprobs(logits: Tensor, chosen: Tensor, counts: list[int]) -> list[TokenLogprobs]:
    """Log probabilities of `chosen` and of each row's `counts[r]` best tokens.

    Args:
        logits: float32 [rows, vocabulary].
        chosen: int64 [rows].
        counts: alternatives per row, 0 for none.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    of_chosen = logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).tolist()
    most = max(counts)
    if most == 0:
        return [TokenLogprobs(value) for value in of_chosen]
    ids = best_first(logprobs, most)
    top, ids_host = logprobs.gather(-1, ids).cpu().numpy(), ids.cpu().numpy()
    drawable = (top > -np.inf).sum(-1)  # a grammar may leave fewer than were asked for
    return [
        TokenLogprobs(value, pack_u32(ids_host[row, :kept]), pack_f32(top[row, :kept]))
        for row, (value, count) in enumerate(zip(of_chosen, counts, strict=True))
        for kept in (min(count, int(drawable[row])),)
    ]
