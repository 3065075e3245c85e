"""The disk tier: how much of the device it uses, and what a prompt costs from disk, from memory, and computed.

    python -m benchmarks.kv_disk [--directory DIR] [--model catalog:smollm2-135m-instruct] [--json]

Pages go to and come from a page server of its own, in the sizes of real models; the raw device is measured beside it,
with direct I/O in the same sizes. Then a whole stack answers prompts of 1,400 tokens: computed, again, and again after
everything was stopped and started anew. The best of several rounds counts; the noise is how far the median is off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from bus.identity import Visitor
from bus.loop import PollLoop
from bus.messages.pages import (
    Done,
    Found,
    FromKv,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    Prefetch,
    Release,
    Seal,
    Sealed,
    Stats,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.names import models_directory
from bus.seqpacket import PacketClient
from kv.client import ArenaMap, attach_blocking, call
from kv.disk.tier import BATCH_BYTES, READERS

ROUNDS = 5
TOTAL = 768 << 20
ROOT = b"d" * 16
SHAPES = {  # pages of 16 tokens
    "SmolLM2-135M, float32": KvShape(30, 3, 16, 64, "float32"),
    "Llama-3.1-8B, bfloat16": KvShape(32, 8, 16, 128, "bfloat16"),
}
PROMPT_TOKENS = 1_400
PROMPTS = 4


class Server:
    """A page server with a disk tier, and a scheduler that blocks."""

    def __init__(self, home: Path, disk: Path) -> None:
        config = home / "headrace.toml"
        config.write_text(
            f'[kv]\narena = "{(TOTAL >> 20) + 256}MiB"\nhugepages = "off"\ndisk = "4GiB"\ndisk_path = "{disk}"\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", "kv@host", "-c", str(config)],
            env={**os.environ, "HEADRACE_RUN": str(home)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.client, self.arena = self.attach(Visitor("client", PollLoop(), home))
        self.rid = 1

    def attach(self, me: Visitor) -> tuple[PacketClient[FromKv], ArenaMap]:
        """As soon as it listens."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                client, arena = attach_blocking(me, "scheduler")
                assert arena is not None
                return client, arena
            time.sleep(0.01)
        raise SystemExit(f"the page server ended with code {self.process.returncode}")

    def next(self) -> int:
        self.rid += 1
        return self.rid

    def stats(self) -> Stats:
        return call(self.client, StatsQuery(self.next()), Stats)

    def round(self, shape: KvShape, seed: int) -> tuple[float, float]:
        """GB/s of pages on their way to disk, and of pages on their way back."""
        pool = call(self.client, OpenPool(self.next(), ROOT, shape), PoolOpened)
        count = TOTAL // pool.stride
        leased = call(self.client, Lease(self.next(), pool.pool, count), Leased)
        grid = self.arena.page_grid(pool, shape.page_bytes)
        noise = np.random.default_rng(seed).integers(0, 256, shape.page_bytes, dtype=np.uint8)
        for page in np.frombuffer(leased.pages, np.uint32).tolist():
            grid[page] = noise  # devices and file systems may know zeros
        digests = np.random.default_rng(seed).integers(0, 256, 16 * count, dtype=np.uint8).tobytes()
        handles = leased.pages, leased.generations
        call(self.client, Seal(self.next(), pool.pool, *handles, digests, (ROOT + digests)[: 16 * count]), Sealed)
        before = self.stats().disk_writes_total
        began = time.perf_counter()
        call(self.client, Release(self.next(), pool.pool, *handles), Done)
        while self.stats().disk_writes_total < before + count:
            time.sleep(0.002)
        written_s = time.perf_counter() - began
        while (lease := call(self.client, Lease(self.next(), pool.pool, 4096), Leased)).evicted:
            call(self.client, Release(self.next(), pool.pool, lease.pages, lease.generations), Done)
        call(self.client, Release(self.next(), pool.pool, lease.pages, lease.generations), Done)
        assert call(self.client, Lookup(self.next(), pool.pool, digests), Found).ahead == count
        began = time.perf_counter()
        answer = self.client.call(Prefetch(self.next(), pool.pool, digests, 60_000), timeout_s=60)
        read_s = time.perf_counter() - began
        assert isinstance(answer, Found)
        assert len(answer.pages) == 4 * count
        call(self.client, Release(self.next(), pool.pool, answer.pages, answer.generations), Done)
        size = count * pool.stride
        return size / written_s / 1e9, size / read_s / 1e9


def raw(directory: Path, size: int) -> tuple[float, float]:
    """GB/s of the device: writes as the tier's, one after the other; reads of `size` by as many threads as it has."""
    path = directory / "raw"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    try:
        os.posix_fallocate(fd, 0, TOTAL)
        block = mmap.mmap(-1, BATCH_BYTES)
        block[:] = os.urandom(BATCH_BYTES)
        began = time.perf_counter()
        for offset in range(0, TOTAL, BATCH_BYTES):
            os.pwrite(fd, block, offset)
        written_s = time.perf_counter() - began
        offsets = iter(range(0, TOTAL - size + 1, size))

        def read() -> int:
            mine, count = mmap.mmap(-1, size), 0
            for offset in offsets:
                count += os.preadv(fd, [mine], offset)
            return count

        with ThreadPoolExecutor(READERS) as threads:
            began = time.perf_counter()
            count = sum(threads.map(lambda _: read(), range(READERS)))
            read_s = time.perf_counter() - began
    finally:
        os.close(fd)
        path.unlink()
    return TOTAL / written_s / 1e9, count / read_s / 1e9


def throughput(directory: Path) -> list[dict[str, Any]]:
    """The tier against the device, round by round in turns, so that both see the same neighbours."""
    rows = []
    for name, shape in SHAPES.items():
        tier: list[tuple[float, float]] = []
        device: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory(prefix="hr-bench-") as home:
            server = Server(Path(home), directory / "pages")
            try:
                for seed in range(ROUNDS):
                    device.append(raw(directory, shape.page_bytes))
                    tier.append(server.round(shape, seed))
            finally:
                server.process.terminate()
                server.process.wait()
        for way, what in enumerate(("written", "read")):
            ours, theirs = [row[way] for row in tier], [row[way] for row in device]
            rows.append(
                {
                    "what": f"{name}: {what}",
                    "GB/s": round(max(ours), 2),
                    "device GB/s": round(max(theirs), 2),
                    "share": round(max(ours) / max(theirs), 2),
                    "noise": round(1 - statistics.median(ours) / max(ours), 2),
                }
            )
    return rows


@contextlib.contextmanager
def stack(home: Path, model: str, disk: Path) -> Iterator[str]:
    """A whole stack; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = home / "headrace.toml"
    config.write_text(
        f'[ingress]\nhttp = "127.0.0.1:{port}"\n\n'
        f'[cache]\nexact = false\n[kv]\narena = "1536MiB"\nhugepages = "off"\ndisk = "4GiB"\ndisk_path = "{disk}"\n\n'
        f'[[model]]\nname = "m"\nsource = "{model}"\ndtype = "float32"\n'
    )
    environment = {**os.environ, "HEADRACE_RUN": str(home / "r"), "HEADRACE_STATE": str(home / "s")}
    environment.setdefault("HEADRACE_MODELS", str(models_directory()))
    headrace = [sys.executable, "-m", "cli.main"]
    subprocess.run([*headrace, "up", "--detach", "-c", str(config)], env=environment, check=True, capture_output=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*headrace, "down"], env=environment, check=True, capture_output=True)


def first_token_s(url: str, seed: int) -> float:
    """Time to the first token of a prompt that no other seed shares a block with."""
    prompt = np.random.default_rng(seed).integers(100, 20_000, PROMPT_TOKENS).tolist()
    body = {"model": "m", "prompt": prompt, "max_tokens": 4, "temperature": 0, "stream": True}
    began = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
        answer.raise_for_status()
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        next(lines)
        took = time.perf_counter() - began
        for _ in lines:
            pass
    return took


def prompts(directory: Path, model: str) -> list[dict[str, Any]]:
    """Time to the first token of the same prompts, wherever their KV is."""
    seeds = range(1, PROMPTS + 1)
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as place:
        home, disk = Path(place), directory / "pages"
        with stack(home, model, disk) as url:
            first_token_s(url, 99)  # buffers are made, step times are learned
            computed = [first_token_s(url, seed) for seed in seeds]
            again = [first_token_s(url, seed) for seed in seeds]
        with stack(home, model, disk) as url:
            first_token_s(url, 98)
            from_disk = [first_token_s(url, seed) for seed in seeds]
    return [
        {
            "what": f"first token of {PROMPT_TOKENS} tokens, {what}",
            "ms": round(min(times) * 1e3, 1),
            "noise": round(1 - min(times) / statistics.median(times), 2),
        }
        for what, times in (("computed", computed), ("from disk", from_disk), ("from memory", again))
    ]


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the disk to be measured")
    parser.add_argument("--model", default="catalog:smollm2-135m-instruct")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-bench-", dir=arguments.directory) as place:
        moved = throughput(Path(place))
    with tempfile.TemporaryDirectory(prefix="hr-bench-", dir=arguments.directory) as place:
        answered = prompts(Path(place), arguments.model)
    if arguments.json:
        print(json.dumps(moved + answered))
        return 0
    for title, rows in (("disk tier", moved), ("prompts", answered)):
        table = Table(*rows[0], title=title)
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
