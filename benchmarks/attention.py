"""What paged attention reaches in the CPU kernels: prompts of 512 to 4,096 tokens, and 32 rows of decode.

    python -m benchmarks.attention [--heads 14 --kv-heads 2 --dim 64] [--prompts 512 1024 2048 4096] [--chunk 512]
        [--rows 32 --context 1024] [--kv-dtype bfloat16] [--threads 1] [--repeats 5] [--without FEATURE...]
        [--with FEATURE...] [--json]

A model of one layer that is as good as nothing but attention computes; of its CPU time, over all threads, the part that
its own clock gives attention counts, so that other processes disturb little. The best of `--repeats` is shown. GFLOP/s
counts four for each query, key at most at its own position, and number of a head. `peak` is what one core reaches with
float32 fused multiply-adds (numpy's product of two large matrices on one thread). `--without amx_bf16` compiles for a
processor that lacks it (features by the kernel's names, /proc/cpuinfo), `--with sse4a` for one that has it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from bus.messages.steps import KvShape
from workers.host import cpu_flags
from workers.kernels import build
from workers.kernels.library import NUMBERS, Batch, Layer, Model, Native, matrix, pointer
from workers.kernels.pack import Packed, pack_floats
from workers.pages import new_pages

PAGE_TOKENS = 16
HIDDEN = 32


@dataclass
class Measured:
    """One line of the table."""

    what: str
    ms: float
    gflop_per_s: float


class Attention:
    """A model of one layer, and pages for one sequence or some rows.

    Args:
        heads, kv_heads, dim: of the layer.
        tokens: that pages hold, of all rows.
        processor: what the library is compiled for.
        threads: that compute.
        kv_dtype: of the pages.
    """

    def __init__(
        self, heads: int, kv_heads: int, dim: int, tokens: int, processor: frozenset[str], threads: int, kv_dtype: str
    ) -> None:
        self._shape = heads, kv_heads, dim
        random = torch.Generator().manual_seed(1)

        def packed(rows: int, inputs: int) -> Packed:
            return pack_floats(torch.randn(rows, inputs, generator=random) / inputs**0.5)

        parts = [packed(heads * dim, HIDDEN), packed(kv_heads * dim, HIDDEN), packed(kv_heads * dim, HIDDEN),
                 packed(HIDDEN, heads * dim), *(packed(HIDDEN, HIDDEN) for _ in range(3))]  # fmt: skip
        embedding, norm, frequencies = packed(64, HIDDEN), torch.ones(HIDDEN), 1e4 ** -(torch.arange(0, dim, 2) / dim)
        layer = Layer(pointer(norm), pointer(norm), *(matrix(part) for part in parts))
        layers = (Layer * 1)(layer)
        model = Model(
            1, HIDDEN, heads, kv_heads, dim, HIDDEN, 64, 0, 1e-6, 0, pointer(frequencies), pointer(norm),
            matrix(embedding), matrix(embedding), layers,
        )  # fmt: skip
        self._kept = parts, embedding, norm, frequencies, layers
        self.native = Native(build.library(processor), model, threads)
        self.pages = new_pages(KvShape(1, kv_heads, PAGE_TOKENS, dim, kv_dtype), -(-tokens // PAGE_TOKENS))

    def step(self, starts: list[int], contexts: list[int]) -> None:
        """Row i computes the tokens from starts[i] to contexts[i] of its sequence; rows lie one after the other."""
        rows, begin = [], 0
        for start, context in zip(starts, contexts, strict=True):
            cells = torch.arange(begin, begin + -(-context // PAGE_TOKENS))
            rows.append((torch.arange(start, context), cells))
            begin += len(cells)
        positions = torch.cat([at for at, _ in rows])
        cells = torch.cat([cells[at // PAGE_TOKENS] for at, cells in rows])
        offsets, ids, tables = positions % PAGE_TOKENS, positions % 64, torch.cat([cells for _, cells in rows])
        row_starts = np.cumsum([0, *(len(at) for at, _ in rows)], dtype=np.int64)
        table_starts = np.cumsum([0, *(len(cells) for _, cells in rows)], dtype=np.int64)
        context_of = np.array(contexts, np.int64)
        cell, layer, value, kv_head = (stride * self.pages.itemsize for stride in self.pages.stride()[:4])
        batch = Batch(
            len(ids), len(rows), pointer(ids), pointer(positions), pointer(cells), pointer(offsets),
            row_starts.ctypes.data, context_of.ctypes.data, pointer(tables), table_starts.ctypes.data,
            pointer(self.pages), cell, layer, value, kv_head, PAGE_TOKENS, NUMBERS[self.pages.dtype],
        )  # fmt: skip
        self.native.forward(batch, torch.empty(len(ids), HIDDEN))

    def seconds(self, steps: list[tuple[list[int], list[int]]]) -> float:
        """Of CPU in attention."""
        before, began = self.native.spent_ns(), time.process_time()
        for starts, contexts in steps:
            self.step(starts, contexts)
        used, after = time.process_time() - began, self.native.spent_ns()
        spent = {part: after[part] - before[part] for part in after}
        return used * spent["attention"] / sum(spent.values())


def peak(repeats: int) -> float:
    """GFLOP/s of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, found = torch.randn(1024, 1024), []
    for _ in range(2 * repeats):
        began = time.process_time()
        a @ a
        found.append(2 * 1024**3 / (time.process_time() - began) / 1e9)
    torch.set_num_threads(threads)
    return max(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=14)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--kv-dtype", default="bfloat16", choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--with", nargs="*", default=[], dest="added")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    processor = (cpu_flags() | set(options.added)) - set(options.without)
    pages = max([*options.prompts, options.rows * (options.context + PAGE_TOKENS)])
    attention = Attention(
        options.heads, options.kv_heads, options.dim, pages, processor, options.threads, options.kv_dtype
    )
    operations, lines = 4 * options.heads * options.dim, []

    def measured(what: str, steps: list[tuple[list[int], list[int]]], pairs: int) -> None:
        seconds = min(attention.seconds(steps) for _ in range(options.repeats))
        lines.append(Measured(what, seconds * 1e3, pairs * operations / seconds / 1e9))

    for prompt in options.prompts:
        steps = [([at], [min(at + options.chunk, prompt)]) for at in range(0, prompt, options.chunk)]
        measured(f"prompt of {prompt}", steps, prompt * (prompt + 1) // 2)
    context = options.context
    rows = ([context - 1] * options.rows, [context] * options.rows)
    measured(f"{options.rows} rows at {context}", [rows] * 4, 4 * options.rows * context)
    lines[-1].ms /= 4
    limit = peak(options.repeats)
    if options.json:
        print(json.dumps({"peak GFLOP/s": limit, "results": [asdict(line) for line in lines]}))
        return
    shape = f"{options.heads} heads over {options.kv_heads} of {options.dim}, KV in {options.kv_dtype}"
    print(f"{shape}, chunks of {options.chunk}, CPU time; ", end="")
    print(f"peak of one core in float32: {limit:.0f} GFLOP/s")
    print(f"{'':20}{'ms':>9}{'GFLOP/s':>10}")
    for line in lines:
        print(f"{line.what:20}{line.ms:9.2f}{line.gflop_per_s:10.0f}")


if __name__ == "__main__":
    main()
