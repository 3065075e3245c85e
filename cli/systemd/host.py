"""What this host has to give out: nodes, cores, GPUs, from /sys and /dev."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cli.systemd.placement import Host, Node


def this_host(sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> Host:
    """As the kernel shows it to this process; one node with all cores where it shows none."""
    usable = os.sched_getaffinity(0)
    nodes = []
    for path in sorted((sys / "devices/system/node").glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cpus = tuple(cpu for cpu in cpu_list((path / "cpulist").read_text()) if cpu in usable)
        if cpus:
            nodes.append(Node(int(path.name[4:]), cpus))
    gpus = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in dev.iterdir())
    return Host(tuple(nodes) or (Node(0, tuple(sorted(usable))),), gpus)


def cpu_list(text: str) -> list[int]:
    """`0-3,8` as numbers."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
