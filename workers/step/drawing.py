"""The tokens of a step, from logits to what its result says of them: drawn on the device, told when the host has them.

| step           | drawn by            | on the host                                                          |
|----------------|---------------------|----------------------------------------------------------------------|
| without drafts | `draw_once`         | when it is read: nothing between plan and draw waits for the device  |
| with drafts    | `draw_with_drafts`  | at once: how many tokens a row gets hangs on what they are           |
"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from workers.group import Group
from workers.sampling.draw import BrokenLogits, Drawn
from workers.speculative.verify import BROKEN, NOTHING, draw_along, follow
from workers.step.slots import Ints, Slots


class Told(NamedTuple):
    """What a result says: tokens, how many each row has, log probabilities by index, and `StepResult.failed`."""

    tokens: list[int]
    counts: list[int]
    logprobs: tuple[tuple[int, TokenLogprobs], ...]
    failed: tuple[tuple[int, str], ...]


class Drawing(Protocol):
    """Tokens that are drawn.

    Attributes:
        values: int32 on the device, what the host has to read before it can tell.
    """

    @property
    def values(self) -> Tensor: ...

    def told(self, values: npt.NDArray[np.int32]) -> Told:
        """With `values` as they were read; once.

        Raises:
            workers.sampling.draw.BrokenLogits: of some rows nothing could be drawn.
        """
        ...


class Nothing:
    """Of a step that draws for nobody."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.empty(0, dtype=torch.int32, device=device)

    def told(self, values: npt.NDArray[np.int32]) -> Told:
        del values
        return Told([], [], (), ())


class Known:
    """What is on the host already."""

    def __init__(self, told: Told, device: torch.device) -> None:
        self._told = told
        self.values = torch.empty(0, dtype=torch.int32, device=device)

    def told(self, values: npt.NDArray[np.int32]) -> Told:
        del values
        return self._told


class Once:
    """One token of each row: in its slot, so that the next step has it, and not on the host."""

    def __init__(self, slots: Slots, of: Ints, drawn: Drawn, failed: dict[int, str]) -> None:
        self._slots, self._of, self._drawn, self._failed = slots, of, drawn, failed
        tokens = drawn.tokens.to(torch.int32).unsqueeze(1)
        self.values = tokens if drawn.later is None else torch.cat([tokens, drawn.later.values], 1)

    def told(self, values: npt.NDArray[np.int32]) -> Told:
        tokens = values[:, 0].tolist()
        if min(tokens) < 0:
            raise BrokenLogits(tuple(np.flatnonzero(values[:, 0] < 0).tolist()))
        # These alone follow tokens on the host; nobody has changed their slots since (`workers.step.overlap`).
        for each in (self._slots.grammars, self._slots.thoughts):
            if each is not None:
                each.append(self._of.tolist(), tokens)
        logprobs = self._drawn.logprobs
        if (later := self._drawn.later) is not None:
            logprobs = later.read(values[:, 1:])
        failed = ((int(self._of[row]), why) for row, why in self._failed.items())
        return Told(tokens, [1] * len(tokens), tuple(sorted(logprobs, key=itemgetter(0))), tuple(failed))


def draw_once(slots: Slots, of: Ints, logits: Tensor, group: Group) -> Once:
    """Draw a token for each row, and append it to the row's slot.

    Args:
        of: [rows], their slots.
        logits: float32 [rows, vocabulary]; may be overwritten.
    """
    failed: dict[int, str] = {}
    drawn = Drawn(torch.zeros(len(of), dtype=torch.int64, device=logits.device), ())
    if group.rank == 0:
        masks = slots.grammars.masks() if slots.grammars is not None else None
        forced = slots.thoughts.forced(of.tolist()) if slots.thoughts is not None else None
        failed = (masks.failed if masks is not None else {}) | (forced.failed if forced is not None else {})
        try:
            drawn = slots.sampling.draw(
                logits, of, slots.length[of],
                masks.banned if masks is not None else {}, forced.tokens if forced is not None else {},
            )  # fmt: skip
        except BrokenLogits as broken:
            drawn.tokens[list(broken.rows)] = BROKEN
    if group.ranks > 1:
        drawn = drawn._replace(tokens=group.share(drawn.tokens))
    # Of a row without a token there is a negative number, which is seen when it is read. A step that was launched
    # before that looks its token up, so one must stand there.
    slots.append(of, drawn.tokens.clamp(min=0))
    return Once(slots, of, drawn, failed)


def draw_with_drafts(
    slots: Slots, of: Ints, logits: Tensor, widths: Ints, drafts: Ints, group: Group, device: torch.device
) -> Known:
    """Draw along rows, and append to their slots what was drawn. Waits for the device.

    Args:
        of, logits, widths, drafts: as in `workers.speculative.verify.draw_along`.

    Raises:
        BrokenLogits: of some rows nothing could be drawn.
    """
    tokens: Ints = np.full((len(of), int(widths.max())), NOTHING, np.int64)
    logprobs: list[tuple[int, int, TokenLogprobs]] = []
    failed: dict[int, str] = {}
    if group.rank == 0:
        tokens, logprobs, failed = draw_along(slots, of, logits, widths, drafts)
    tokens = group.share(torch.from_numpy(tokens).to(device)).cpu().numpy()
    if (broken := tokens[:, 0] == BROKEN).any():
        raise BrokenLogits(tuple(np.flatnonzero(broken).tolist()))
    if group.rank:
        follow(slots, of, tokens)
    counts = (tokens != NOTHING).sum(axis=1)
    firsts = (counts.cumsum() - counts).tolist()
    told = Told(
        tokens[tokens != NOTHING].tolist(),
        counts.tolist(),
        tuple((firsts[row] + at, value) for row, at, value in sorted(logprobs, key=itemgetter(0, 1))),
        tuple((int(of[row]), why) for row, why in failed.items()),
    )
    return Known(told, device)
