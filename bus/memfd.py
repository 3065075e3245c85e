"""Anonymous shared memory with an owner: a sealed memfd. No layout here, only bytes.

A memfd has no name to leak or to collide, is not capped by /dev/shm, can be passed over a socket, and lives as long as
anybody holds it. Its size is sealed, so nobody can truncate it under others (which would be SIGBUS for them), and its
memory is reserved at once, so a full host says ENOSPC here and not SIGBUS later.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import resource
from pathlib import Path
from typing import Final, Literal, NamedTuple

log = logging.getLogger(__name__)

_HUGE_PAGE: Final = 2 << 20
_HEADROOM: Final = 256 << 20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryTooSmall(OSError):
    """The host cannot give so much memory. The message says how much there is, and which limit says so."""


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
    room = room_for_memory()
    if size + _HEADROOM > room.bytes:
        raise MemoryTooSmall(
            f"{size >> 20} MiB do not fit: {room.limit} leaves {max(0, room.bytes) >> 20} MiB, and "
            f"{_HEADROOM >> 20} MiB of them are for everything else; ask for less, or raise the limit"
        )
    try:
        return _sealed(name, size, 0)
    except OSError as error:
        hint = " (ulimit -f, the limit on files, counts)" if error.errno == errno.EFBIG else ""
        raise MemoryTooSmall(f"{size >> 20} MiB of shared memory cannot be had: {error.strerror}{hint}") from None


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


class Room(NamedTuple):
    """How much memory can be had, and what sets that limit, in words."""

    bytes: int
    limit: str


def room_for_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Room:
    """The tightest of what the host has available, what each control group around us leaves, and ulimit -v."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    rooms = [Room(int(fields["MemAvailable"].split()[0]) * 1024, "this host (MemAvailable in /proc/meminfo)")]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        rooms.append(Room(address_space, "the limit of the address space (ulimit -v)"))
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        limits: tuple[str, ...]
        if number == "0":
            root, limits, used = cgroups, ("memory.max", "memory.high"), "memory.current"
        elif "memory" in controllers.split(","):
            root, limits, used = cgroups / "memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for level in (group, *group.parents):  # a limit may be on any group above us
            if level.is_relative_to(root):
                rooms += [
                    Room(left, f"control group {level} ({limit})")
                    for limit in limits
                    if (left := _left_of(level, limit, used)) is not None
                ]
    return min(rooms)


def _left_of(group: Path, limit: str, used: str) -> int | None:
    """What a control group leaves; None where it has no limit. File pages that nobody uses make room when asked to."""
    try:
        text = (group / limit).read_text().strip()
        if text == "max":
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        return int(text) - int((group / used).read_text()) + cached
    except (OSError, ValueError):
        return None
