"""Pages in device memory: what slots and executor use where a model computes on a GPU.

Plans name pages of the arena. Here each has a frame for as long as a block table names it, and longer while there is
room. A page that is found there is not copied; one that is not is loaded from the arena. A page that a step fills is in
the arena before the step is answered: the scheduler names it then, and whoever takes over finds it there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workers.hbm.copier import Copier, Pair, Wait
from workers.hbm.frames import Frames, Held, NoFrames
from workers.step.rows import Written
from workers.step.slots import Ints


class ArenaCommits(Protocol):
    """What of the arena's pages a worker writes beside their bytes."""

    def commit(self, written: Written) -> None:
        """These pages hold so many valid tokens now."""
        ...


class DevicePages:
    """Implements `workers.step.execute.Pages` and `workers.step.slots.Placement`.

    Args:
        frames: [n + 1, layers, 2, kv heads, page tokens, head dim]; the last frame is nobody's, for rows that only fill
            graphs up.
        copier: between frames and arena.
        arena: takes commit words.

    Attributes:
        loads: pages that were loaded from the arena so far.
    """

    def __init__(self, frames: Tensor, copier: Copier, arena: ArenaCommits) -> None:
        self.tensor = frames
        self.frames = Frames(len(frames) - 1)
        self._copier, self._arena, self.loads = copier, arena, 0
        self._page_tokens = frames.shape[4]
        self._under_way: deque[_UnderWay] = deque()  # a step each

    @property
    def dummy(self) -> int:
        """The frame that is nobody's."""
        return self.frames.count

    # --- for slots -------------------------------------------------------------------------------------------------

    def place(self, pages: npt.NDArray[np.integer], generations: npt.NDArray[np.integer], known: int) -> Ints:
        """See `workers.step.slots.Placement`."""
        found: list[int] = []
        loads: list[Pair] = []
        try:
            for index, (page, generation) in enumerate(zip(pages.tolist(), generations.tolist(), strict=True)):
                frame, load = self._hold(page, generation, known=index < known)
                found.append(frame)
                if load:
                    loads.append(Pair(frame, page))
        except Exception:
            self.let_go(pages[: len(found)])
            self.frames.forget_all()  # some were to be loaded, and hold nothing yet
            raise
        if loads:
            self._copier.load(loads)
            self.loads += len(loads)
        return np.array(found, np.int64)

    def let_go(self, pages: npt.NDArray[np.integer]) -> None:
        """See `workers.step.slots.Placement`."""
        for page in pages.tolist():
            self.frames.release(page)

    def forget(self, pages: npt.NDArray[np.integer]) -> None:
        """See `workers.step.slots.Placement`."""
        for page in pages.tolist():
            self.frames.forget(page)

    def forget_all(self) -> None:
        """See `workers.step.slots.Placement`."""
        self.frames.forget_all()

    # --- for the executor ------------------------------------------------------------------------------------------

    def launched(self, written: Written) -> None:
        """See `workers.step.execute.Pages`. The full ones are on their way to the arena from here on."""
        full = written.valid_tokens == self._page_tokens
        whole = Written(*(values[full] for values in written))
        # Held meanwhile: a slot that is closed must not free a frame that is being read.
        pairs = [Pair(self.frames.again(page), page) for page in whole.pages.tolist()]
        self._under_way.append(_UnderWay(whole, self._copier.store(pairs) if pairs else None))

    def commit(self, written: Written) -> None:
        """See `workers.step.execute.Pages`. Waits until the full ones are in the arena; of others nothing is there."""
        del written
        oldest = self._under_way.popleft()
        self._land(oldest)
        if len(oldest.whole.pages):
            self._arena.commit(oldest.whole)

    def abandon(self) -> None:
        """A step failed: what was on its way is worth nothing."""
        while self._under_way:
            self._land(self._under_way.popleft())

    def _hold(self, page: int, generation: int, *, known: bool) -> Held:
        """A frame. What is copied out of slots that were closed since holds frames that the scheduler does not count:
        where there is no other, that is waited for."""
        try:
            return self.frames.hold(page, generation, known=known)
        except NoFrames:
            landed = [self._land(each) for each in self._under_way]
            if not any(landed):
                raise
        return self.frames.hold(page, generation, known=known)

    def _land(self, step: _UnderWay) -> bool:
        """Wait for a step's copies, and let go of their frames. False where that was done before."""
        wait, step.wait = step.wait, None
        if wait is None:
            return False
        wait()
        for page in step.whole.pages.tolist():
            self.frames.filled(page)
            self.frames.release(page)
        return True


@dataclass(slots=True)
class _UnderWay:
    """Pages that a step fills, and what waits for their copies; None where nobody has to any more."""

    whole: Written
    wait: Wait | None
