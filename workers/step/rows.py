"""The rows of one plan, as the arrays that the forward pass and the page commits need. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bus.messages.steps import StepPlan
from bus.packed import unpack_u32
from workers.models.interface import Batch
from workers.speculative.interface import Proposer
from workers.speculative.rows import Drafts, draft
from workers.step.slots import Ints, PlanRefused, Slots
from workers.step.staging import staged_together


class Written(NamedTuple):
    """Pages that a step writes to, and how far they are valid after it; all [pages]."""

    pages: Ints
    generations: Ints
    valid_tokens: Ints


NOWHERE: Final = Written(*(np.zeros(0, np.int64) for _ in range(3)))


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows in plan order; arrays are [rows] unless said otherwise.

    Attributes:
        slots, starts, counts: what each row computes.
        samples: rows whose last logits are drawn from.
        row_starts: [rows + 1], where each row begins in the flat list of tokens.
        token_slots, positions: [tokens].
        drafts: the last tokens of rows that are guesses.
    """

    slots: Ints
    starts: Ints
    counts: Ints
    samples: npt.NDArray[np.bool_]
    row_starts: Ints
    token_slots: Ints
    positions: Ints
    drafts: Drafts

    @property
    def ends(self) -> Ints:
        """Tokens of each row's sequence after the step."""
        return self.starts + self.counts

    def batch(self, slots: Slots, device: torch.device) -> Batch:
        """Where the tokens belong, for the model."""
        blocks, offsets = np.divmod(self.positions, slots.page_tokens)
        ends = self.ends.tolist()
        positions, page_of, offset_of = staged_together(
            (self.positions, slots.cells(self.token_slots, blocks), offsets), device
        )
        return Batch(
            positions=positions,
            page_of=page_of,
            offset_of=offset_of,
            row_starts=self.row_starts.tolist(),
            row_context=ends,
            block_tables=[slots.block_table(slot, end) for slot, end in zip(self.slots.tolist(), ends, strict=True)],
            adapters=slots.adapters_of(self.slots),
            table=slots.tables(self.slots, -(-max(ends) // slots.page_tokens)),
            folds=slots.folds_of(self.slots),
        )

    def valid(self, slots: Slots) -> Ints:
        """[rows], how far each sequence's KV is valid after the step, once its tokens are drawn: to a wrong draft."""
        ends: Ints = np.where(self.samples, slots.length[self.slots] - 1, self.ends)
        return ends

    def written(self, slots: Slots, ends: Ints) -> Written:
        """The pages that get new tokens: one entry per page, with the last of its tokens. ends: `valid`."""
        kept = self.positions < np.repeat(ends, self.counts)
        of, (blocks, offsets) = self.token_slots[kept], np.divmod(self.positions[kept], slots.page_tokens)
        last = offsets == slots.page_tokens - 1
        last[(ends - self.starts).cumsum() - 1] = True
        of, blocks = of[last], blocks[last]
        return Written(slots.pages(of, blocks), slots.generations(of, blocks), offsets[last] + 1)


def rows_of(plan: StepPlan, slots: Slots, proposer: Proposer | None = None) -> StepRows:
    """Unpack and check a plan's rows against the slots, which it has already been applied to, and put drafts there.

    Raises:
        PlanRefused: they cannot be computed.
    """
    of, starts, counts = (unpack_u32(packed).astype(np.int64) for packed in (plan.slots, plan.starts, plan.counts))
    samples = np.frombuffer(plan.samples, dtype=np.uint8) != 0
    if not len(of) == len(starts) == len(counts) == len(samples):
        raise PlanRefused("rows of unequal length")
    drafts = draft(plan.drafts, of, starts, samples & (counts == 1), slots, proposer)
    starts, counts = drafts.starts, counts + drafts.counts
    slots.check_rows(of, starts, counts, samples, drafts.counts)
    row_starts = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    within = np.arange(row_starts[-1]) - np.repeat(row_starts[:-1], counts)
    positions = np.repeat(starts, counts) + within
    return StepRows(of, starts, counts, samples, row_starts, np.repeat(of, counts), positions, drafts)
