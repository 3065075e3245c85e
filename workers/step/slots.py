"""What the worker knows of the requests in its slots: token ids, sampling parameters, block tables.

A plan says it as differences (`bus.messages.steps`); here they are applied and checked. Token ids and block tables
are dense arrays, so that a step of hundreds of rows picks them by index. Nothing here computes, sends or waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import unpack_u32
from workers.lora.adapter import Adapter
from workers.lora.shelf import Shelf
from workers.sampling.grammar import Grammars
from workers.sampling.table import Sampler, SamplingTable
from workers.sampling.thought import Thoughts
from workers.step.staging import staged, staged_together

Ints = npt.NDArray[np.int64]


class PlanRefused(ValueError):
    """A plan that cannot be executed, found before anything was computed.

    Attributes:
        slots: the slots at fault; empty where a slot is not at fault, for instance because it was closed by a failure
            in an earlier step.
    """

    def __init__(self, problem: str, slots: Iterable[int] = ()) -> None:
        self.slots = tuple(slots)
        super().__init__(problem + (f" (slot {', '.join(map(str, self.slots))})" if self.slots else ""))


class Placement(Protocol):
    """Where pages of the arena are for the model, where that is not the arena. Pages are handles of plans."""

    def place(
        self, pages: npt.NDArray[np.integer], generations: npt.NDArray[np.integer], known: int
    ) -> npt.NDArray[np.int64]:
        """Pages enter a block table: their cells in the model's tensor, [n]. What is in the first `known` of them is in
        the arena, and will be in the cells before the next step; the others are to be written.

        Raises:
            MemoryError: there is no room for them.
        """
        ...

    def let_go(self, pages: npt.NDArray[np.integer]) -> None:
        """Pages leave a block table."""
        ...

    def forget(self, pages: npt.NDArray[np.integer]) -> None:
        """The scheduler may give these pages to others: what was in them is not in them any more."""
        ...

    def forget_all(self) -> None:
        """Of all pages in no block table."""
        ...


def slot_bytes(slots: int, context_tokens: int, page_tokens: int) -> int:
    """Memory that `Slots` of that size takes for token ids and block tables; the rest is small."""
    most_pages = -(-context_tokens // page_tokens)
    return slots * (4 * (context_tokens + 1) + 3 * 8 * most_pages)


class Slots:
    """State of all slots.

    Args:
        slots: how many.
        context_tokens: longest sequence whose KV is computed; one more token may be drawn after it.
        page_tokens: tokens of a page.
        vocabulary: token ids are below it.
        cells: page numbers are below it.
        device: where token ids are kept, so that a drawn token need not leave it for the next step.
        grammars: of the requests that have one; None on a rank that does not draw.
        thoughts: likewise, of those that may think only so long.
        shelf: of adapters; None where requests have none.
        sampler: None for torch's.
        placement: None where the model computes on the arena's cells.
        fold: blocks of a fold; see `workers.step.windows`.

    Attributes:
        vocabulary, device: as given.
        sampling: parameters of the requests.
        length: [slots], tokens each slot has.
        prompt_length: [slots], how many of them are prompt.
        prompt_logprobs: [slots], alternatives wanted per prompt token; -1 for none.
        adapters: of the slots that have one.
        to_fold: what the last plan wants folded before anything is computed: cells of blocks, and the cell for them.
    """

    def __init__(
        self,
        slots: int,
        context_tokens: int,
        page_tokens: int,
        vocabulary: int,
        cells: int,
        device: torch.device,
        grammars: Grammars | None = None,
        thoughts: Thoughts | None = None,
        shelf: Shelf | None = None,
        sampler: Sampler | None = None,
        placement: Placement | None = None,
        fold: int = 0,
    ) -> None:
        self.grammars, self.thoughts = grammars, thoughts
        self.adapters: dict[int, Adapter] = {}
        self._shelf = shelf
        self._fold = fold
        self._folds: dict[int, list[int]] = {}
        self.to_fold: list[tuple[Tensor, int]] = []
        self.count, self.context_tokens, self.page_tokens = slots, context_tokens, page_tokens
        self.vocabulary, self._cells, self.device = vocabulary, cells, device
        most_pages = -(-context_tokens // page_tokens)
        self._tokens = torch.zeros((slots, context_tokens + 1), dtype=torch.int32, device=device)
        self._table = torch.zeros((slots, most_pages), dtype=torch.int64, device=device)
        self._pages: Ints = np.zeros((slots, most_pages), np.int64)
        self._placement = placement
        # On the host what `_table` is: cells of the model's tensor. They are the arena's pages unless placed elsewhere.
        self._where: Ints = self._pages if placement is None else np.zeros((slots, most_pages), np.int64)
        self._generations: Ints = np.zeros((slots, most_pages), np.int64)
        self._page_count: Ints = np.zeros(slots, np.int64)
        self._open = np.zeros(slots, np.bool_)
        self._computed: Ints = np.zeros(slots, np.int64)
        self.length: Ints = np.zeros(slots, np.int64)
        self.prompt_length: Ints = np.zeros(slots, np.int64)
        self.prompt_logprobs: Ints = np.full(slots, -1, np.int64)
        self.sampling: Sampler = sampler or SamplingTable(slots, vocabulary, device)

    @property
    def in_use(self) -> int:
        """Slots with a request in them."""
        return int(self._open.sum())

    # --- changing --------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan) -> None:
        """Closes, opens and page differences of a plan, in this order.

        Raises:
            PlanRefused: a number is out of range. Slots are then in between and want `close_all`.
        """
        for slot in self._slots_of(plan.closes).tolist():
            self._close(slot)
        if self._placement is not None and plan.forgets:
            self._placement.forget(unpack_u32(plan.forgets))
        for opened in plan.opens:
            self._open_slot(opened)
        slots, pages = self._slots_of(plan.page_slots), unpack_u32(plan.pages)
        generations = unpack_u32(plan.page_generations)
        if not len(slots) == len(pages) == len(generations):
            raise PlanRefused("page differences of unequal length")
        for slot, page, generation in zip(slots.tolist(), pages.tolist(), generations.tolist(), strict=True):
            self._append_pages(slot, np.array([page], np.int64), np.array([generation], np.int64))
        self.to_fold = []
        for slot, page in zip(self._slots_of(plan.fold_slots).tolist(), unpack_u32(plan.folds).tolist(), strict=True):
            self._append_fold(slot, page)

    def close_all(self) -> None:
        """Forget every request."""
        for slot in np.flatnonzero(self._open).tolist():
            self._close(slot)
        if self._placement is not None:
            self._placement.forget_all()  # nobody says which of the pages are handed out again

    def computed(self, slots: Ints, ends: Ints) -> None:
        """KV of `slots` is there up to `ends`."""
        self._computed[slots] = np.maximum(self._computed[slots], ends)

    def append(self, slots: Ints, tokens: Tensor) -> None:
        """Tokens were drawn, one per slot. tokens: int64 [rows] on the device."""
        self._tokens[staged_together((slots, self.length[slots]), self.device)] = tokens.to(torch.int32)
        self.length[slots] += 1
        self.sampling.append(slots, tokens)

    def draft(self, slot: int, tokens: Ints) -> None:
        """Put draft tokens behind a slot's last one, for this step, as many as there is `room_for_drafts`. What is
        drawn overwrites them."""
        first = int(self.length[slot])
        self._tokens[slot, first : first + len(tokens)] = staged(tokens, self.device).to(torch.int32)

    def _close(self, slot: int) -> None:
        if self._placement is not None:
            self._placement.let_go(self._pages[slot, : self._page_count[slot]])
        self._open[slot] = False
        self._page_count[slot] = self.length[slot] = 0
        self.sampling.close(slot)
        self.adapters.pop(slot, None)
        self._folds.pop(slot, None)
        if self.grammars is not None:
            self.grammars.close(slot)
        if self.thoughts is not None:
            self.thoughts.close(slot)

    def _open_slot(self, opened: SlotOpen) -> None:
        slot = opened.slot
        if not 0 <= slot < self.count:
            raise PlanRefused(f"there are {self.count} slots, no slot {slot}")
        tokens = unpack_u32(opened.tokens).astype(np.int64)
        if not 0 < len(tokens) <= self.context_tokens:
            raise PlanRefused(f"{len(tokens)} tokens, of at most {self.context_tokens}", [slot])
        if int(tokens.max()) >= self.vocabulary:
            raise PlanRefused(f"token id {int(tokens.max())} of a vocabulary of {self.vocabulary}", [slot])
        if not 0 <= opened.prompt_tokens <= len(tokens) or not 0 <= opened.computed <= len(tokens):
            raise PlanRefused("more prompt or computed tokens than tokens", [slot])
        adapter = self._shelf.get(opened.adapter) if self._shelf is not None and opened.adapter else None
        if opened.adapter and adapter is None:
            raise PlanRefused(f"adapter {opened.adapter} is not there", [slot])
        if self._placement is not None and opened.computed % self.page_tokens:
            raise PlanRefused("a page that is not full, and so only in the memory of who wrote it", [slot])
        self._close(slot)
        self._open[slot] = True
        if adapter is not None:
            self.adapters[slot] = adapter
        known = opened.computed // self.page_tokens
        self._append_pages(slot, unpack_u32(opened.pages), unpack_u32(opened.generations), known)
        ids = staged(tokens, self.device)
        self._tokens[slot, : len(ids)] = ids.to(torch.int32)
        self.length[slot] = len(tokens)
        self.prompt_length[slot] = opened.prompt_tokens
        self._computed[slot] = opened.computed
        self.prompt_logprobs[slot] = min(opened.prompt_logprobs, self.vocabulary)
        self.sampling.open(slot, opened.sampling, ids[: opened.prompt_tokens], ids[opened.prompt_tokens :])
        if self.grammars is not None and opened.sampling.grammar is not None:
            self.grammars.open(slot, opened.sampling.grammar, tokens[opened.prompt_tokens :].tolist())
        if self.thoughts is not None and opened.sampling.thought is not None:
            self.thoughts.open(slot, opened.sampling.thought, tokens[opened.prompt_tokens :].tolist())

    def _append_pages(
        self, slot: int, pages: npt.NDArray[np.integer], generations: npt.NDArray[np.integer], known: int = 0
    ) -> None:
        if not self._open[slot]:
            raise PlanRefused(f"pages for slot {slot}, which is closed")
        first = int(self._page_count[slot])
        end = first + len(pages)
        if len(pages) != len(generations) or end > self._pages.shape[1]:
            raise PlanRefused(f"a block table of {end} pages, of at most {self._pages.shape[1]}", [slot])
        if len(pages) and int(pages.max()) >= self._cells:
            raise PlanRefused(f"page {int(pages.max())} of a pool of {self._cells} cells", [slot])
        if self._placement is not None:
            self._where[slot, first:end] = self._placement.place(pages, generations, known)
        self._pages[slot, first:end] = pages
        self._generations[slot, first:end] = generations
        self._table[slot, first:end] = staged(self._where[slot, first:end].copy(), self.device)
        self._page_count[slot] = end

    def _append_fold(self, slot: int, page: int) -> None:
        folds = self._folds.setdefault(slot, [])
        first, end = len(folds) * self._fold, (len(folds) + 1) * self._fold
        if not self._fold or not self._open[slot] or end * self.page_tokens > self._computed[slot]:
            raise PlanRefused("a fold of blocks that are not computed", [slot])
        if page >= self._cells:
            raise PlanRefused(f"page {page} of a pool of {self._cells} cells", [slot])
        self.to_fold.append((self._table[slot, first:end].clone(), page))
        folds.append(page)

    # --- reading ---------------------------------------------------------------------------------------------------

    def check_rows(
        self, slots: Ints, starts: Ints, counts: Ints, samples: npt.NDArray[np.bool_], drafted: Ints
    ) -> None:
        """Whether these rows can be computed: all arrays [rows]. The last `drafted` tokens of a row are drafts.

        Raises:
            PlanRefused: with the rows' slots.
        """
        if len(slots) and (int(slots.max()) >= self.count or len(np.unique(slots)) != len(slots)):
            raise PlanRefused("a row's slot does not exist, or has two rows")
        if not bool(self._open[slots].all()):
            raise PlanRefused(f"rows of closed slots {slots[~self._open[slots]].tolist()}")
        ends = starts + counts
        for problem, bad in (
            ("a row without tokens", counts < 1),
            ("a row of tokens that the slot does not have", ends > self.length[slots] + drafted),
            ("a row beyond the context", ends > self.context_tokens),
            ("a row that leaves a gap in the KV", starts > self._computed[slots]),
            ("a row beyond the block table", ends > self._page_count[slots] * self.page_tokens),
            ("a draw from the middle of a sequence", samples & (ends != self.length[slots] + drafted)),
        ):
            if bad.any():
                raise PlanRefused(problem, slots[bad].tolist())

    def ids(self, slots: Ints, positions: Ints) -> Tensor:
        """Token ids at `positions` of `slots`, both [n]; int64 [n] on the device."""
        return self._tokens[staged_together((slots, positions), self.device)].to(torch.int64)

    def tokens(self, slot: int) -> npt.NDArray[np.int32]:
        """All token ids of a slot, int32 [length] on the host; on a CPU not a copy."""
        return self._tokens[slot, : int(self.length[slot])].cpu().numpy()

    def room_for_drafts(self, slots: Ints) -> Ints:
        """How many draft tokens the block tables and the context of `slots` hold; both [n]."""
        room: Ints = np.minimum(self._page_count[slots] * self.page_tokens, self.context_tokens) - self.length[slots]
        return room.clip(0)

    def pages(self, slots: Ints, blocks: Ints) -> Ints:
        """The `blocks`-th pages of `slots`, as the plan names them; all [n]."""
        return self._pages[slots, blocks]

    def cells(self, slots: Ints, blocks: Ints) -> Ints:
        """Where the model finds them; all [n]."""
        return self._where[slots, blocks]

    def generations(self, slots: Ints, blocks: Ints) -> Ints:
        """Generations of the `blocks`-th pages of `slots`; all [n]."""
        return self._generations[slots, blocks]

    def block_table(self, slot: int, context: int) -> Tensor:
        """Cells of the pages that hold `context` tokens of a slot; int64 on the device."""
        return self._table[slot, : -(-context // self.page_tokens)]

    def folds_of(self, slots: Ints) -> list[Tensor]:
        """Cells of the folds of each of these slots, int64 [folds]; empty where none has any."""
        if not self._folds:
            return []
        return [torch.tensor(self._folds.get(slot, []), dtype=torch.int64) for slot in slots.tolist()]

    def followed(self, slots: Ints) -> frozenset[int]:
        """Those of `slots` whose tokens the host takes note of before it lets them draw again."""
        follow = [each for each in (self.grammars, self.thoughts) if each is not None]
        return frozenset(slot for slot in slots.tolist() if any(slot in each for each in follow))

    def adapters_of(self, slots: Ints) -> list[Adapter | None]:
        """Of each of these slots; empty where none has one."""
        if not self.adapters:
            return []
        found = [self.adapters.get(slot) for slot in slots.tolist()]
        return found if any(found) else []

    def tables(self, slots: Ints, pages: int) -> Tensor | None:
        """The first `pages` cells of all `slots`, int64 [n, pages] on the device; None where pages are not placed."""
        return None if self._placement is None else self._table[staged(slots, self.device), :pages]

    def _slots_of(self, packed: bytes) -> Ints:
        slots = unpack_u32(packed).astype(np.int64)
        if len(slots) and int(slots.max()) >= self.count:
            raise PlanRefused(f"there are {self.count} slots, no slot {int(slots.max())}")
        return slots
