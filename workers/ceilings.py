"""What this host can do at most: memory bandwidth, and products of matrices by type of number. A process of its own.

    python -m workers.ceilings      run by `headrace bench --ceilings`; prints what it writes into the state directory

All cores work at once, each thing is done for some tenths of a second, and the best run counts: noise only ever takes.
Products are oneDNN's by torch, the fastest that is at hand whatever computes the models.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec
import torch

from bus.ceilings import Ceilings, cores, processor, save

READ_BYTES: Final = 256 << 20  # beyond any cache
SIDE: Final = 2048  # of the matrices
FOR_S: Final = 0.5  # each measurement
LEAST: Final = 3  # runs of it


def measure() -> Ceilings:
    """All of it; takes some three seconds."""
    torch.set_num_threads(cores())
    memory = torch.ones(READ_BYTES // 2, dtype=torch.int16)
    seconds = min(best(memory.max), best(memory.view(torch.int64).sum), best(memory.view(torch.int32).max))
    del memory
    floats = torch.randn(SIDE, SIDE)
    halves, codes = floats.bfloat16(), torch.randint(-127, 128, (SIDE, SIDE), dtype=torch.int8)
    products: dict[str, Callable[[], object]] = {
        "int8": lambda: torch._int_mm(codes, codes),
        "bfloat16": lambda: halves @ halves,
        "float32": lambda: floats @ floats,
    }
    operations = {kind: 2.0 * SIDE**3 / best(product) for kind, product in products.items()}
    return Ceilings(processor(), cores(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), READ_BYTES / seconds,
                    operations)  # fmt: skip


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest run, after one to warm up."""
    run()
    seconds: list[float] = []
    until = time.perf_counter() + FOR_S
    while len(seconds) < LEAST or time.perf_counter() < until:
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> int:
    """Measure, write, print."""
    found = measure()
    try:
        save(found)
    except OSError as error:
        print(f"what was measured cannot be written to {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
