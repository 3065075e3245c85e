"""What records a step and plays it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Recording(Protocol):
    """A step that was recorded."""

    @property
    def out(self) -> Tensor:
        """What it gave; overwritten whenever any recording is played."""
        ...

    @property
    def took_bytes(self) -> int:
        """Memory that it holds."""
        ...

    def play(self) -> None:
        """Compute it again, from what its buffers hold now."""
        ...


class Recorder(Protocol):
    """Records steps on a device."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        """Keep what `step` would do. It need not do it.

        Raises:
            RuntimeError: it does something that cannot be kept.
        """
        ...


class CudaRecording:
    """Implements `Recording`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, out: Tensor, took_bytes: int) -> None:
        self._graph, self.out, self.took_bytes = graph, out, took_bytes

    def play(self) -> None:
        self._graph.replay()


class CudaRecorder:
    """CUDA graphs, which share one pool of memory: only one is played at a time. Implements `Recorder`.

    Args:
        counted_bytes: what each is said to take; 0 is what is measured. Ranks of a group are told alike, since what
            they measure may differ, and they must go on to record the same.
    """

    def __init__(self, device: torch.device, counted_bytes: int = 0) -> None:
        self._device, self._counted_bytes = device, counted_bytes
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, step: Callable[[], Tensor]) -> CudaRecording:
        torch.cuda.synchronize(self._device)
        before, _ = torch.cuda.mem_get_info(self._device)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: others ask for events meanwhile (`workers.step.waiter`, NCCL's watchdog), and pin
        # memory.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = step()
        after, _ = torch.cuda.mem_get_info(self._device)
        return CudaRecording(graph, out, self._counted_bytes or max(0, before - after))
