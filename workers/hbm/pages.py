"""Pages in device memory: what slots and executor use where a model computes on a GPU.

Plans name pages of the arena. Here each has a frame for as long as a block table names it, and longer while there is
room. A page that is found there is not copied; one that is not is loaded from the arena. A page that a step fills is in
the arena before the step is answered: the scheduler names it then, and whoever takes over finds it there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workers.hbm.copier import Copier, Pair, Wait
from workers.hbm.frames import Frames
from workers.rows import Written
from workers.slots import Ints


class ArenaCommits(Protocol):
    """What of the arena's pages a worker writes beside their bytes."""

    def commit(self, written: Written) -> None:
        """These pages hold so many valid tokens now."""
        ...


class DevicePages:
    """Implements `workers.execute.Pages` and `workers.slots.Placement`.

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
        self._under_way: tuple[Written, Wait] | None = None

    @property
    def dummy(self) -> int:
        """The frame that is nobody's."""
        return self.frames.count

    # --- for slots -------------------------------------------------------------------------------------------------

    def place(self, pages: npt.NDArray[np.integer], generations: npt.NDArray[np.integer], known: int) -> Ints:
        """See `workers.slots.Placement`."""
        found: list[int] = []
        loads: list[Pair] = []
        try:
            for index, (page, generation) in enumerate(zip(pages.tolist(), generations.tolist(), strict=True)):
                frame, load = self.frames.hold(page, generation, known=index < known)
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
        """See `workers.slots.Placement`."""
        for page in pages.tolist():
            self.frames.release(page)

    def forget(self, pages: npt.NDArray[np.integer]) -> None:
        """See `workers.slots.Placement`."""
        for page in pages.tolist():
            self.frames.forget(page)

    def forget_all(self) -> None:
        """See `workers.slots.Placement`."""
        self.frames.forget_all()

    # --- for the executor ------------------------------------------------------------------------------------------

    def launched(self, written: Written) -> None:
        """See `workers.execute.Pages`. The full ones are on their way to the arena from here on."""
        full = written.valid_tokens == self._page_tokens
        whole = Written(*(values[full] for values in written))
        if not len(whole.pages):
            return
        # Held meanwhile: a slot that is closed must not free a frame that is being read.
        pairs = [Pair(self.frames.again(page), page) for page in whole.pages.tolist()]
        self._under_way = whole, self._copier.store(pairs)

    def commit(self, written: Written) -> None:
        """See `workers.execute.Pages`. Waits until the full ones are in the arena; of others nothing is there."""
        del written
        if self._under_way is None:
            return
        (whole, wait), self._under_way = self._under_way, None
        wait()
        self._arena.commit(whole)
        for page in whole.pages.tolist():
            self.frames.filled(page)
            self.frames.release(page)

    def abandon(self) -> None:
        """The step failed: what was on its way is worth nothing."""
        if self._under_way is not None:
            (whole, wait), self._under_way = self._under_way, None
            wait()
            self.let_go(whole.pages)
