"""Copies between frames of device memory and pages of the arena, beside the steps.

A page is one copy either way: frames have the arena's layout. A copy out reads what steps launched before it have
written; a step waits for the copies in that were asked for before it, and a copy in for the steps that may still read
what the frame held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from workers.hbm.register import Registered

_BOUNCES: Final = 16  # pages of pinned memory between device and arena where that is not pinned


class Pair(NamedTuple):
    """A frame, and the arena's cell of its page."""

    frame: int
    cell: int


Wait = Callable[[], None]


class Copier(Protocol):
    """Both directions."""

    def load(self, pairs: Sequence[Pair]) -> None:
        """From cells into frames. Steps that are launched from now on see it."""
        ...

    def store(self, pairs: Sequence[Pair]) -> Wait:
        """From frames into cells, once the steps launched so far are through. Returns what waits for it."""
        ...


class HostCopier:
    """Where "device memory" is ordinary memory: how pages in device memory are tested without a GPU.

    Args:
        frames, cells: [n, layers, 2, kv heads, page tokens, head dim].
    """

    def __init__(self, frames: Tensor, cells: Tensor) -> None:
        self._frames, self._cells = frames, cells

    def load(self, pairs: Sequence[Pair]) -> None:
        for frame, cell in pairs:
            self._frames[frame] = self._cells[cell]

    def store(self, pairs: Sequence[Pair]) -> Wait:
        for frame, cell in pairs:
            self._cells[cell] = self._frames[frame]
        return lambda: None


class CudaCopier:
    """A stream for each direction; straight to the arena where it is registered, else over pinned pages.

    Both directions share the pinned pages: whoever stores waits for it before anything is loaded, as steps do.

    Args:
        frames: [n, layers, 2, kv heads, page tokens, head dim], on the device.
        cells: the same of the arena.
        registered: what of the arena is pinned.
    """

    def __init__(self, frames: Tensor, cells: Tensor, registered: Registered) -> None:
        self._frames, self._cells, self._registered = frames, cells, registered
        self._in, self._out = (torch.cuda.Stream(frames.device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._bounce = torch.empty((_BOUNCES, *frames.shape[1:]), dtype=frames.dtype, pin_memory=True)
        self._bounced = [torch.cuda.Event() for _ in range(_BOUNCES)]  # type: ignore[no-untyped-call]
        self._next = 0

    def load(self, pairs: Sequence[Pair]) -> None:
        compute = torch.cuda.current_stream(self._frames.device)
        self._in.wait_stream(compute)
        with torch.cuda.stream(self._in):
            for frame, cell in pairs:
                source = self._cells[cell]
                if not self._registered.covers(source):
                    at = self._next_bounce()
                    source = self._bounce[at].copy_(source)
                    self._frames[frame].copy_(source, non_blocking=True)
                    self._bounced[at].record(self._in)
                else:
                    self._frames[frame].copy_(source, non_blocking=True)
        compute.wait_stream(self._in)

    def store(self, pairs: Sequence[Pair]) -> Wait:
        self._out.wait_stream(torch.cuda.current_stream(self._frames.device))
        landed: deque[tuple[int, int]] = deque()  # (bounce, cell), to be brought on by the host

        def bring_on() -> None:
            at, cell = landed.popleft()
            self._bounced[at].synchronize()
            self._cells[cell].copy_(self._bounce[at])

        with torch.cuda.stream(self._out):
            for frame, cell in pairs:
                if self._registered.covers(self._cells[cell]):
                    self._cells[cell].copy_(self._frames[frame], non_blocking=True)
                    continue
                if len(landed) == _BOUNCES:
                    bring_on()
                at = self._next_bounce()
                self._bounce[at].copy_(self._frames[frame], non_blocking=True)
                self._bounced[at].record(self._out)
                landed.append((at, cell))
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._out)

        def wait() -> None:
            done.synchronize()
            while landed:
                bring_on()

        return wait

    def _next_bounce(self) -> int:
        at = self._next = (self._next + 1) % _BOUNCES
        self._bounced[at].synchronize()
        return at
