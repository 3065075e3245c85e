"""Drawing along rows: after each token of a row in turn, for as long as what was drawn is what was drafted.

A draw is a function of logits, parameters, seed and position (`workers.sampling.draw`), and logits after a draft that
was right are those after the token itself. So what is drawn here is what would have been drawn one step at a time:
penalties, grammars, budgets of thought and log probabilities see each token as it comes, and nothing has to be taken
back. (Rejection sampling, https://arxiv.org/abs/2211.17192, keeps the distribution; this keeps the tokens.) What
comes after a wrong draft was computed for nothing, and is computed again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from workers.sampling.draw import BrokenLogits
from workers.step.slots import Ints, Slots

NOTHING = -1  # of a row that is not drawn from any more
BROKEN = -2


class Along(NamedTuple):
    """What was drawn along the rows of a step.

    Attributes:
        tokens: int64 [rows, widest], `NOTHING` behind each row's last. `BROKEN` is the first of a row whose logits were
            not finite; the step is lost then.
        logprobs: (row, which of its tokens, value).
        failed: by row, why its grammar or the budget of its thought cannot be followed; what was drawn for it means
            nothing.
    """

    tokens: Ints
    logprobs: list[tuple[int, int, TokenLogprobs]]
    failed: dict[int, str]


def draw_along(slots: Slots, of: Ints, logits: Tensor, widths: Ints, drafts: Ints) -> Along:
    """Draw, and append what was drawn to the slots.

    Args:
        of: [rows], their slots.
        logits: float32 [sum of widths, vocabulary], row after row; may be overwritten.
        widths: [rows], tokens of each to draw after: one more than drafts.
        drafts: int64 [rows, most], -1 where there are no more.
    """
    found = Along(np.full((len(of), int(widths.max())), NOTHING, np.int64), [], {})
    firsts = widths.cumsum() - widths
    going = np.arange(len(of))
    for at in range(found.tokens.shape[1]):
        masks = None
        if (grammars := slots.grammars) is not None:
            if at:  # those of the first tokens were begun before the forward pass
                grammars.begin(of[going].tolist())
            masks = grammars.masks()
        if masks is not None and masks.failed:
            if at == 0:
                found.failed.update({int(going[row]): why for row, why in masks.failed.items()})
            else:
                # It is told with the next step, of which it is the first token: what came before it counts.
                kept = np.setdiff1d(np.arange(len(going)), list(masks.failed))
                place = {row: index for index, row in enumerate(kept.tolist())}
                banned = {place[row]: mask for row, mask in masks.banned.items()}
                going, masks = going[kept], masks._replace(banned=banned)
                if not len(going):
                    break
        forced = slots.thoughts.forced(of[going].tolist()) if slots.thoughts is not None else None
        if forced is not None:
            found.failed.update({int(going[row]): why for row, why in forced.failed.items()})
        some = logits if len(logits) == len(going) else logits[torch.from_numpy(firsts[going] + at).to(logits.device)]
        try:
            drawn_here = slots.sampling.draw(
                some, of[going], slots.length[of[going]],
                masks.banned if masks is not None else {}, forced.tokens if forced is not None else {},
            )  # fmt: skip
        except BrokenLogits as broken:
            found.tokens[going[list(broken.rows)], 0] = BROKEN
            break
        tokens = drawn_here.tokens
        drawn = tokens.cpu().numpy()
        if (drawn < 0).any():
            found.tokens[going[drawn < 0], 0] = BROKEN
            break
        found.tokens[going, at] = drawn
        found.logprobs.extend((int(going[row]), at, value) for row, value in drawn_here.all_logprobs())
        slots.append(of[going], tokens)
        if grammars is not None:
            grammars.append(of[going].tolist(), drawn.tolist())
        if slots.thoughts is not None:
            slots.thoughts.append(of[going].tolist(), drawn.tolist())
        going = going[_right(drawn, drafts[going], at)]
        if not len(going):
            break
    return found


def follow(slots: Slots, of: Ints, tokens: Ints) -> None:
    """Append what another rank has drawn: tokens as in `Along`."""
    for at in range(tokens.shape[1]):
        going = np.flatnonzero(tokens[:, at] != NOTHING)
        if len(going):
            slots.append(of[going], torch.from_numpy(tokens[going, at]).to(slots.device))


def _right(drawn: Ints, drafts: Ints, at: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows whose draft at `at` is what was drawn. drawn: [rows]; drafts: [rows, most]."""
    if at >= drafts.shape[1]:
        return np.zeros(len(drawn), np.bool_)
    right: np.ndarray[tuple[int], np.dtype[np.bool_]] = drafts[:, at] == drawn
    return right
