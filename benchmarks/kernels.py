"""What the CPU kernels reach: products of one matrix by 1 to 512 tokens, beside what the machine can do.

    python -m benchmarks.kernels [--threads 2] [--inputs 896 --outputs 4864] [--bits 4 8 16] [--tokens 1 8 512] [--json]

The matrix is one of several copies that are used in turn, together larger than the caches, so decode reads memory as
it does in a model. GB/s counts weights (codes and scales), GFLOP/s two for each weight and token. The ceilings are
measured by the same threads: `read` sums up 256 MiB, `bfloat16` is torch's own product of two large matrices
(oneDNN). The best of `--repeats` counts: noise only ever adds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from workers.host import cpu_flags
from workers.kernels import build
from workers.kernels.library import Model, Native
from workers.kernels.pack import Packed, pack_codes, pack_floats
from workers.weights.codes import Codes

COPIES_BYTES = 192 << 20  # of weights in turn
FORMS = {4: "Q4_K", 5: "Q5_0", 6: "Q6_K", 8: "Q8_0", 16: "bfloat16", 32: "float32"}


@dataclass
class Measured:
    """One line of the table."""

    bits: int
    tokens: int
    us: float
    gb_per_s: float
    gflop_per_s: float


def matrix(bits: int, rows: int, inputs: int, random: np.random.Generator) -> Packed:
    """Random weights, as a file of that form has them."""
    if bits >= 16:
        dtype = torch.bfloat16 if bits == 16 else torch.float32
        return pack_floats(torch.from_numpy(random.standard_normal((rows, inputs), np.float32)).to(dtype))
    group = 16 if bits == 6 else 32
    scales = random.random((rows, inputs // group), np.float32) / np.float32(100)
    mins, offset = (np.float32(-8) * scales, 0) if bits == 4 else (None, 1 << (bits - 1))
    codes = random.integers(0, 1 << bits, (rows, inputs), np.uint8)
    return pack_codes(Codes(bits, group, offset, codes, scales, mins))


def best(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of so many runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measure(native: Native, packed: Packed, tokens: int, repeats: int) -> Measured:
    """One product of `tokens` activations, each time by another copy of the matrix."""
    held = packed.data.numel()
    copies = [packed, *(replace(packed, data=packed.data.clone()) for _ in range(COPIES_BYTES // held))]
    turn = itertools.cycle(copies)
    x, out = torch.randn(tokens, packed.inputs), torch.empty(tokens, packed.rows)
    at_once = len(copies) if tokens <= 32 else 1

    def run() -> None:
        for _ in range(at_once):
            native.linear(next(turn), x, out)

    seconds = best(run, repeats) / at_once
    operations = 2 * packed.rows * packed.inputs * tokens
    return Measured(packed.bits, tokens, seconds * 1e6, held / seconds / 1e9, operations / seconds / 1e9)


def ceilings(repeats: int) -> dict[str, float]:
    """GB/s of reading, and GFLOP/s of torch's bfloat16 product."""
    memory = torch.ones(256 << 17, dtype=torch.int16)
    a, b = torch.randn(1024, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    return {
        "read GB/s": memory.numel() * 2 / best(memory.max, repeats) / 1e9,
        "bfloat16 GFLOP/s": 2 * 1024 * 2048 * 2048 / best(lambda: a @ b, repeats) / 1e9,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--inputs", type=int, default=896)
    parser.add_argument("--outputs", type=int, default=4864)
    parser.add_argument("--bits", type=int, nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 32, 512])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(hidden=options.inputs, intermediate=options.inputs, heads=1, kv_heads=1, head_dim=64)
    native = Native(build.library(cpu_flags()), model, options.threads)
    random = np.random.default_rng(0)
    limits = ceilings(options.repeats)
    lines = []
    for bits in options.bits:
        packed = matrix(bits, options.outputs, options.inputs, random)
        lines += [measure(native, packed, tokens, options.repeats) for tokens in options.tokens]
    if options.json:
        print(json.dumps({"ceilings": limits, "results": [asdict(line) for line in lines]}))
        return
    print(f"{options.inputs} inputs, {options.outputs} outputs, {options.threads} threads;", end=" ")
    print(", ".join(f"{name} {value:.0f}" for name, value in limits.items()))
    print(f"{'':10}{'tokens':>7}{'us':>10}{'GB/s':>8}{'GFLOP/s':>10}")
    for line in lines:
        print(f"{FORMS[line.bits]:10}{line.tokens:7}{line.us:10.0f}{line.gb_per_s:8.1f}{line.gflop_per_s:10.0f}")


if __name__ == "__main__":
    main()
