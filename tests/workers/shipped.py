"""What the GPU's kernels are launched with for the models that are served: compiled for a GPU that is not there.

    python tests/workers/shipped.py sm_90 [--short] [--kernel _split]

Prints a line of JSON per launch: kernel, shapes, and what the compiler made of it. Not for Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attention.interface import HeadNorms
from workers.attention.triton import GraphLimits, TritonAttention
from workers.kernels.triton import (
    activation,
    dequantise,
    embedding,
    experts,
    lora,
    norm,
    prefill,
    product,
    quantise,
    sample,
)  # fmt: skip
from workers.kernels.triton.aot import compile_for, signature_of
from workers.kernels.triton.attend import Paged, Shape
from workers.kernels.triton.launch import Launch, launches
from workers.kernels.triton.tuning import Tuning, tuning
from workers.models.interface import Batch
from workers.operators.products import rounds_inputs
from workers.weights.quantised.weight import QuantisedWeight

META = torch.device("meta")
BF16, FLOAT, INT8, FP8 = torch.bfloat16, torch.float32, torch.int8, torch.float8_e4m3fn


@dataclass(frozen=True)
class Heads:
    """Attention of a model: head dim, query heads of a KV head, KV heads, (window, cap) of its layers, page tokens,
    what of a head is rotated (0 for all), and the dtype of its heads' norms."""

    model: str
    dim: int
    group: int
    kv_heads: int
    shapes: tuple[tuple[int, float], ...] = ((0, 0.0),)
    page_tokens: int = 64
    rotated: int = 0
    norms: torch.dtype | None = None


HEADS = (
    Heads("llama-3.1-8b", 128, 4, 8),
    Heads("smollm2-135m, pages of 16", 64, 3, 3, page_tokens=16),
    Heads("phi-3-mini", 96, 1, 32),
    Heads("qwen2.5-7b", 128, 7, 4),
    Heads("gemma-2-2b", 256, 2, 4, ((4096, 50.0), (0, 50.0))),
    Heads("gemma-3-1b", 256, 4, 1, ((512, 0.0), (0, 0.0)), norms=torch.float32),
    Heads("qwen3-30b-a3b", 128, 8, 4, norms=torch.bfloat16),
    Heads("phi-4-mini", 128, 3, 8, rotated=96),
)


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def attention(heads: Heads, kv_dtype: torch.dtype, table: Tuning) -> list[Launch]:
    """A decode step that is captured, and a chunk after context."""
    layers = len(heads.shapes)
    shapes = [Shape(heads.dim**-0.5, window, cap) for window, cap in heads.shapes]
    scales = empty(layers, 2, heads.kv_heads, dtype=FLOAT) if kv_dtype in (INT8, FP8) else None
    pages = empty(1000, layers, 2, heads.kv_heads, heads.page_tokens, heads.dim, dtype=kv_dtype)
    limits = GraphLimits(64, 512, 1 << 18, 0)
    all_heads = heads.kv_heads * heads.group
    with launches(run=False) as kept:
        backend = TritonAttention(
            range(heads.kv_heads), heads.group, heads.dim, shapes, kv_dtype, META,
            scales=scales, graphs=limits, tuning=table,
        )  # fmt: skip
        backend.capture(64, pages)
        half, norms = (heads.rotated or heads.dim) // 2, None
        angles = (empty(64, half, dtype=FLOAT), empty(64, half, dtype=FLOAT))
        if heads.norms is not None:
            norms = HeadNorms(empty(heads.dim, dtype=heads.norms), empty(heads.dim, dtype=heads.norms), 1e-6)
        for layer, shape in enumerate(shapes):
            qkv = empty(64, all_heads + 2 * heads.kv_heads, heads.dim)
            backend.rotate_and_forward(qkv, angles, layer, norms)
            numbers = [empty(3, dtype=torch.int32) for _ in range(3)]
            blocks = prefill.Blocks(
                empty(9, dtype=torch.int32), empty(9, dtype=torch.int32), *numbers, empty(3, 512, dtype=torch.int32)
            )
            paged = Paged(pages[:, layer], None if scales is None else scales[layer])
            prefill.prefill(qkv[:, :all_heads], paged, blocks, shape, table, empty(64, all_heads, heads.dim))
    return kept


def the_rest(hidden: int, inner: int, vocabulary: int, table: Tuning) -> list[Launch]:
    """A layer's other kernels, both ends of the model, and the sampler with everything on."""
    quantised = (INT8, FP8) if table.fp8 else (INT8,)
    ints, floats = {"dtype": torch.int32}, {"dtype": FLOAT}
    rows = 64
    with launches(run=False) as kept:
        norm.add_rms_norm(empty(rows, hidden), None, empty(hidden), 1e-5, table)
        norm.add_rms_norm(empty(rows, hidden), empty(rows, hidden), empty(hidden), 1e-5, table)
        norm.add_rms_norm(empty(rows, hidden), empty(rows, hidden), empty(hidden, dtype=FLOAT), 1e-6, table)
        activation.gated(empty(rows, 2 * inner), table)
        activation.gated(empty(rows, 2 * inner), table, "gelu_tanh")
        for dtype in quantised:
            norm.add_rms_norm_quantised(empty(rows, hidden), empty(rows, hidden), empty(hidden), 1e-5, table, dtype)
            activation.gated_quantised(empty(rows, 2 * inner), table, dtype)
        for tokens in (1, 128, 8192):  # qwen3-30b-a3b: rows of decode and of prefill
            choices, wide = empty(tokens * 8, dtype=torch.int64), empty(128, 1536, 2048)
            entry = table.grouped_for(tokens * 8 // 128)
            count = tokens * 8 // entry.rows + 128
            blocks = experts.Blocks(empty(count * entry.rows, **ints), empty(count, **ints))
            experts.grouped(empty(tokens, 2048), wide, blocks, len(choices), table)
            experts.grouped(empty(tokens * 8, 768), empty(128, 2048, 768), blocks, len(choices), table)
        embedding.embed(empty(rows, dtype=torch.int64), empty(vocabulary // 2, hidden), vocabulary // 2, table)
        embedding.assemble_logits(empty(2, rows, vocabulary // 2), [vocabulary // 2] * 2, 30.0, table)
        tiles = lora.Tiles(*(empty(each, **ints) for each in (rows, 9, 9, 9)))
        for rank in (16, 256):
            middle = lora.shrink(empty(rows, hidden), empty(8, rank, hidden), empty(8, **floats), tiles)
            lora.expand(middle, empty(8, inner, rank), tiles, empty(rows, 2 * inner)[:, inner:])
        history, request = empty(8, vocabulary, **ints), empty(rows, **ints)
        sample.sample(
            empty(rows, vocabulary, **floats),
            sample.Parameters(
                empty(rows, **floats), empty(rows, **ints), empty(rows, dtype=torch.float64), empty(rows, **floats),
                empty(rows, dtype=torch.int64), empty(rows, **ints),
            ),
            table,
            edits=sample.Edits(empty(rows, 16, **ints), empty(rows, 16, **floats)),
            penalties=sample.Penalties(history, request, *(empty(rows, **floats) for _ in range(3))),
            best=20,
        )  # fmt: skip
        sample.remember(history, request, empty(rows, **ints))
    return kept


def ends_and_draws(table: Tuning) -> list[Launch]:
    """Embedding and logits in every dtype and of vocabularies that nothing divides; draws of every kind of request."""
    floats = {"dtype": FLOAT}
    with launches(run=False) as kept:
        for vocabulary, hidden in ((49152, 576), (151936, 2048), (151937, 896), (262144, 1152)):
            half = (vocabulary + 1) // 2
            for dtype in (BF16, torch.float16, FLOAT):
                embedding.embed(empty(64, dtype=torch.int64), empty(half, hidden, dtype=dtype), half, table)
                for cap in (0.0, 30.0):
                    embedding.assemble_logits(empty(2, 64, half, dtype=dtype), [half, vocabulary - half], cap, table)
            for rows in (1, 64):
                parameters = sample.Parameters(
                    empty(rows, **floats), empty(rows, dtype=torch.int32), empty(rows, dtype=torch.float64),
                    empty(rows, **floats), empty(rows, dtype=torch.int64), empty(rows, dtype=torch.int32),
                )  # fmt: skip
                for truncated in (False, True):
                    for best in (0, 1, 20):
                        logits = empty(rows, vocabulary, **floats)
                        sample.sample(logits, parameters, table, truncated=truncated, best=best)
                for width in (1, 16, 300):
                    edits = sample.Edits(empty(rows, width, dtype=torch.int32), empty(rows, width, **floats))
                    sample.sample(empty(rows, vocabulary, **floats), parameters, table, edits=edits, truncated=False)
                history = empty(8, vocabulary, dtype=torch.int32)
                sample.remember(history, empty(rows, dtype=torch.int32), empty(rows, dtype=torch.int32))
    return kept


def products(outputs: int, inputs: int, table: Tuning) -> list[Launch]:
    """A layer in every form: a decode of one and of 64 rows, a chunk, and rounding and dequantising beside them."""

    def scales(groups: int, rows: int = outputs, dtype: torch.dtype = FLOAT) -> Tensor:
        return empty(rows, groups, dtype=dtype)

    rounded, packed = empty(0, dtype=FLOAT), empty(outputs, inputs // 2, dtype=torch.uint8)
    eight, float8 = empty(outputs, inputs, dtype=INT8), empty(outputs, inputs, dtype=FP8)
    by_128, by_32 = inputs // 128, inputs // 32
    weights = [
        QuantisedWeight(packed, scales(by_128, dtype=torch.float16), 128, scales(by_128)),  # AWQ
        QuantisedWeight(packed, scales(by_128, dtype=torch.float16), 128),  # GPTQ, symmetric
        QuantisedWeight(packed, scales(by_32, dtype=torch.float16), 32, scales(by_32, dtype=torch.float16)),  # Q4_K
        QuantisedWeight(float8, scales(1), inputs, None, rounded),
        QuantisedWeight(float8, scales(by_128, outputs // 128), 128, None, rounded),
        QuantisedWeight(float8, scales(1), inputs),
        QuantisedWeight(float8, scales(by_128, outputs // 128), 128),
        QuantisedWeight(eight, scales(1), inputs, None, rounded),
        QuantisedWeight(eight, scales(by_32, dtype=torch.float16), 32),  # Q8_0
    ]
    with launches(run=False) as kept:
        for weight in weights:
            rounds = rounds_inputs(weight, table)
            plan = product.plan_of(weight, rounds, table)
            for rows in (1, 64, 2048):
                x, of_x = empty(rows, inputs), None
                if rounds:
                    x, of_x = quantise.quantise(x, weight.numbers.dtype, weight.group, table)
                product.product(x, of_x, weight, empty(outputs), BF16, plan)
            dequantise.dequantised(weight, BF16, table)
        if table.fp8:
            quantise.quantise_by(empty(64, inputs), empty(1, dtype=FLOAT), table)
        blocks = experts.Blocks(empty(2048, dtype=torch.int32), empty(128, dtype=torch.int32))
        for numbers, groups, group, mins in ((eight, 1, inputs, None), (packed, by_128, 128, by_128)):
            of_experts = QuantisedWeight(
                numbers[None].expand(8, -1, -1), scales(groups)[None].expand(8, -1, -1), group,
                None if mins is None else scales(mins)[None].expand(8, -1, -1),
            )  # fmt: skip
            experts.grouped(empty(256, inputs), of_experts, blocks, 256, table)
    return kept


def shipped(table: Tuning) -> Iterator[tuple[str, Launch]]:
    """All launches, with a name for what they are for."""
    for heads in HEADS:
        kinds = [BF16, INT8, *([FP8] if table.fp8 else [])]
        # Gemma's layers with windows keep 16 bits.
        for kind in kinds if len(heads.shapes) == 1 else [BF16]:
            for launch in attention(heads, kind, table):
                yield f"{heads.model}, KV {str(kind).removeprefix('torch.')}", launch
    yield from (("llama-3.1-8b", launch) for launch in the_rest(4096, 14336, 128256, table))
    yield from (("llama-3.3-70b", launch) for launch in the_rest(8192, 28672, 128256, table))
    yield from (("ends and draws", launch) for launch in ends_and_draws(table))
    yield from (("llama-3.1-8b, qkv", launch) for launch in products(6144, 4096, table))
    yield from (("llama-3.1-8b, down", launch) for launch in products(4096, 14336, table))
    yield from (("qwen2.5-0.5b, down", launch) for launch in products(896, 4864, table))


def specialisations() -> dict[str, int]:
    """Of each kernel, how many times Triton would compile it for steps of all kinds of lengths."""
    seen: dict[str, set[str]] = {}
    table = tuning("sm_90")
    with launches(run=False) as kept:
        backend = TritonAttention(range(2), 4, 64, [Shape(0.125)], BF16, torch.device("cpu"), tuning=table)
        pages = torch.zeros(64, 1, 2, 2, 16, 64, dtype=BF16)
        for decodes, chunk, context in ((16, 5, 64), (17, 64, 16), (31, 33, 1), (24, 0, 100)):
            counts = [chunk] * (chunk > 0) + [1] * decodes
            contexts = [chunk + 16] * (chunk > 0) + [context] * decodes
            starts = [sum(counts[:row]) for row in range(len(counts) + 1)]
            tokens = torch.zeros(starts[-1], dtype=torch.int64)
            tables = [torch.zeros(-(-length // 16), dtype=torch.int64) for length in contexts]
            backend.plan(Batch(tokens, tokens, tokens, starts, contexts, tables), pages)
            qkv = torch.zeros(starts[-1], 12, 64, dtype=BF16)
            backend.rotate_and_forward(qkv, (torch.zeros(starts[-1], 32), torch.zeros(starts[-1], 32)), 0)
    for each in kept:
        seen.setdefault(each.kernel.__name__, set()).add(repr(signature_of(each)))
    return {name: len(kinds) for name, kinds in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gpu")
    parser.add_argument("--short", action="store_true", help="one configuration of each kernel")
    parser.add_argument("--kernel", default="", help="only this one")
    parser.add_argument("--specialisations", action="store_true", help="only count them")
    arguments = parser.parse_args()
    if arguments.specialisations:
        print(json.dumps(specialisations()))
        return
    seen: set[tuple[str, str]] = set()
    for name, launch in shipped(tuning(arguments.gpu)):
        kernel = launch.kernel.__name__
        # Of products the short version has each form of inputs and weights.
        one = (kernel, launch.arguments["FORM"] if kernel == "_product" else "")
        if arguments.kernel not in ("", kernel) or (arguments.short and one in seen):
            continue
        seen.add(one)
        made = compile_for(arguments.gpu, launch)
        line = {
            "of": name,
            "kernel": launch.kernel.__name__,
            "warps": launch.warps,
            "stages": launch.stages,
            "rows": launch.arguments.get("ROWS", 0),
            "form": launch.arguments.get("FORM", ""),
            "inputs": str(launch.arguments["x"].dtype).removeprefix("torch.") if "x" in launch.arguments else "",
            "registers": made.registers,
            "spilled": made.spilled_bytes,
            "shared": made.shared_bytes,
            "cp.async": made.count("cp.async.cg.shared.global") + made.count("cp.async.ca.shared.global"),
            "mma.sync": made.count("mma.sync.aligned"),
            "wgmma": made.count("wgmma.mma_async.sync.aligned"),
            "tcgen05": made.count("tcgen05.mma"),
        }
        print(json.dumps(line))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
