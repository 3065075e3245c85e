"""Sockets and memory that the service manager made for this process, or kept for it: sd_listen_fds(3).

Under systemd the doors of a process belong to PID 1, so who knocks while the process is being started again waits
instead of being refused. A socket is found by the address it is bound to, anything else by its name. What is taken is a
duplicate: the original stays, so a door can be closed and opened again. Without a service manager nothing is found.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

FIRST: Final = 3  # SD_LISTEN_FDS_START


class Handed(NamedTuple):
    """A descriptor that was there when this process began."""

    fd: int
    name: str


def handed_down(environment: Mapping[str, str] = os.environ) -> tuple[Handed, ...]:
    """All of them, in the manager's order. None where they were meant for another process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = int(environment.get("LISTEN_FDS") or 0)
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))
    return tuple(Handed(FIRST + index, names[index]) for index in range(count))


def named(name: str) -> int | None:
    """The first descriptor of a name, as it is: not a duplicate. None where there is none."""
    return next((handed.fd for handed in handed_down() if handed.name == name), None)


def take_path(path: Path) -> int | None:
    """A listening Unix socket that is bound to `path`; the caller's to close, close-on-exec, not blocking."""
    for handed in handed_down():
        if _address(handed.fd) == str(path):
            return _duplicate(handed.fd)
    return None


def take_port(port: int) -> int | None:
    """A listening TCP socket on `port`, of whatever address; the caller's to close, close-on-exec, not blocking."""
    for handed in handed_down():
        address = _address(handed.fd)
        if isinstance(address, tuple) and address[1] == port:
            return _duplicate(handed.fd)
    return None


def remove(path: Path) -> None:
    """Remove a socket's file after it was closed, unless it is the manager's: behind that, who comes waits for the next
    process."""
    if all(_address(handed.fd) != str(path) for handed in handed_down()):
        path.unlink(missing_ok=True)


def _duplicate(fd: int) -> int:
    # Shared by all who have the socket: the units say NonBlocking=yes, so that no start of a sibling clears it again.
    os.set_blocking(fd, False)
    return os.dup(fd)  # Python's is close-on-exec


def _address(fd: int) -> object:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    with socket.socket(fileno=os.dup(fd)) as known:
        return known.getsockname()
