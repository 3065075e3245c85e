"""What the engine reaches on a GPU: plans in, results out, with everything in between that serves.

    python -m benchmarks.gpu.engine [--only 8B] [--json] [--minutes 9]

Shapes of Llama-3.1-8B, Qwen3-30B-A3B and Llama-3.3-70B with random weights, in bfloat16. Decode with 1, 32, 128 and 256
rows at 1k and 4k of context, prefill of 2k and 8k. Each line: time of a step, tokens a second, and the floor's share of
it: what weights and KV, read once, take at the bandwidth that a copy reaches here, or the products at the rate of
torch's, whichever is more. Of a model that does not fit whole, as many layers are computed as fit, and the line says
how many. Ends within `--minutes`: what is not measured by then is left out, and told.

`--dry` runs two tiny models on the CPU, in Triton's interpreter: it shows that all of this works, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from benchmarks.gpu.__main__ import EXIT_UNAVAILABLE, Ceilings, ceilings, refusal
from benchmarks.gpu.shapes import FP8_MODELS, MODELS, TINY, TINY_MOE, Case, Setup, flops, read_bytes, weight_bytes
from workers.models.architecture import Architecture

WARM: Final = 8  # steps: after some of one size, a graph is recorded
_ROOM_SHARE: Final = 0.9  # of free memory for weights and KV


CASES: Final = (
    *(Case(rows, context) for context in (1024, 4096) for rows in (1, 32, 128, 256)),
    Case(1, 0, 2048),
    Case(1, 0, 8192),
)
DRY: Final = (Case(1, 20), Case(2, 40), Case(1, 0, 24))


def fitting(architecture: Architecture, most: Case, setup: Setup) -> Architecture:
    """With as many layers as fit beside the KV of a case; none where not even one fits."""
    a, itemsize = architecture, setup.dtype.itemsize
    outer = 2 * a.vocabulary * a.hidden * itemsize
    layer = (weight_bytes(a, itemsize, fp8=setup.fp8) - outer) // a.layers
    tokens = most.rows * (most.context + most.new + setup.page_tokens)
    layer += tokens * 2 * a.kv_heads * a.head_dim * itemsize
    return replace(a, layers=max(0, min(a.layers, int((_ROOM_SHARE * setup.free_bytes - outer) // layer))))


def measure(architecture: Architecture, case: Case, setup: Setup) -> float:
    """Seconds of a step: of decodes the median of many, of a prefill the best of a few."""
    from benchmarks.gpu.stand import Stand

    tokens = case.context + case.new
    steps = WARM + setup.repeats if case.new == 1 else 2
    stand = Stand(architecture, setup, case.rows, tokens + steps)
    times = []
    for turn in range(steps):
        began = time.perf_counter()
        stand.step(case)
        times.append(time.perf_counter() - began)
        if case.new > 1 and turn + 1 < steps:
            stand.start_over()
    return sorted(times[WARM:])[setup.repeats // 2] if case.new == 1 else min(times)


def floor_s(architecture: Architecture, case: Case, itemsize: int, limits: Ceilings, *, fp8: bool = False) -> float:
    """Seconds that nothing can be below, by the measured ceilings."""
    a = architecture
    kv = 2 * a.layers * a.kv_heads * a.head_dim * itemsize
    tokens, context = case.rows * case.new, case.context + case.new
    pairs = tokens * (case.context + 0.5 * (case.new + 1))
    read = read_bytes(a, tokens, itemsize, fp8=fp8) / (limits.copy_gb_per_s * 1e9)
    fastest = (fp8 and limits.fp8_tflop_per_s) or limits.bf16_tflop_per_s
    products = flops(a, tokens, 0, 0.0) / (fastest * 1e12)
    products += flops(a, 0, case.rows, 0.0) / (limits.bf16_tflop_per_s * 1e12)  # the head stays in 16 bits
    attention = max(
        case.rows * context * kv / (limits.copy_gb_per_s * 1e9),
        (flops(a, 0, 0, pairs)) / (limits.bf16_tflop_per_s * 1e12),
    )
    return max(read, products) + attention


def lines(
    models: dict[str, Architecture], cases: Sequence[Case], setup: Setup, limits: Ceilings, until: float
) -> Iterator[dict[str, Any]]:
    """A line for each model and case that there is time and memory for."""
    for name, whole in models.items():
        setup = replace(setup, fp8=name in FP8_MODELS)
        for case in cases:
            line: dict[str, Any] = {"model": name, "case": case.name}
            architecture = fitting(whole, case, setup)
            if time.monotonic() > until:
                yield line | {"left_out": "no time left"}
                continue
            if 2 * architecture.layers < whole.layers:
                yield line | {"left_out": "less than half of its layers fit"}
                continue
            seconds = measure(architecture, case, setup)
            floor = floor_s(architecture, case, setup.dtype.itemsize, limits, fp8=setup.fp8)
            yield line | {
                "layers": architecture.layers,
                "of_layers": whole.layers,
                "ms": seconds * 1e3,
                "tok_per_s": case.rows * case.new / seconds,
                "floor_ms": floor * 1e3,
                "of_floor": floor / seconds,
            }


def shown(line: dict[str, Any]) -> str:
    """A line for people."""
    what = f"{line['model']:20} {line['case']:24}"
    if "left_out" in line:
        return f"{what} left out: {line['left_out']}"
    part = "" if line["layers"] == line["of_layers"] else f"  {line['layers']} of {line['of_layers']} layers"
    return (
        f"{what} {line['ms']:9.2f} ms {line['tok_per_s']:10.0f} tok/s  floor {line['floor_ms']:8.2f} ms "
        f"{line['of_floor']:6.1%}{part}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Refuse, or measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dry", action="store_true", help="tiny models on the CPU")
    asked = parser.parse_args(arguments)
    until = time.monotonic() + 60 * asked.minutes
    models: dict[str, Architecture] = MODELS
    cases: Sequence[Case] = CASES
    if asked.dry:
        setup = Setup(torch.device("cpu"), torch.float32, 8, 1, 1 << 30)
        models, cases, limits = {"tiny": TINY, "tiny, experts": TINY_MOE}, DRY, Ceilings(1.0, 0.001)
        about: dict[str, Any] = {"dry": True}
    else:
        if (problem := refusal()) is not None:
            print(f"this measures the engine on an NVIDIA GPU: {problem}", file=sys.stderr)
            sys.exit(EXIT_UNAVAILABLE)
        device = torch.device("cuda")
        limits = ceilings(asked.repeats)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        setup = Setup(device, torch.bfloat16, 64, asked.repeats, free)
        about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **limits._asdict()}
    print(json.dumps(about) if asked.json else "  ".join(f"{name} {value}" for name, value in about.items()))
    chosen = {name: model for name, model in models.items() if asked.only in name}
    for line in lines(chosen, cases, setup, limits, until):
        print(json.dumps(line) if asked.json else shown(line), flush=True)


if __name__ == "__main__":
    main()
