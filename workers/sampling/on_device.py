"""Sampling parameters by slot in GPU memory, and draws that wait for nothing: `SamplingTable` for the GPU's kernels.

What a slot's request asks for is written to the device when it enters; a step sends which slots it draws for, and no
more. A row that has nothing to draw has -1 for a token, and nobody is told before the tokens are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bus.messages.requests import Sampling, TokenLogprobs
from bus.packed import pack_f32, pack_u32, unpack_u32
from workers.kernels.triton.sample import RULED_OUT, Edits, Parameters, Penalties, Sampled, remember, sample
from workers.kernels.triton.tuning import Tuning
from workers.sampling.banned import Banned
from workers.sampling.draw import Drawn, Later, RowLogprobs
from workers.sampling.logprobs import token_logprobs
from workers.sampling.table import GREEDY_BELOW
from workers.step.staging import staged, staged_together

_PROMPT: Final = -(1 << 31)  # the sign bit of a history: the token is in the prompt
_DRAWABLE: Final = RULED_OUT / 10  # log probabilities below are of tokens that were ruled out
_NAMES: Final = ("temperature", "min_p", "repetition", "frequency", "presence")


class DeviceSamplingTable:
    """Implements `workers.sampling.table.Sampler`.

    Args:
        slots: rows.
        vocabulary: number of logits.
        device: where logits will be.
        tuning: of the GPU.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device, tuning: Tuning) -> None:
        self._vocabulary, self._device, self._tuning = vocabulary, device, tuning
        self._floats = torch.zeros(len(_NAMES), slots, device=device)
        self._top_p = torch.ones(slots, dtype=torch.float64, device=device)
        self._top_k = torch.zeros(slots, dtype=torch.int32, device=device)
        self._seeds = torch.zeros(slots, dtype=torch.int64, device=device)
        self._history_of = torch.full((slots,), -1, dtype=torch.int32, device=device)
        self._history = torch.zeros(0, vocabulary, dtype=torch.int32, device=device)
        self._free_histories: list[int] = []
        # On the host: what decides which kernels a step needs.
        self._histories: dict[int, int] = {}
        self._bias: dict[int, dict[int, float]] = {}
        self._held_back: dict[int, tuple[int, list[int]]] = {}  # until so many tokens are drawn, these ids are not
        self._truncated = np.zeros(slots, np.bool_)
        self._logprobs = np.full(slots, -1, np.int64)
        self._generated = np.zeros(slots, np.int64)

    def open(self, slot: int, sampling: Sampling, prompt: Tensor, output: Tensor) -> None:
        """Take the parameters of a request. prompt, output: int64 [n], what the penalties count."""
        self.close(slot)
        top_k = 0 if sampling.top_k >= self._vocabulary else max(sampling.top_k, 0)
        temperature = 0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature
        penalties = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        self._floats[:, slot] = staged(np.array([temperature, sampling.min_p, *penalties], np.float32), self._device)
        self._top_p[slot], self._top_k[slot] = sampling.top_p, top_k
        self._seeds[slot] = int(np.uint64(sampling.seed & 0xFFFFFFFFFFFFFFFF).astype(np.int64))
        self._truncated[slot] = top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        self._logprobs[slot] = min(sampling.logprobs, self._vocabulary)
        self._generated[slot] = len(output)
        if bias := {token: value for token, value in sampling.logit_bias if 0 <= token < self._vocabulary}:
            self._bias[slot] = bias
        if sampling.min_tokens and (
            held := [t for t in unpack_u32(sampling.suppress).tolist() if t < self._vocabulary]
        ):
            self._held_back[slot] = (sampling.min_tokens, held)
        if penalties != (1.0, 0.0, 0.0):
            self._open_history(slot, prompt, output)

    def close(self, slot: int) -> None:
        """Let go of what the slot's request needed beyond its row of the arrays."""
        self._bias.pop(slot, None)
        self._held_back.pop(slot, None)
        if (history := self._histories.pop(slot, None)) is not None:
            self._free_histories.append(history)
            self._history_of[slot] = -1

    def append(self, slots: npt.NDArray[np.int64], tokens: Tensor) -> None:
        """Tokens were drawn. slots: [rows]; tokens: int64 [rows]."""
        self._generated[slots] += 1
        if self._histories and not self._histories.keys().isdisjoint(slots.tolist()):
            remember(self._history, self._history_of[staged(slots, self._device)], tokens.to(torch.int32))

    def draw(
        self,
        logits: Tensor,
        slots: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        banned: Mapping[int, Banned],
        forced: Mapping[int, int],
    ) -> Drawn:
        """See `workers.sampling.table.Sampler`. Waits for the device only for log probabilities of forced tokens."""
        which, places = staged_together((slots, positions), self._device)
        temperature, min_p, *penalties = self._floats[:, which].unbind()
        asked = self._logprobs[slots]
        logits = logits.contiguous()
        found = sample(
            logits,
            Parameters(
                temperature,
                self._top_k[which],
                self._top_p[which],
                min_p,
                self._seeds[which],
                places.to(torch.int32),
            ),
            self._tuning,
            edits=self._edits(slots, banned),
            penalties=self._penalties(slots, which, penalties),
            truncated=bool(self._truncated[slots].any()),
            best=max(0, int(asked.max(initial=0))),
        )
        tokens = found.tokens.to(torch.int64)
        instead: dict[int, TokenLogprobs] = {}
        for row, token in forced.items():
            tokens[row] = token
            if asked[row] >= 0:
                (instead[row],) = token_logprobs(logits[row : row + 1], tokens[row : row + 1], [int(asked[row])])
        return Drawn(tokens, (), _later(found, asked, instead) if (asked >= 0).any() else None)

    def _open_history(self, slot: int, prompt: Tensor, output: Tensor) -> None:
        if not self._free_histories:
            held = len(self._history)
            grown = torch.zeros(max(4, 2 * held), self._vocabulary, dtype=torch.int32, device=self._device)
            grown[:held] = self._history
            self._history, self._free_histories = grown, list(range(held, len(grown)))
        at = self._histories[slot] = self._free_histories.pop()
        row = self._history[at].zero_()
        row.index_put_((output,), torch.ones((), dtype=torch.int32, device=self._device), accumulate=True)
        row[prompt] |= _PROMPT
        self._history_of[slot] = at

    def _penalties(self, slots: npt.NDArray[np.int64], which: Tensor, values: list[Tensor]) -> Penalties | None:
        if not self._histories or self._histories.keys().isdisjoint(slots.tolist()):
            return None
        repetition, frequency, presence = values
        return Penalties(self._history, self._history_of[which], repetition, frequency, presence)

    def _edits(self, slots: npt.NDArray[np.int64], banned: Mapping[int, Banned]) -> Edits | None:
        """What is added to logits, and what of them is ruled out."""
        rows = [self._edits_of(slot) for slot in slots.tolist()] if self._bias or self._held_back else []
        for row, mask in banned.items():
            rows = rows or [{} for _ in slots]
            rows[row] |= dict.fromkeys(self._ruled_out(mask), RULED_OUT)
        if not any(rows):
            return None
        # A width of its own for each length would be a kernel of its own.
        width = 1 << (max(map(len, rows)) - 1).bit_length()
        ids, values = np.full((len(rows), width), -1, np.int32), np.zeros((len(rows), width), np.float32)
        for row, added in enumerate(rows):
            ids[row, : len(added)], values[row, : len(added)] = list(added), list(added.values())
        return Edits(staged(ids, self._device), staged(values, self._device))

    def _ruled_out(self, banned: Banned) -> list[int]:
        ids: list[int] = banned.ids.tolist()
        if not banned.left:
            return ids
        rest = np.ones(self._vocabulary, np.bool_)
        rest[ids] = False
        return np.flatnonzero(rest).tolist()

    def _edits_of(self, slot: int) -> dict[int, float]:
        added = dict(self._bias.get(slot, {}))
        until, held = self._held_back.get(slot, (0, []))
        return added | dict.fromkeys(held, RULED_OUT) if self._generated[slot] < until else added


def _later(found: Sampled, asked: npt.NDArray[np.int64], instead: Mapping[int, TokenLogprobs]) -> Later:
    """Log probabilities of the rows that asked, in one tensor: the token's, the best ids, and theirs.

    Args:
        instead: by row, those that are known, of tokens that were not drawn.
    """
    best = found.best.shape[1]
    parts = (found.logprobs.unsqueeze(1).view(torch.int32), found.best.to(torch.int32), found.best_logprobs)
    values = torch.cat([parts[0], parts[1], parts[2].contiguous().view(torch.int32)], 1)

    def read(told: npt.NDArray[np.int32]) -> RowLogprobs:
        told = np.ascontiguousarray(told)
        chosen, ids = told[:, 0].view(np.float32), told[:, 1 : 1 + best]
        of_best = np.ascontiguousarray(told[:, 1 + best :]).view(np.float32)
        drawable = (of_best > _DRAWABLE).sum(-1)
        made: list[tuple[int, TokenLogprobs]] = []
        for row in np.flatnonzero(asked >= 0).tolist():
            kept = min(int(asked[row]), int(drawable[row]))
            alternatives = (pack_u32(ids[row, :kept]), pack_f32(of_best[row, :kept])) if kept else ()
            made.append((row, instead.get(row) or TokenLogprobs(float(chosen[row]), *alternatives)))
        return tuple(made)

    return Later(values, read)
