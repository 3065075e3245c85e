"""What changes a row of logits before anything is read off it: bias, penalties, suppression.

In this order, as in vLLM: logit bias, repetition penalty (over prompt and output), frequency and presence penalty
(over output only), what the grammar rules out, and at last the ids that `min_tokens` holds back. State of one slot,
kept only for slots that ask for any of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bus.messages.requests import Sampling
from bus.packed import unpack_u32
from workers.sampling.banned import Banned


class Adjustment:
    """Bias, penalties and suppression of one slot.

    Args:
        sampling: the request's parameters.
        vocabulary: number of logits.
        prompt, output: token ids so far, int64 [n], on `device`.
    """

    def __init__(
        self, sampling: Sampling, vocabulary: int, prompt: Tensor, output: Tensor, device: torch.device
    ) -> None:
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._min_tokens = sampling.min_tokens
        self._suppress = _ids(unpack_u32(sampling.suppress).tolist(), vocabulary, device)
        # A dict, because an id that is named twice must not be added to in unspecified order.
        bias = {token: value for token, value in sampling.logit_bias if 0 <= token < vocabulary}
        self._bias_ids = torch.tensor(list(bias), dtype=torch.int64, device=device)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        self._generated = len(output)
        self._counts: Tensor | None = None  # float32 [vocabulary]: how often each token is in the output
        self._seen: Tensor | None = None  # bool [vocabulary]: in prompt or output
        if _penalised(sampling):
            ones = torch.ones((), dtype=torch.float32, device=device)
            self._counts = torch.zeros(vocabulary, device=device).index_put_((output,), ones, accumulate=True)
            self._seen = self._counts > 0
            self._seen[prompt] = True

    @staticmethod
    def needed(sampling: Sampling) -> bool:
        """False where the parameters leave logits as they are."""
        return (
            _penalised(sampling) or bool(sampling.logit_bias) or (sampling.min_tokens > 0 and bool(sampling.suppress))
        )

    def append(self, token: Tensor) -> None:
        """A token was drawn. token: int64 scalar, which may still be on its way from the device."""
        self._generated += 1
        if self._counts is not None and self._seen is not None:
            self._counts[token] += 1
            self._seen[token] = True

    def apply(self, logits: Tensor, banned: Banned | None = None) -> None:
        """Adjust one row in place. logits: float32 [vocabulary]; banned: by its grammar."""
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if self._counts is not None and self._seen is not None:
            if self._repetition != 1.0:
                factor = torch.where(logits > 0, 1.0 / self._repetition, self._repetition)
                logits.mul_(torch.where(self._seen, factor, 1.0))
            if self._frequency != 0.0:
                logits.sub_(self._counts, alpha=self._frequency)
            if self._presence != 0.0:
                logits.sub_(self._counts.clamp(max=1.0), alpha=self._presence)
        if banned is not None:
            banned.apply(logits)
        if self._generated < self._min_tokens and len(self._suppress):
            held = logits[self._suppress]
            logits[self._suppress] = -torch.inf
            if banned is not None and not bool(logits.isfinite().any()):  # its answer is whole: only an end is left
                logits[self._suppress] = held


def _penalised(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


def _ids(ids: Sequence[int], vocabulary: int, device: torch.device) -> Tensor:
    """Ids as a tensor, without those that no logit belongs to."""
    kept = np.array([token for token in ids if token < vocabulary], dtype=np.int64)
    return torch.from_numpy(kept).to(device)
