"""What it costs to account for requests: CPU time of each part alone, in this process.

    python -m benchmarks.accounting [--rows 64]

| part    | where                  | how often |
|---------|------------------------|-----------|
| split   | scheduler              | a step    |
| effort  | worker                 | a step    |
| record  | ingress, with its file | a request |
| ledger  | metrics, with its disk | a request, in batches of 100 |
| spans, exemplars | metrics       | a request |
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bus.messages.steps import StepPlan
from bus.messages.telemetry import TimelineEvent
from bus.messages.usage import UsageRecord
from bus.packed import pack_u32
from bus.telemetry import Telemetry
from ingress.accounts import Accounts, Used, Whose
from ingress.spool import MAX_RECORDS, Spool
from metrics.core.exemplars import Exemplars
from metrics.core.traces import spans
from metrics.ledger.database import Database
from scheduler.core.replica import Flight, Replica
from scheduler.core.shares import bill
from scheduler.core.state import Limits, State
from workers.step.effort import Effort


def microseconds(run: Callable[[int], object], times: int) -> float:
    """CPU time of one run."""
    run(0)
    began = time.process_time()
    for number in range(1, times + 1):
        run(number)
    return (time.process_time() - began) / times * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="of a step")
    rows = parser.parse_args().rows

    state, replica = State(Limits(model="m")), Replica(0, rows, 512, 4096, 16)
    for n in range(100):
        replica.cost.observe(n + 1, 1000.0 * (n * n % 97), 1_000_000 + 10_000 * n)
    slots, ones = np.arange(rows), np.ones(rows, np.int64)
    flight = Flight(1, slots, slots + 100, ones, slots, rows, 1.0, 0.0)
    live = np.ones(rows, np.bool_)
    step = microseconds(lambda _: bill(state, replica, flight, live, 20_000_001), 2000)
    print(f"split     {step:7.2f} us a step of {rows} rows, {step / rows:.3f} a token")

    plan = StepPlan(1, b"", (), pack_u32(slots), pack_u32(slots + 99), pack_u32(ones), b"\x01" * rows, b"", b"", b"")
    effort = Effort(1, 1, 1, 1, 1, 1, "int8", "float32")
    step = microseconds(lambda _: effort.of(plan), 2000)
    print(f"effort    {step:7.2f} us a step, {step / rows:.3f} a token")

    events = tuple(
        TimelineEvent(7, at * 1_000_000, kind)  # type: ignore[arg-type]
        for at, kind in enumerate(("received", "queued", "admitted", "chunk", "first_token", "finished"))
    )
    exemplars = Exemplars()
    print(f"exemplars {microseconds(lambda n: exemplars.take(n, 'm', events), 2000):7.2f} us a request")
    print(f"spans     {microseconds(lambda n: spans(n, 'm', events), 2000):7.2f} us a request, where it is traced")

    with tempfile.TemporaryDirectory(dir="/dev/shm") as run, tempfile.TemporaryDirectory() as disk:
        accounts = Accounts(Spool(Path(run), "ingress@0", 1), lambda _: True, Telemetry())
        used = Used(0, Whose("m", "", "", True), "stop", 10, 0, 20, time.monotonic_ns(), (1, 1))
        times = min(5000, MAX_RECORDS - 1)
        print(f"record    {microseconds(lambda n: accounts.ended(used._replace(request=n)), times):7.2f} us a request")
        database = Database(Path(disk), "boot")
        now_ms = time.time_ns() // 1_000_000

        def write(batch: int) -> None:
            database.write(
                UsageRecord(batch * 100 + n, now_ms, "m", "", "", "stop", 10, 0, 20, 1, 1) for n in range(100)
            )

        print(f"ledger    {microseconds(write, 50) / 100:7.2f} us a request")


if __name__ == "__main__":
    main()
