"""What proposes drafts for a model, by its configuration."""

from __future__ import annotations

from typing import Literal

from workers.group import Group
from workers.models.interface import SINGLE, Model
from workers.models.load import build
from workers.speculative.draft import DraftModel
from workers.speculative.first_rank import OfFirstRank
from workers.speculative.head_drafts import HeadDrafts
from workers.speculative.heads import Head
from workers.speculative.interface import Proposer
from workers.speculative.lookup import Lookup, continuation, likeliest
from workers.step.slots import Slots
from workers.weights.prepared import Prepared

Speculation = Literal["off", "lookup", "suffix", "draft", "head"]


def proposer_of(
    speculation: Speculation, slots: Slots, group: Group, model: Model, drafter: Prepared | Head | None
) -> Proposer | None:
    """Nothing where `speculation` is off. `drafter`: weights of the draft model, on rank 0; or the head."""
    match speculation:
        case "lookup":
            return Lookup(slots.tokens, continuation)
        case "suffix":
            return Lookup(slots.tokens, likeliest)
        case "draft":
            return OfFirstRank(group, _draft_model(drafter, slots) if isinstance(drafter, Prepared) else None)
        case "head":
            assert isinstance(drafter, Head)
            return HeadDrafts(drafter, model, slots)
        case "off":
            return None


def _draft_model(weights: Prepared, slots: Slots) -> DraftModel:
    return DraftModel(build(weights, SINGLE, slots.device), weights.dtype, slots)
