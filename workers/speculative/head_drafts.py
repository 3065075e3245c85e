"""Drafts of a head (`heads`): it sees each hidden state that the model computes, and goes on from the newest.

A position whose hidden state was never seen, because its KV was found and not computed, is not in the head's context:
that costs right drafts, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.models.architecture import kv_shape
from workers.models.interface import Model
from workers.speculative.cells import KV_BYTES, PAGE_TOKENS, Cells, Entries, Holding, batch_of
from workers.speculative.guess import NOTHING, guess
from workers.speculative.heads import Head
from workers.step.slots import Ints, Slots

Tokens = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Held(Holding):
    """What the head has computed of a slot.

    Attributes:
        tokens: of the sequence that it was computed for.
        places: [entries], the positions whose hidden states it saw, ascending.
        newest: [hidden], what stands for the hidden state after the last entry's.
    """

    tokens: Tokens = field(default_factory=lambda: np.zeros(0, np.int32))
    places: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    newest: Tensor | None = None


class HeadDrafts:
    """Implements `workers.speculative.interface.Watcher`.

    Args:
        head: it.
        model: whose output head is used.
        slots: what it goes on from.
        kv_bytes: for its KV, at most.
    """

    def __init__(self, head: Head, model: Model, slots: Slots, kv_bytes: int = KV_BYTES) -> None:
        self._head, self._model, self._slots = head, model, slots
        self.behind_ns = 0
        shape = msgspec.structs.replace(kv_shape(head.architecture, PAGE_TOKENS, torch.float32), layers=1)
        tokens = slots.count * -(-slots.context_tokens // PAGE_TOKENS) * PAGE_TOKENS
        self._cells = Cells(shape, torch.float32, model.device, tokens, _Held, kv_bytes)

    def watch(self, slots: Ints, starts: Ints, hidden: Sequence[Tensor]) -> None:
        rows: list[tuple[_Held, Ints, Tensor, Tokens]] = []
        those = set(slots.tolist())
        for slot, start, states in zip(slots.tolist(), starts.tolist(), hidden, strict=True):
            tokens = self._slots.tokens(slot)
            held = self._aligned(slot, tokens, start)
            places = np.arange(start, min(start + len(states), len(tokens) - 1))  # of which the next token is known
            if len(places) and self._cells.reach(slot, len(held.places) + len(places), those):
                held.tokens = tokens.copy()
                rows.append((held, places, states[: len(places)], tokens[places + 1]))
        for held, newest in zip((row[0] for row in rows), self._run(rows), strict=True):
            held.newest = newest

    def propose(self, slots: Ints, most: Ints) -> Sequence[Ints]:
        drafts: list[list[int]] = [[] for _ in slots]
        going: list[tuple[int, _Held, Tensor]] = []
        those = set(slots.tolist())
        for row, (slot, limit) in enumerate(zip(slots.tolist(), most.tolist(), strict=True)):
            tokens = self._slots.tokens(slot)
            held = self._aligned(slot, tokens, len(tokens) - 1)
            seen = held.newest is not None and len(held.places) and held.places[-1] == len(tokens) - 2
            if seen and held.newest is not None and self._cells.reach(slot, len(held.places) + limit, those):
                going.append((row, held, held.newest))
        kept = [(held, len(held.places)) for _, held, _ in going]
        made = 0
        while going:
            of = slots[[row for row, _, _ in going]]
            logits = self._model.logits(torch.stack([state for _, _, state in going]).to(self._model.dtype))
            for (row, _, _), token in zip(going, guess(self._slots, of, logits, made), strict=True):
                if token != NOTHING:
                    drafts[row].append(token)
            made += 1
            going = [each for each in going if made == len(drafts[each[0]]) < most[each[0]]]
            rows = [
                (held, held.places[-1:] + 1, state.unsqueeze(0), np.array(drafts[row][-1:], np.int32))
                for row, held, state in going
            ]
            going = [(row, held, state) for (row, held, _), state in zip(going, self._run(rows), strict=True)]
        for held, entries in kept:  # what follows drafts is computed again when it is known what was right
            held.places = held.places[:entries]
        return [np.array(tokens, np.int64) for tokens in drafts]

    def _aligned(self, slot: int, tokens: Tokens, end: int) -> _Held:
        """What is held of a slot, cut to what agrees with its tokens, and to positions before `end`."""
        held = self._cells.of(slot)
        common = min(len(held.tokens), len(tokens))
        differ = np.flatnonzero(held.tokens[:common] != tokens[:common])
        agreed = int(differ[0]) if len(differ) else common
        kept = int(np.searchsorted(held.places, min(agreed - 1, end)))  # an entry needs the token after it
        if kept < len(held.places):
            held.places, held.newest = held.places[:kept], None
        return held

    def _run(self, rows: Sequence[tuple[_Held, Ints, Tensor, Tokens]]) -> list[Tensor]:
        """Compute entries; for each row what comes out at its last one."""
        if not rows:
            return []
        entries = [Entries(held.table, len(held.places), places) for held, places, _, _ in rows]
        batch = batch_of(entries, self._model.device)
        ids = torch.from_numpy(np.concatenate([ids for *_, ids in rows]).astype(np.int64)).to(self._model.device)
        out = self._head.forward(torch.cat([states for _, _, states, _ in rows]), ids, batch, self._cells.pages)
        for held, places, _, _ in rows:
            held.places = np.concatenate((held.places, places))
        return [out[end - 1] for end in batch.row_starts[1:]]
