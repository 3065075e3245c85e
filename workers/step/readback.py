"""What a step drew on its way back to the host: one copy a step, which nobody waits for before it is needed."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Reading(Protocol):
    """Values on their way."""

    def ready(self) -> bool:
        """Whether they are there, and so everything that was launched before them is through.

        Raises:
            RuntimeError: the device has failed.
        """
        ...

    def wait(self) -> None:
        """Until they are there; on any thread. Raises RuntimeError as `ready` does."""
        ...

    def values(self) -> npt.NDArray[np.int32]:
        """They themselves; waits where they are not there."""
        ...


class Reader(Protocol):
    """Of one device."""

    def read(self, values: Tensor) -> Reading:
        """Begin to bring int32 values to the host, once everything launched so far is through. With none of them it
        only says when that is."""
        ...


class HostReader:
    """Where the device is the host.

    Args:
        late_s: so much later they are there: a stand-in for a device that computes beside the host, for tests.
    """

    def __init__(self, late_s: float = 0.0) -> None:
        self._late_s = late_s

    def read(self, values: Tensor) -> Reading:
        return _OnHost(values, time.monotonic() + self._late_s if self._late_s else 0.0)


class _OnHost:
    def __init__(self, values: Tensor, there_s: float) -> None:
        self._values, self._there_s = values, there_s

    def ready(self) -> bool:
        return not self._there_s or time.monotonic() >= self._there_s

    def wait(self) -> None:
        if self._there_s:
            time.sleep(max(0.0, self._there_s - time.monotonic()))

    def values(self) -> npt.NDArray[np.int32]:
        self.wait()
        return self._values.numpy()


class CudaReader:
    """Over pinned memory, on a stream of its own: the next step is computed meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def read(self, values: Tensor) -> Reading:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            # Blocking: whoever waits sleeps, and does not take a core from those who launch.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return _FromDevice(host, values, event)


class _FromDevice:
    def __init__(self, host: Tensor, source: Tensor, event: torch.cuda.Event) -> None:
        # The source is held: its memory would be another tensor's as soon as nobody has it, while it is still copied.
        self._host, self._source, self._event = host, source, event

    def ready(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()

    def values(self) -> npt.NDArray[np.int32]:
        self.wait()
        return self._host.numpy()
