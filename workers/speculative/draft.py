"""A draft model: a smaller one with the same vocabulary, which goes on where the slots are.

Its KV is its own (`cells`): lost with the process, and computed again. What it holds it knows by the tokens, so nobody
has to tell it of slots that open, close or lose wrong drafts: what agrees with the slot's tokens is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.models.architecture import kv_shape
from workers.models.interface import Model
from workers.speculative.cells import KV_BYTES, PAGE_TOKENS, Cells, Entries, Holding, batch_of
from workers.speculative.guess import NOTHING, guess
from workers.step.slots import Ints, Slots

AT_ONCE: Final = 256  # tokens that are caught up in a step: more would keep those who decode waiting
LAG: Final = 4  # tokens of a row that follow from what was accepted a step ago
BEHIND: Final = 48  # more than so many are not caught up for one draft: whoever gets one only is being probed

Tokens = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Held(Holding):
    """What there is KV of."""

    tokens: Tokens = field(default_factory=lambda: np.zeros(0, np.int32))


class _Row(NamedTuple):
    """A slot's share of a pass: tokens to be computed behind what is held."""

    row: int
    held: _Held
    ids: Tokens


class DraftModel:
    """Implements `workers.speculative.interface.Proposer`.

    Args:
        model: it.
        dtype: of its KV.
        slots: what it goes on from.
        kv_bytes: for its KV, at most.
    """

    def __init__(self, model: Model, dtype: torch.dtype, slots: Slots, kv_bytes: int = KV_BYTES) -> None:
        self._model, self._slots = model, slots
        self.behind_ns = 0
        self._vocabulary = min(slots.vocabulary, model.architecture.vocabulary)
        self._context = min(model.architecture.context, slots.context_tokens)
        shape = kv_shape(model.architecture, PAGE_TOKENS, dtype)
        tokens = slots.count * -(-self._context // PAGE_TOKENS) * PAGE_TOKENS
        self._cells = Cells(shape, dtype, model.device, tokens, _Held, kv_bytes)

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        drafts: list[list[int]] = [[] for _ in slots]
        rows, ready = self._behind(slots, most)
        self.behind_ns, began = 0, time.monotonic_ns()
        follows = sum(len(row.ids) for row in rows) > LAG * len(rows)
        while rows:
            logits = self._compute(rows, ready)
            if follows:
                self.behind_ns, follows = time.monotonic_ns() - began, False
            rows = [rows[index] for index in ready]
            if not rows:
                break
            made = len(drafts[rows[0].row])
            for row, token in zip(rows, guess(self._slots, slots[[r.row for r in rows]], logits, made), strict=True):
                if token != NOTHING:
                    drafts[row.row].append(token)
            rows = [
                row._replace(ids=np.array(drafts[row.row][-1:], np.int32))
                for row in rows
                if made < len(drafts[row.row]) < most[row.row]
            ]
            ready = list(range(len(rows)))
        return [np.array(tokens, np.int64) for tokens in drafts]

    def _behind(self, slots: Ints, most: Ints) -> tuple[list[_Row], list[int]]:
        """What is to be computed before anything is drafted, and the indexes of rows that are then ready to."""
        rows: list[_Row] = []
        ready: list[int] = []
        left, those = AT_ONCE, set(slots.tolist())
        for row, (slot, limit) in enumerate(zip(slots.tolist(), most.tolist(), strict=True)):
            tokens = self._slots.tokens(slot)
            held = self._aligned(slot, tokens)
            missing = len(tokens) - len(held.tokens)
            reach = len(tokens) + limit
            if left <= 0 or reach > self._context or (limit == 1 and missing > BEHIND):
                continue
            if not self._cells.reach(slot, reach, those):
                continue
            count = min(missing, left)
            if count == missing:
                ready.append(len(rows))
            rows.append(_Row(row, held, tokens[len(held.tokens) : len(held.tokens) + count].copy()))
            left -= count
        return rows, ready

    def _aligned(self, slot: int, tokens: Tokens) -> _Held:
        """What is held of a slot, cut to what agrees with its tokens, and short of the last one."""
        held = self._cells.of(slot)
        common = min(len(held.tokens), len(tokens) - 1)
        differ = np.flatnonzero(held.tokens[:common] != tokens[:common])
        held.tokens = held.tokens[: int(differ[0]) if len(differ) else common]
        return held

    def _compute(self, rows: Sequence[_Row], ready: Sequence[int]) -> Tensor:
        """KV of these tokens, behind what is held; logits after the last one of each row in `ready`."""
        device = self._model.device
        entries = [
            Entries(held.table, len(held.tokens), np.arange(len(held.tokens), len(held.tokens) + len(ids)))
            for _, held, ids in rows
        ]
        for _, held, ids in rows:
            held.tokens = np.concatenate((held.tokens, ids))
        batch = batch_of(entries, device)
        flat = torch.from_numpy(np.concatenate([row.ids for row in rows]).astype(np.int64)).to(device)
        hidden = self._model.forward(flat, batch, self._cells.pages)
        if not ready:
            return hidden[:0]
        last = torch.tensor([batch.row_starts[index + 1] - 1 for index in ready], device=device)
        return self._model.logits(hidden[last])[:, : self._vocabulary]
