"""The memory that outlives every process but its holder: the supervisor holds the arena, so that kv may die."""

from __future__ import annotations

import logging
import os
import select
import signal

from bus.config import KvConfig, parse_size
from bus.memfd import create_memfd
from cli.supervisor.adopt import Survivor
from cli.supervisor.proc import ARENA_NAME, recover_arena
from cli.supervisor.succession import inherited_arena

log = logging.getLogger(__name__)


def hold_arena(kv: KvConfig, inode: int, survivors: dict[str, Survivor]) -> int:
    """The arena of before: handed down by a predecessor, or still held by a survivor. Else a new one, and then a page
    server that has the old one is ended, and is no survivor any more.

    Args:
        inode: of the arena that the survivors were started with; 0 where nobody knows.

    Raises:
        MemoryTooSmall: there is no room for a new one.
    """
    if (fd := inherited_arena()) is not None:
        return fd
    if inode:
        holders = [survivor.process.pid for survivor in survivors.values()]
        if (fd := recover_arena(holders, inode)) is not None:
            log.info("recovered the arena", extra={"bytes": os.fstat(fd).st_size})
            return fd
    fd = create_memfd(ARENA_NAME, parse_size(kv.arena), kv.hugepages)
    if survivors:
        log.warning("the arena is lost with its holders; starting with an empty one")
        for name in [name for name in survivors if name.startswith("kv@")]:
            _end_now(survivors.pop(name).process.pid)
    return fd


def _end_now(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [], 5.0)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
