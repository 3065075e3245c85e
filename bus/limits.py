"""Open files: every connection and every stream is one, and the usual soft limit of 1024 is from another time."""

from __future__ import annotations

import contextlib
import resource


def raise_open_files() -> None:
    """Raise this process's soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a hard limit above what the kernel allows anybody
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def too_few_open_files(needed: int, what_for: str) -> str:
    """What is wrong where the limit is below `needed`; empty where it is not."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ""
    return (
        f"{what_for} needs {needed} open files, and the limit is {limit}: "
        "raise it (ulimit -Hn; LimitNOFILE= under systemd), or ask for less"
    )
