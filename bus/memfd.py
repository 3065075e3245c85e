"""Anonymous shared memory with an owner: a sealed memfd. No layout here, only bytes.

A memfd has no name to leak or to collide, is not capped by /dev/shm, can be passed over a socket, and lives as long as
anybody holds it. Its size is sealed, so nobody can truncate it under others (which would be SIGBUS for them), and its
memory is reserved at once, so a full host says ENOSPC here and not SIGBUS later.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
from pathlib import Path
from typing import Final, Literal

log = logging.getLogger(__name__)

_HUGE_PAGE: Final = 2 << 20
_HEADROOM: Final = 256 << 20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryTooSmall(OSError):
    """The host cannot give so much memory. The message says how much there is."""


def create_memfd(name: str, size: int, hugepages: Literal["auto", "on", "off"] = "auto") -> int:
    """A sealed, fully reserved memfd of `size` bytes (rounded up to 2 MiB); close-on-exec.

    Args:
        name: for /proc/PID/maps.
        hugepages: "auto" takes reserved huge pages where there are enough, "on" refuses to do without.

    Raises:
        MemoryTooSmall: it does not fit into what the host or the control group has left.
    """
    size = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    if hugepages != "off":
        try:
            return _sealed(name, size, os.MFD_HUGETLB)
        except OSError as error:
            needed = size // _HUGE_PAGE
            if hugepages == "on":
                raise MemoryTooSmall(
                    f'hugepages = "on", but {needed} huge pages of 2 MiB cannot be had ({error.strerror}); '
                    f"reserve them with: sysctl vm.nr_hugepages={needed}"
                ) from None
            log.warning(
                "no huge pages for %s: attaching takes a fifth of a second per GiB instead of a millisecond, and "
                "deaths are seen later; sysctl vm.nr_hugepages=%d would do",
                name, needed,
            )  # fmt: skip
    available = _available_bytes()
    if size + _HEADROOM > available:
        raise MemoryTooSmall(
            f"{name} of {size >> 20} MiB does not fit: {available >> 20} MiB are available, "
            f"and {_HEADROOM >> 20} MiB of them are for everything else; lower its size"
        )
    try:
        return _sealed(name, size, 0)
    except OSError as error:
        raise MemoryTooSmall(f"{size >> 20} MiB of shared memory for {name}: {error.strerror}") from None


def exclude_from_core_dumps(address: int, size: int) -> None:
    """MADV_DONTDUMP: prompts do not belong into core files, and gigabytes neither."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), 16) != 0:
        log.debug("madvise: errno %d", ctypes.get_errno())


def _sealed(name: str, size: int, flags: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.posix_fallocate(fd, 0, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _available_bytes() -> int:
    """What the host has available, or what a control group around us leaves, whichever is less."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup")
        if number == "0":
            files = "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root /= "memory"
            files = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for level in (group, *group.parents):  # a limit may be on any group above us
            if level.is_relative_to(root):
                available = min(available, _left_of(level / files[0], level / files[1]))
    return available


def _left_of(limit: Path, used: Path) -> int:
    try:
        text = limit.read_text().strip()
        return 1 << 62 if text == "max" else int(text) - int(used.read_text())
    except (OSError, ValueError):
        return 1 << 62
