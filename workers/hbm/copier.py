"""Copies between frames of device memory and pages of the arena, beside the steps.

A page is one copy either way: frames have the arena's layout. A copy out reads what steps launched before it have
written; a step waits for the copies in that were asked for before it, and a copy in for the steps that may still read
what the frame held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from workers.hbm.bounce import Bounces
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

    Both directions share the pinned pages (`bounce`).

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
        self._bounces = Bounces(_BOUNCES, lambda at: self._bounced[at].synchronize(), self._bring_on)

    def load(self, pairs: Sequence[Pair]) -> None:
        compute = torch.cuda.current_stream(self._frames.device)
        self._in.wait_stream(compute)
        with torch.cuda.stream(self._in):
            for frame, cell in pairs:
                source = self._cells[cell]
                if not self._registered.covers(source):
                    at = self._bounces.take()
                    source = self._bounce[at].copy_(source)
                    self._frames[frame].copy_(source, non_blocking=True)
                    self._bounced[at].record(self._in)
                else:
                    self._frames[frame].copy_(source, non_blocking=True)
        compute.wait_stream(self._in)

    def _bring_on(self, at: int, cell: int) -> None:
        self._cells[cell].copy_(self._bounce[at])

    def store(self, pairs: Sequence[Pair]) -> Wait:
        self._out.wait_stream(torch.cuda.current_stream(self._frames.device))
        bounced: list[tuple[int, int]] = []
        with torch.cuda.stream(self._out):
            for frame, cell in pairs:
                if self._registered.covers(self._cells[cell]):
                    self._cells[cell].copy_(self._frames[frame], non_blocking=True)
                    continue
                at = self._bounces.take()
                self._bounce[at].copy_(self._frames[frame], non_blocking=True)
                self._bounced[at].record(self._out)
                self._bounces.owe(at, cell)
                bounced.append((at, cell))
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._out)

        def wait() -> None:
            done.synchronize()
            for at, cell in bounced:
                self._bounces.settle(at, cell)

        return wait
