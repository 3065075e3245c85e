"""What a running stack costs while nobody asks it anything: CPU and wake-ups of each process.

    headrace up --detach
    python -m benchmarks.idle [--seconds 20] [--limit 1.0] [--json]

Exit code 1 where a process uses more than the limit, in percent of one core. CPU time is the kernel's, so neighbours
make it no larger; the noise is its granularity, 10 ms on most kernels. Wake-ups are voluntary context switches of all
threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import NamedTuple

import psutil

from cli.control import running_names

SETTLE_S = 3.0  # after a start things are still told and asked


class Cost(NamedTuple):
    """One process, over the time that was watched."""

    name: str
    cpu_percent: float
    wakeups_per_s: float
    resident_mib: float


def watch(seconds: float) -> list[Cost]:
    """Look at every process of this run directory, twice."""
    processes = {name: psutil.Process(pid) for name, pid in running_names().items()}
    time.sleep(SETTLE_S)
    before = {name: (_cpu_s(process), _switches(process)) for name, process in processes.items()}
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [
        Cost(
            name,
            100 * (_cpu_s(process) - before[name][0]) / passed,
            (_switches(process) - before[name][1]) / passed,
            process.memory_info().rss / 2**20,
        )
        for name, process in processes.items()
    ]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _switches(process: psutil.Process) -> int:
    """Of all threads; psutil counts those of the first one only."""
    found = 0
    for thread in process.threads():
        with open(f"/proc/{process.pid}/task/{thread.id}/status") as status:
            found += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--limit", type=float, default=1.0, help="percent of a core that a process may use")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not running_names():
        print("nothing runs here; start with: headrace up --detach", file=sys.stderr)
        return 1
    costs = watch(given.seconds)
    if given.json:
        print(json.dumps([cost._asdict() for cost in costs]))
    else:
        print(f"{'process':<24}{'CPU':>8}{'wake-ups/s':>12}{'resident':>12}")
        for cost in costs:
            print(f"{cost.name:<24}{cost.cpu_percent:7.2f}%{cost.wakeups_per_s:12.1f}{cost.resident_mib:8.0f} MiB")
        print(f"{'all':<24}{sum(cost.cpu_percent for cost in costs):7.2f}%")
    return 1 if any(cost.cpu_percent > given.limit for cost in costs) else 0


if __name__ == "__main__":
    sys.exit(main())
