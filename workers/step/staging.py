"""Numbers of the host on their way to the device, without a wait for what the device still has to do.

A copy from ordinary memory makes torch wait for everything that was launched before it. From pinned memory the host
goes on at once; torch's allocator of pinned memory gives no piece of it out again while a copy still reads it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def staged(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on the device, of the same shape. On a CPU it is the array itself, so it must not change afterwards."""
    host = torch.from_numpy(values)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def staged_together(arrays: tuple[npt.NDArray[np.int64], ...], device: torch.device) -> tuple[Tensor, ...]:
    """Several int64 arrays in one copy; each [n], of any lengths."""
    if device.type == "cpu":
        return tuple(torch.from_numpy(array) for array in arrays)
    return torch.split(staged(np.concatenate(arrays), device), [len(array) for array in arrays])
