"""What alarms need to know of the machine, once a second: processor, memory, room on file systems, crash reports.
Cheap; decides nothing.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bus.blackbox import crashes
from bus.blackbox.crashes import CrashFile
from metrics.core.rules.host import Crash, HostView, Room
from metrics.host import files
from metrics.host.files import CpuTimes

LOOKS: Final = 11  # shares are of the last ten seconds


class Vitals:
    """Of this machine, or of what lies under `root` in a test.

    Args:
        places: (what for, directory) that is written to; one that does not exist is left out.
    """

    def __init__(self, places: Iterable[tuple[str, Path]], root: Path = Path("/")) -> None:
        self._places, self._root = tuple(places), root
        self._looks: deque[dict[int, CpuTimes]] = deque(maxlen=LOOKS)
        self._changed_ns, self._crashes = -1, list[CrashFile]()

    def read(self) -> HostView:
        """As it is now."""
        self._looks.append(files.cpu_times(self._root))
        busy, stolen = self._shares()
        memory = files.memory(self._root)
        waits = next((pressure.full_10s for pressure in files.pressure(self._root) if pressure.what == "memory"), 0.0)
        return HostView(
            len(self._looks[-1]), busy, stolen, memory.get("MemTotal", 0), memory.get("MemAvailable", 0), waits,
            tuple(room for what, path in self._places if (room := _room(what, path)) is not None),
            self._crash_reports(),
        )  # fmt: skip

    def _shares(self) -> tuple[float, float]:
        """Cores in use, and cores that others had, of the time between the looks."""
        before, now = self._looks[0], self._looks[-1]
        busy = stolen = 0.0
        for cpu, times in now.items():
            earlier = before.get(cpu, times)
            if (total := times.total - earlier.total) > 0:
                busy += max(0, times.busy - earlier.busy) / total
                stolen += max(0, times.steal - earlier.steal) / total
        return busy, stolen

    def _crash_reports(self) -> tuple[Crash, ...]:
        """Their directory is read where something was written to it."""
        try:
            changed_ns = crashes.directory().stat().st_mtime_ns
        except OSError:
            changed_ns = -1
        if changed_ns != self._changed_ns:
            self._changed_ns, self._crashes = changed_ns, crashes.found()
        now = time.time()
        return tuple(Crash(file.process, str(file.path), now - file.at) for file in self._crashes)


def _room(what: str, path: Path) -> Room | None:
    try:
        system = os.statvfs(path)
    except OSError:
        return None
    return Room(what, str(path), system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize)
