"""What the kernel's files say, as numbers. Each function reads; what cannot be read is left out, never an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bus.messages.details import Node, Pressure

_KIB: Final = 1024


class CpuTimes(NamedTuple):
    """Of one logical CPU since boot, in ticks."""

    busy: int
    steal: int
    total: int


def text(path: Path) -> str:
    """A file, or nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def number(path: Path, default: int = 0) -> int:
    """A file with one number in it."""
    said = text(path).strip()
    return int(said) if said.isdigit() else default


def cpu_times(root: Path) -> dict[int, CpuTimes]:
    """By logical CPU. What waits for a disk is idle."""
    times = {}
    for line in text(root / "proc/stat").splitlines():
        name, _, rest = line.partition(" ")
        if not name.startswith("cpu"):
            break  # the counts of every interrupt follow, a long line
        if name == "cpu":
            continue
        # user nice system idle iowait irq softirq steal; guests are in user already
        ticks = [int(word) for word in rest.split()[:8]]
        ticks += [0] * (8 - len(ticks))
        total = sum(ticks)
        times[int(name[3:])] = CpuTimes(total - ticks[3] - ticks[4] - ticks[7], ticks[7], total)
    return times


def memory(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes, counts of huge pages as counts."""
    return _meminfo(text(root / "proc/meminfo"))


def _meminfo(said: str) -> dict[str, int]:
    found = {}
    for line in said.splitlines():
        name, _, value = line.partition(":")
        if words := value.split():
            found[name.split()[-1]] = int(words[0]) * (_KIB if len(words) > 1 else 1)
    return found


def nodes(root: Path) -> tuple[Node, ...]:
    """NUMA nodes by number; empty where the kernel knows of none."""
    found = []
    for directory in (root / "sys/devices/system/node").glob("node[0-9]*"):
        known = _meminfo(text(directory / "meminfo"))
        cpus = text(directory / "cpulist").strip()
        found.append(Node(int(directory.name[4:]), cpus, known.get("MemTotal", 0), known.get("MemFree", 0)))
    return tuple(sorted(found, key=lambda node: node.node))


def parse_list(said: str) -> Iterator[int]:
    """Numbers of a kernel's list: "0-3,8" is 0 1 2 3 8."""
    for part in said.strip().split(","):
        first, dash, last = part.partition("-")
        if first.isdigit():
            yield from range(int(first), int(last if dash else first) + 1)


def as_list(numbers: set[int]) -> str:
    """The inverse of `parse_list`."""
    parts: list[str] = []
    ordered = sorted(numbers)
    start = 0
    for at, value in enumerate(ordered):
        if at + 1 == len(ordered) or ordered[at + 1] != value + 1:
            first = ordered[start]
            parts.append(f"{first}" if first == value else f"{first}-{value}")
            start = at + 1
    return ",".join(parts)


def clocks(root: Path, cpu: int) -> tuple[int, int]:
    """MHz now and at most; 0 where the kernel does not say."""
    directory = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
    return number(directory / "scaling_cur_freq") // 1000, number(directory / "cpuinfo_max_freq") // 1000


def pressure(root: Path) -> tuple[Pressure, ...]:
    """PSI, as far as the kernel has it."""
    found = []
    for what in ("cpu", "memory", "io"):
        shares = {}
        for line in text(root / f"proc/pressure/{what}").splitlines():
            kind, *fields = line.split()
            for field in fields:
                name, _, value = field.partition("=")
                if name in ("avg10", "avg60"):
                    shares[kind, name] = float(value) / 100
        if shares:
            found.append(
                Pressure(
                    what, shares.get(("some", "avg10"), 0.0), shares.get(("some", "avg60"), 0.0),
                    shares.get(("full", "avg10"), 0.0), shares.get(("full", "avg60"), 0.0),
                )
            )  # fmt: skip
    return tuple(found)


def load(root: Path) -> tuple[float, float, float]:
    """Load averages of one, five and fifteen minutes."""
    words = text(root / "proc/loadavg").split()
    return (float(words[0]), float(words[1]), float(words[2])) if len(words) >= 3 else (0.0, 0.0, 0.0)


def uptime_s(root: Path) -> float:
    """Since boot."""
    words = text(root / "proc/uptime").split()
    return float(words[0]) if words else 0.0


def processor(root: Path) -> str:
    """Name of the first CPU; empty where the kernel has none for it."""
    for line in text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
        if not line:
            break
    return ""
