"""What the GPU's kernels reach of what the GPU can do.

    python -m benchmarks.gpu [--only decode] [--json]

First the ceilings are measured: GB/s of a copy of 2 GiB, counting what is read and written, and TFLOP/s of torch's
product of two large matrices, in bfloat16 and, where the GPU has that, in FP8. Then each kernel is compared with torch,
and timed alone, its launches played back by a CUDA graph, with the caches flushed before each. The best of `--repeats`
counts: noise only ever adds. Without an NVIDIA GPU it refuses: what Triton's interpreter on a CPU takes says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

EXIT_UNAVAILABLE = 69
_FLUSH_BYTES = 256 << 20  # more than the caches of any GPU there is


class Ceilings(NamedTuple):
    """Of this GPU, measured."""

    copy_gb_per_s: float
    bf16_tflop_per_s: float
    fp8_tflop_per_s: float = 0.0  # 0 where there are no products of FP8


def best_seconds(run: Callable[[], object], repeats: int, *, flushed: bool) -> float:
    """Seconds of the fastest of so many runs, by the GPU's clock; played back by a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda") if flushed else None
    best = float("inf")
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if flush is not None:
            flush.zero_()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3)
    return best


def _copy_seconds(repeats: int) -> float:
    numbers = torch.empty(2, 1 << 30, dtype=torch.bfloat16, device="cuda").normal_()
    return best_seconds(lambda: numbers[0].copy_(numbers[1]), repeats, flushed=False)


def ceilings(repeats: int) -> Ceilings:
    """Measure them."""
    copied = _copy_seconds(repeats)
    matrix = torch.randn(8192, 8192, device="cuda").bfloat16()
    out = torch.empty_like(matrix)
    multiplied = best_seconds(lambda: torch.mm(matrix, matrix, out=out), repeats, flushed=False)
    return Ceilings(4 * (1 << 30) / copied / 1e9, 2 * 8192**3 / multiplied / 1e12, _fp8_ceiling(matrix, repeats))


def _fp8_ceiling(matrix: torch.Tensor, repeats: int) -> float:
    """TFLOP/s of torch's product of FP8 with one scale for each matrix."""
    if torch.cuda.get_device_capability() < (8, 9):
        return 0.0
    small, one = matrix.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    product = partial(
        torch._scaled_mm, small, small.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return float(2 * len(matrix) ** 3 / best_seconds(product, repeats, flushed=False) / 1e12)


def refusal() -> str | None:
    """Why nothing can be measured here; None where it can."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed: pip install 'headrace[gpu]'"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no NVIDIA GPU on this machine"
    return None


def main() -> None:
    """Refuse, or measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="kernels whose name has this in it")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (problem := refusal()) is not None:
        print(f"this measures kernels on an NVIDIA GPU: {problem}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)

    from benchmarks.gpu.cases import LLAMA_8B, cases
    from workers.kernels.triton.tuning import tuning_of

    device = torch.device("cuda")
    limits = ceilings(arguments.repeats)
    about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__} | limits._asdict()
    print(json.dumps(about) if arguments.json else "  ".join(f"{name} {value}" for name, value in about.items()))
    for case in cases(LLAMA_8B, device, tuning_of(device)):
        if arguments.only not in case.name:
            continue
        case.check()
        seconds = best_seconds(case.run, arguments.repeats, flushed=True)
        reached, ceiling, unit = case.moved_bytes / seconds / 1e9, limits.copy_gb_per_s, "GB/s"
        if case.flops:
            of_eight = case.eight_bits and limits.fp8_tflop_per_s
            reached, unit = case.flops / seconds / 1e12, "TFLOP/s"
            ceiling = limits.fp8_tflop_per_s if of_eight else limits.bf16_tflop_per_s
        if arguments.json:
            print(json.dumps({"kernel": case.name, "us": seconds * 1e6, "unit": unit, "reached": reached,
                              "of_ceiling": reached / ceiling}))  # fmt: skip
        else:
            print(f"{case.name:72} {seconds * 1e6:9.1f} us {reached:8.1f} {unit:8} {reached / ceiling:6.1%}")


if __name__ == "__main__":
    main()
