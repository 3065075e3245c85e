"""Which source of logs a host has."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Protocol

from bus.logread.files import FileSource, freshest, log_files
from bus.logread.journald import NAMESPACE, JournalSource, command
from bus.logread.records import LogRecord

Kind = Literal["files", "journal"]
WHOLE_BYTES: Final = 256 << 20
_JOURNALS: Final = (Path("/var/log/journal"), Path("/run/log/journal"))


class Source(Protocol):
    """Where records come from.

    Attributes:
        label: how a screen calls it.
        problem: why nothing comes, and what to do.
        suppressed: lines that were left out before they got here.
    """

    label: str
    problem: str
    suppressed: int

    def poll(self) -> list[LogRecord]:
        """What is new; never waits."""
        ...

    def close(self) -> None:
        """End."""
        ...


def kind_of_host() -> Kind:
    """The journal where there is one of ours and no log file that is newer; else files."""
    journals = [path for root in _JOURNALS if root.is_dir() for path in root.glob(f"*.{NAMESPACE}")]
    newest = max((path.stat().st_mtime for path in journals), default=0.0)
    return "journal" if newest > freshest(log_files()) else "files"


def open_source(kind: Kind | None = None, since_s: float = 0.0, *, follow: bool = True, whole: bool = False) -> Source:
    """A source of this host; `whole` reads more of what there was than a screen needs."""
    if (kind or kind_of_host()) == "journal":
        return JournalSource(command(since_s, follow=follow))
    return FileSource(log_files(), WHOLE_BYTES) if whole else FileSource(log_files())
