"""The arena pinned for a GPU: only pinned memory is copied beside the steps, and at the bus's full speed.

Pinning takes a tenth of a second a gigabyte, and the driver refuses very large ranges at once (facts of the field: half
a terabyte took 55 s, and failed in one call). So it is done slice by slice, in a thread; until a slice is pinned, and
where it cannot be, copies go over a bounce buffer. The driver's own call is used, since an error of the runtime's would
stay and be raised by whoever asks next.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SLICE_BYTES: Final = 16 << 30
_PORTABLE: Final = 1

Pin = Callable[[int, int], bool]  # address, bytes; whether it is pinned now


def slices(begin: int, end: int, page_bytes: int, most: int = SLICE_BYTES) -> list[range]:
    """Addresses from `begin` to `end` in slices of whole pages, each at most `most` bytes, or one page. Pure."""
    step = max(1, most // page_bytes) * page_bytes
    return [range(at, min(at + step, end)) for at in range(begin, end, step)]


class Registered:
    """What is pinned so far. Reading needs no lock: there is one number, and it only grows."""

    def __init__(self, begin: int) -> None:
        self._begin = self._end = begin

    def covers(self, page: Tensor) -> bool:
        """Whether all of a contiguous page is pinned."""
        return self._begin <= page.data_ptr() and page.data_ptr() + page.nbytes <= self._end

    def register(self, parts: list[range], pin: Pin) -> None:
        """Pin one slice after the other; the first that cannot be is the last that is tried."""
        for part in parts:
            if not pin(part.start, len(part)):
                log.warning(
                    "the arena cannot be pinned behind its first %.1f GiB: pages there are copied twice",
                    (self._end - self._begin) / (1 << 30),
                )
                return
            self._end = part.stop
        log.info("the arena is pinned, %.1f GiB", (self._end - self._begin) / (1 << 30))


def register_in_background(cells: Tensor) -> Registered:
    """Pin a pool's cells, [cells, ...] on the arena's memory, for the current CUDA device."""
    begin = cells.data_ptr()
    found = Registered(begin)
    device = torch.cuda.current_device()
    driver = ctypes.CDLL("libcuda.so.1")

    def pin(address: int, size: int) -> bool:
        code: int = driver.cuMemHostRegister_v2(ctypes.c_void_p(address), ctypes.c_size_t(size), _PORTABLE)
        if code:
            log.warning("cuMemHostRegister says %d for %d bytes", code, size)
        return code == 0

    def run() -> None:
        torch.cuda.set_device(device)
        torch.cuda.current_stream().synchronize()  # the device's context belongs to this thread from here on
        stride = cells.stride(0) * cells.element_size()
        found.register(slices(begin, begin + len(cells) * stride, stride), pin)

    threading.Thread(target=run, name="pinning", daemon=True).start()
    return found
