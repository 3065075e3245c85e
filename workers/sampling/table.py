"""Sampling parameters by slot, as arrays, so that a step picks its rows by index and not one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bus.messages.requests import Sampling
from workers.sampling.adjust import Adjustment
from workers.sampling.banned import Banned
from workers.sampling.draw import Drawn, Rows, draw

# Below this a temperature is greedy: logits divided by it would overflow (vLLM draws the same line).
GREEDY_BELOW: Final = 1e-5


class Sampler(Protocol):
    """Sampling parameters of all slots, and draws with them."""

    def open(self, slot: int, sampling: Sampling, prompt: Tensor, output: Tensor) -> None:
        """Take the parameters of a request. prompt, output: int64 [n], what the penalties count."""
        ...

    def close(self, slot: int) -> None:
        """The request has left."""
        ...

    def append(self, slots: npt.NDArray[np.int64], tokens: Tensor) -> None:
        """Tokens were drawn. slots: [rows]; tokens: int64 [rows]."""
        ...

    def draw(
        self,
        logits: Tensor,
        slots: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        banned: Mapping[int, Banned],
        forced: Mapping[int, int],
    ) -> Drawn:
        """Draw the tokens at `positions` of `slots`, both [rows].

        Args:
            logits: float32 [rows, vocabulary]; may be overwritten.
            banned, forced: see `workers.sampling.draw.Rows`.

        Raises:
            workers.sampling.draw.BrokenLogits: some rows have nothing to draw; where that is not known yet, their token
                is -1 instead.
        """
        ...


class SamplingTable:
    """Parameters of `slots` slots, and draws by torch's operators. Implements `Sampler`.

    Args:
        slots: rows.
        vocabulary: number of logits.
        device: where logits will be.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._temperature = np.zeros(slots, np.float32)
        self._top_k = np.zeros(slots, np.int64)
        self._top_p = np.ones(slots, np.float64)
        self._min_p = np.zeros(slots, np.float32)
        self._seeds = np.zeros(slots, np.int64)
        self._logprobs = np.full(slots, -1, np.int64)
        self._adjustments: list[Adjustment | None] = [None] * slots

    def open(self, slot: int, sampling: Sampling, prompt: Tensor, output: Tensor) -> None:
        """Take the parameters of a request. prompt, output: int64 [n], what the penalties count."""
        self._temperature[slot] = 0 if sampling.temperature < GREEDY_BELOW else sampling.temperature
        self._top_k[slot] = 0 if sampling.top_k >= self._vocabulary else max(sampling.top_k, 0)
        self._top_p[slot] = sampling.top_p
        self._min_p[slot] = sampling.min_p
        self._seeds[slot] = np.uint64(sampling.seed & 0xFFFFFFFFFFFFFFFF).astype(np.int64)
        self._logprobs[slot] = min(sampling.logprobs, self._vocabulary)
        needed = Adjustment.needed(sampling)
        self._adjustments[slot] = (
            Adjustment(sampling, self._vocabulary, prompt, output, self._device) if needed else None
        )

    def close(self, slot: int) -> None:
        """Let go of what the slot's request needed beyond its row of the arrays."""
        self._adjustments[slot] = None

    def append(self, slots: npt.NDArray[np.int64], tokens: Tensor) -> None:
        """Tokens were drawn. slots: [rows]; tokens: int64 [rows]."""
        for row, slot in enumerate(slots.tolist()):
            if (adjustment := self._adjustments[slot]) is not None:
                adjustment.append(tokens[row])

    def draw(
        self,
        logits: Tensor,
        slots: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        banned: Mapping[int, Banned],
        forced: Mapping[int, int],
    ) -> Drawn:
        """See `Sampler`."""
        return draw(logits, replace(self.rows(slots, positions), banned=banned, forced=forced))

    def rows(self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Rows:
        """Parameters for drawing the tokens at `positions` of `slots`, both [rows]."""
        return Rows(
            temperature=self._temperature[slots],
            top_k=self._top_k[slots],
            top_p=self._top_p[slots],
            min_p=self._min_p[slots],
            seeds=self._seeds[slots],
            positions=positions,
            logprobs=self._logprobs[slots],
            adjustments=[self._adjustments[slot] for slot in slots.tolist()],
        )
