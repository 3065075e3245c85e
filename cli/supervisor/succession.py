"""A supervisor becomes the next one without ending: the same process, another program.

Its children stay its children, and the arena's descriptor stays open; everything else the next one reads from the state
file, as it would after a crash. Where the program is of a newer release, that is the first step of an upgrade.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from bus.names import SUPERVISOR
from cli.supervisor.children import ARENA_FD_VARIABLE
from cli.supervisor.proc import ARENA_NAME


class Succession(NamedTuple):
    """What the next one needs."""

    executable: str
    config: Path
    arena: int

    def begin(self) -> NoReturn:
        """Become it. To be called when everything that belonged to this one is closed.

        Raises:
            OSError: it cannot be executed.
        """
        os.set_inheritable(self.arena, True)
        sys.stdout.flush()
        sys.stderr.flush()
        command = [self.executable, "-m", "cli.main", "run", SUPERVISOR, "-c", str(self.config)]
        os.execve(self.executable, command, {**os.environ, ARENA_FD_VARIABLE: str(self.arena)})


def inherited_arena() -> int | None:
    """The arena that a predecessor handed down; None where there was none, or the descriptor is something else."""
    given = os.environ.pop(ARENA_FD_VARIABLE, "")
    if not given.isdigit():
        return None
    fd = int(given)
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{ARENA_NAME}"):
            return None
    except OSError:
        return None
    os.set_inheritable(fd, False)
    return fd


def reap() -> None:
    """Children that died between the two: nobody else waits for them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
