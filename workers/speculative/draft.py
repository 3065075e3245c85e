"""A draft model: a smaller one with the same vocabulary, which goes on where the slots are.

Its KV is its own, in plain memory: lost with the process, and computed again. What it holds it knows by the tokens, so
nobody has to tell it of slots that open, close or lose wrong drafts: what agrees with the slot's tokens is kept.

It draws as the model will (same seed, same positions, so the same Gumbel noise): the more alike the two distributions
are, the more often both draw the same token, also at high temperatures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.models.architecture import kv_shape
from workers.models.interface import Batch, Model
from workers.sampling.draw import BrokenLogits, draw
from workers.slots import Ints, Slots

PAGE_TOKENS: Final = 16
KV_BYTES: Final = 512 << 20  # address space; memory is taken as it is written
AT_ONCE: Final = 256  # tokens that are caught up in a step: more would keep those who decode waiting
BEHIND: Final = 48  # more than so many are not caught up for one draft: whoever gets one only is being probed


@dataclass(slots=True)
class _Held:
    """What there is KV of: `tokens`, in the cells of `table`."""

    tokens: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    table: list[int] = field(default_factory=list)


class DraftModel:
    """Implements `workers.speculative.interface.Proposer`.

    Args:
        model: it.
        dtype: of its KV.
        slots: what it goes on from.
        vocabulary: ids that the other model knows are below it.
        kv_bytes: for its KV, at most.
    """

    def __init__(
        self, model: Model, dtype: torch.dtype, slots: Slots, vocabulary: int, kv_bytes: int = KV_BYTES
    ) -> None:
        self._model, self._slots = model, slots
        self._vocabulary = min(vocabulary, model.architecture.vocabulary)
        self._context = model.architecture.context
        shape = kv_shape(model.architecture, PAGE_TOKENS, dtype)
        wanted = slots.count * -(-min(self._context, slots.context_tokens) // PAGE_TOKENS)
        cells = max(1, min(wanted, kv_bytes // shape.page_bytes))
        size = (cells, shape.layers, 2, shape.kv_heads, PAGE_TOKENS, shape.head_dim)
        self._pages = torch.zeros(size, dtype=dtype, device=model.device)
        self._free = list(range(cells))
        self._held: OrderedDict[int, _Held] = OrderedDict()

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        drafts: list[list[int]] = [[] for _ in slots]
        rows: list[tuple[int, _Held, npt.NDArray[np.int32]]] = []
        ready: list[int] = []
        left = AT_ONCE
        for row, (slot, limit) in enumerate(zip(slots.tolist(), most.tolist(), strict=True)):
            tokens = self._slots.tokens(slot)
            held = self._aligned(slot, tokens)
            missing = len(tokens) - len(held.tokens)
            if left <= 0 or (limit == 1 and missing > BEHIND) or not self._room(slot, held, len(tokens) + limit):
                continue
            count = min(missing, left)
            rows.append((row, held, tokens[len(held.tokens) : len(held.tokens) + count]))
            left -= count
            if count == missing:
                ready.append(len(rows) - 1)
        at = 0
        while rows:
            logits = self._compute([(held, ids) for _, held, ids in rows], ready)
            rows = [rows[index] for index in ready]
            for (row, _, _), token in zip(
                rows, self._draw(logits, slots[[row for row, _, _ in rows]], at), strict=True
            ):
                if token >= 0:
                    drafts[row].append(token)
            at += 1
            rows = [
                (row, held, np.array(drafts[row][-1:], np.int32))
                for row, held, _ in rows
                if at == len(drafts[row]) < most[row]
            ]
            ready = list(range(len(rows)))
        return [np.array(tokens, np.int64) for tokens in drafts]

    def _aligned(self, slot: int, tokens: npt.NDArray[np.int32]) -> _Held:
        """What is held of a slot, cut to what agrees with its tokens, and short of the last one."""
        held = self._held.setdefault(slot, _Held())
        self._held.move_to_end(slot)
        common = min(len(held.tokens), len(tokens) - 1)
        differ = np.flatnonzero(held.tokens[:common] != tokens[:common])
        held.tokens = held.tokens[: int(differ[0]) if len(differ) else common]
        return held

    def _room(self, slot: int, held: _Held, tokens: int) -> bool:
        """Whether there are cells for so many tokens; those that were not asked for the longest give way."""
        if tokens > self._context:
            return False
        short = -(-tokens // PAGE_TOKENS) - len(held.table)
        while len(self._free) < short:
            other = next(iter(self._held))
            if other == slot:
                return False
            self._free += self._held.pop(other).table
        for _ in range(short):
            held.table.append(self._free.pop())
        return True

    def _compute(self, rows: Sequence[tuple[_Held, npt.NDArray[np.int32]]], ready: Sequence[int]) -> Tensor:
        """KV of these tokens, behind what is held; logits after the last one of each row in `ready`."""
        device = self._model.device
        starts, positions, pages, offsets, contexts, tables = [0], [], [], [], [], []
        for held, ids in rows:
            begin, end = len(held.tokens), len(held.tokens) + len(ids)
            places = np.arange(begin, end)
            table = np.array(held.table[: -(-end // PAGE_TOKENS)], np.int64)
            positions.append(places)
            pages.append(table[places // PAGE_TOKENS])
            offsets.append(places % PAGE_TOKENS)
            starts.append(starts[-1] + len(ids))
            contexts.append(end)
            tables.append(torch.from_numpy(table).to(device))
            held.tokens = np.concatenate((held.tokens, ids))
        flat = [torch.from_numpy(np.concatenate(each)).to(device) for each in (positions, pages, offsets)]
        ids = torch.from_numpy(np.concatenate([ids for _, ids in rows]).astype(np.int64)).to(device)
        hidden = self._model.forward(ids, Batch(*flat, starts, contexts, tables), self._pages)
        if not ready:
            return hidden[:0]
        last = torch.tensor([starts[index + 1] - 1 for index in ready], device=device)
        return self._model.logits(hidden[last])[:, : self._vocabulary]

    def _draw(self, logits: Tensor, slots: Ints, at: int) -> list[int]:
        """What each of these slots would draw, `at` tokens behind its last; -1 where it would draw nothing."""
        if not len(slots):
            return []
        parameters = self._slots.sampling.rows(slots, self._slots.length[slots] + at)
        parameters = replace(
            parameters, logprobs=np.full(len(slots), -1, np.int64), adjustments=[None] * len(slots)
        )  # fmt: skip
        try:
            return draw(logits, parameters).tokens.tolist()
        except BrokenLogits:
            return [-1] * len(slots)
