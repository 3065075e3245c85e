"""The page server: look-ups, leases and seals over its real socket, and how long an index takes to be made again.

    python -m benchmarks.kv [--json]

The server is a process of its own, the client blocks; both share the machine with whatever else runs, so the median
and the 99th percentile are of the best of several rounds, and the spread between rounds is printed as noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bus.identity import Visitor
from bus.loop import PollLoop
from bus.messages.pages import (
    Attach,
    Done,
    Found,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    Release,
    Seal,
    Sealed,
)  # fmt: skip
from bus.messages.steps import KvShape
from kv.client import attach_blocking, call
from kv.core import Core
from kv.layout import plan_layout, tables

ROUNDS = 5
CALLS = 1_000
BATCH = 64
HEADERS = 100_000
ROOT = b"b" * 16
SHAPE = KvShape(2, 1, 16, 32, "float32")  # 8 KiB: the pages do not matter here


def random_digests(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, 16 * count, dtype=np.uint8).tobytes()


@contextmanager
def server() -> Iterator[Path]:
    """A page server in a run directory of its own."""
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as directory:
        run = Path(directory)
        config = run / "headrace.toml"
        config.write_text('[kv]\narena = "256MiB"\nslab = "8MiB"\nhugepages = "off"\n')
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", "kv@host", "-c", str(config)],
            env={**os.environ, "HEADRACE_RUN": directory}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not (run / "kv@host.pages.sock").exists():
                if process.poll() is not None:
                    raise SystemExit(f"the page server ended with code {process.returncode}")
                time.sleep(0.01)
            yield run
        finally:
            process.terminate()
            process.wait()


class Client:
    """A scheduler that blocks."""

    def __init__(self, run: Path) -> None:
        self.client, _ = attach_blocking(Visitor("client", PollLoop(), run), "scheduler")
        self.rid = 1
        self.pool = call(self.client, OpenPool(self.next(), ROOT, SHAPE), PoolOpened).pool

    def next(self) -> int:
        self.rid += 1
        return self.rid

    def seal(self, digests: bytes) -> Leased:
        """Lease pages and seal them as one chain."""
        leased = call(self.client, Lease(self.next(), self.pool, len(digests) // 16), Leased)
        parents = (ROOT + digests)[: len(digests)]
        call(self.client, Seal(self.next(), self.pool, leased.pages, leased.generations, digests, parents), Sealed)
        return leased

    def release(self, pages: Leased | Found) -> None:
        call(self.client, Release(self.next(), self.pool, pages.pages, pages.generations), Done)


def percentiles(once: Callable[[], int]) -> dict[str, float]:
    """p50 and p99 in microseconds of what `once` measures in nanoseconds."""
    rounds = [np.percentile([once() for _ in range(CALLS)], (50, 99)) / 1e3 for _ in range(ROUNDS)]
    best = min(rounds, key=lambda both: both[0])
    noise = 1 - best[0] / statistics.median(both[0] for both in rounds)
    return {"p50_us": round(best[0], 1), "p99_us": round(best[1], 1), "noise": round(noise, 3)}


def look_ups(client: Client) -> dict[str, float]:
    """Find and pin a chain of 64 blocks that is all there."""
    digests = random_digests(BATCH, 1)
    client.release(client.seal(digests))

    def once() -> int:
        message = Lookup(client.next(), client.pool, digests)
        began = time.perf_counter_ns()
        found = call(client.client, message, Found)
        ended = time.perf_counter_ns()
        assert len(found.pages) == 4 * BATCH
        client.release(found)
        return ended - began

    return percentiles(once)


def leases_and_seals(client: Client) -> dict[str, float]:
    """Lease 64 pages and seal them: two round trips. The arena is full after a while, so leases evict."""
    seed = 2

    def once() -> int:
        nonlocal seed
        seed += 1
        digests = random_digests(BATCH, seed)
        began = time.perf_counter_ns()
        leased = client.seal(digests)
        ended = time.perf_counter_ns()
        client.release(leased)
        return ended - began

    return percentiles(once)


def rebuilds() -> dict[str, float]:
    """Make the index of 100,000 cached pages again, from headers in plain memory."""
    layout = plan_layout(HEADERS * (32 << 10) + (64 << 20), 32 << 20)
    memory = bytearray(layout.data_offset)
    core = Core(layout, tables(memory, layout), 1)
    session = core.attach(Attach(1, "scheduler@bench", 1, "scheduler"), 1)
    opened = core.handle(session, OpenPool(2, ROOT, KvShape(2, 1, 16, 128, "float32")))
    assert isinstance(opened, PoolOpened)
    for rid in range(0, HEADERS // BATCH * 3 + 3, 3):
        leased = core.handle(session, Lease(rid, opened.pool, BATCH))
        assert isinstance(leased, Leased)
        digests = random_digests(BATCH, rid)
        parents = (ROOT + digests)[: 16 * BATCH]
        core.handle(session, Seal(rid + 1, opened.pool, leased.pages, leased.generations, digests, parents))
        core.handle(session, Release(rid + 2, opened.pool, leased.pages, leased.generations))
    seconds = []
    gc.disable()  # as the server does
    for epoch in range(ROUNDS):
        began = time.perf_counter()
        again = Core(layout, tables(memory, layout), epoch + 2, settling=True)
        seconds.append(time.perf_counter() - began)
        assert again.stats().pools[0].cached >= HEADERS
    gc.enable()
    return {"best_ms": round(min(seconds) * 1e3), "noise": round(1 - min(seconds) / statistics.median(seconds), 3)}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with server() as run:
        client = Client(run)
        results = {
            f"look up {BATCH} blocks": look_ups(client),
            f"lease and seal {BATCH} pages": leases_and_seals(client),
        }
    results[f"make an index of {HEADERS} pages again"] = rebuilds()
    if arguments.json:
        print(json.dumps(results))
        return 0
    table = Table("", "p50 µs", "p99 µs", "best ms", "noise", title="page server")
    for name, row in results.items():
        columns = [f"{row[key]:g}" if key in row else "" for key in ("p50_us", "p99_us", "best_ms")]
        table.add_row(name, *columns, f"{row['noise']:.1%}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
