"""A plan's rows, with drafts behind those that may have some."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from workers.speculative.interface import Proposer
from workers.step.slots import Ints, PlanRefused, Slots


class Drafts(NamedTuple):
    """Draft tokens of a step's rows.

    Attributes:
        starts: [rows], where each row begins.
        counts: [rows], drafts of each.
        tokens: [rows, most], -1 where there are no more.
    """

    starts: Ints
    counts: Ints
    tokens: Ints


def none_for(starts: Ints) -> Drafts:
    """Of a step without drafts. starts: [rows]."""
    return Drafts(starts, np.zeros(len(starts), np.int64), np.zeros((len(starts), 0), np.int64))


def draft(
    allowed: bytes,
    of: Ints,
    starts: Ints,
    drawing: npt.NDArray[np.bool_],
    slots: Slots,
    proposer: Proposer | None,
) -> Drafts:
    """Find out where rows begin, have drafts proposed, and put them into the slots.

    Args:
        allowed: `StepPlan.drafts`, one byte per row.
        of, starts: [rows], slots and the least places.
        drawing: [rows], rows of one token that draw; the others stay as they are.

    Raises:
        PlanRefused: the plan is not to be executed.
    """
    if not allowed:
        return none_for(starts)
    if len(allowed) != len(of):
        raise PlanRefused("rows of unequal length")
    if len(of) and int(of.max()) >= slots.count:
        raise PlanRefused("a row's slot does not exist, or has two rows")
    drawing = drawing & (slots.length[of] > 0)  # of a closed slot it is said elsewhere that it is closed
    begin: Ints = np.where(drawing, slots.length[of] - 1, starts)
    if (ahead := begin < starts).any():
        raise PlanRefused("a row of tokens that the slot does not have", of[ahead].tolist())
    most = np.frombuffer(allowed, np.uint8).astype(np.int64)
    most = np.where(drawing, np.minimum(most, slots.room_for_drafts(of)), 0)
    rows = np.flatnonzero(most)
    if proposer is None or not len(rows):
        return none_for(begin)
    proposed = proposer.propose(of[rows], most[rows])
    counts = np.zeros(len(of), np.int64)
    counts[rows] = [len(tokens) for tokens in proposed]
    tokens: Ints = np.full((len(of), int(counts.max())), -1, np.int64)
    for row, ids in zip(rows.tolist(), proposed, strict=True):
        if len(ids):
            tokens[row, : len(ids)] = ids
            slots.draft(int(of[row]), ids)
    return Drafts(begin, counts, tokens)
