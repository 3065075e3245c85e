"""Looks at the machine: a short look every second, the rest when somebody asks, and then not twice in a second."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bus.messages.details import Core, Gpu, Memory, Node, Pressure
from metrics.host import files
from metrics.host.files import CpuTimes
from metrics.host.nvml import Nvml
from metrics.host.places import Place, memfd_bytes, place, private_bytes

LOOKS: Final = 6  # shares are of the last five seconds
FRESH_NS: Final = 900_000_000


class Machine(NamedTuple):
    """The machine as of one moment. `places` by pid."""

    host: str
    kernel: str
    processor: str
    up_s: float
    cores: tuple[Core, ...]
    nodes: tuple[Node, ...]
    memory: Memory
    load: tuple[float, float, float]
    pressure: tuple[Pressure, ...]
    gpus: tuple[Gpu, ...]
    gpu_trouble: str
    places: dict[int, Place]


class Watch(Protocol):
    """What answers need to know of a machine."""

    def read(self, processes: Iterable[tuple[str, int]], arena_bytes: int, now_ns: int) -> Machine:
        """Everything, with where these processes (name, pid) are."""
        ...

    def private(self, pids: Iterable[int]) -> dict[int, int]:
        """Memory of each process that is its own, in bytes."""
        ...

    def memory_files(self, pid: int) -> int:
        """What the kernel has given to the memory files of a process, in bytes."""
        ...


class HostWatch:
    """Of this machine, or of what lies under `root` in a test."""

    def __init__(self, nvml: Nvml, root: Path = Path("/")) -> None:
        self._nvml, self._root = nvml, root
        self._looks: deque[dict[int, CpuTimes]] = deque(maxlen=LOOKS)
        self._processor = files.processor(root) or platform.machine()
        self._known: Machine | None = None
        self._known_ns = 0
        nvml.read({})

    def close(self) -> None:
        """End."""
        self._nvml.close()

    def look(self) -> None:
        """The look of every second."""
        self._looks.append(files.cpu_times(self._root))

    def read(self, processes: Iterable[tuple[str, int]], arena_bytes: int, now_ns: int) -> Machine:
        """Everything, with where these processes (name, pid) are."""
        if self._known is None or now_ns - self._known_ns > FRESH_NS:
            self._known, self._known_ns = self._read(dict(processes), arena_bytes), now_ns
        return self._known

    def private(self, pids: Iterable[int]) -> dict[int, int]:
        """Memory of each process that is its own, in bytes."""
        return {pid: private_bytes(self._root, pid) for pid in pids}

    def memory_files(self, pid: int) -> int:
        """What the kernel has given to the memory files of a process, in bytes."""
        return memfd_bytes(self._root, pid)

    def _read(self, processes: dict[str, int], arena_bytes: int) -> Machine:
        root, uname = self._root, os.uname()
        nodes = files.nodes(root)
        places = {pid: place(root, pid) for pid in processes.values()}
        gpus, trouble = self._nvml.read({pid: name for name, pid in processes.items()})
        return Machine(
            host=uname.nodename,
            kernel=f"{uname.sysname} {uname.release}",
            processor=self._processor,
            up_s=files.uptime_s(root),
            cores=self._cores(nodes, processes, places),
            nodes=nodes,
            memory=_memory(files.memory(root), arena_bytes),
            load=files.load(root),
            pressure=files.pressure(root),
            gpus=gpus,
            gpu_trouble=trouble,
            places=places,
        )

    def _cores(self, nodes: tuple[Node, ...], processes: dict[str, int], places: dict[int, Place]) -> tuple[Core, ...]:
        node_of = {cpu: node.node for node in nodes for cpu in files.parse_list(node.cpus)}
        if not self._looks:
            self.look()
        before, now = self._looks[0], self._looks[-1]
        running: dict[int, list[str]] = {}
        pinned: dict[int, list[str]] = {}
        for name, pid in sorted(processes.items()):
            where = places[pid]
            running.setdefault(where.cpu, []).append(name)
            if len(where.cpus) < len(now):
                for cpu in where.cpus:
                    pinned.setdefault(cpu, []).append(name)
        return tuple(
            Core(
                cpu, node_of.get(cpu, 0), *_shares(before.get(cpu, times), times), *files.clocks(self._root, cpu),
                tuple(running.get(cpu, ())), tuple(pinned.get(cpu, ())),
            )
            for cpu, times in now.items()
        )  # fmt: skip


def _shares(before: CpuTimes, now: CpuTimes) -> tuple[float, float]:
    """Busy and stolen, of the time between."""
    total = now.total - before.total
    if total <= 0:
        return 0.0, 0.0
    return max(0, now.busy - before.busy) / total, max(0, now.steal - before.steal) / total


def _memory(said: dict[str, int], arena_bytes: int) -> Memory:
    def of(name: str) -> int:
        return said.get(name, 0)

    return Memory(
        total=of("MemTotal"),
        available=of("MemAvailable"),
        cached=of("Cached") + of("Buffers"),
        shared=of("Shmem"),
        swap_total=of("SwapTotal"),
        swap_used=of("SwapTotal") - of("SwapFree"),
        huge_page_bytes=of("Hugepagesize"),
        huge_total=of("HugePages_Total"),
        huge_free=of("HugePages_Free"),
        arena=arena_bytes,
    )
