"""Models by their sizes, with random weights: nothing has to be downloaded, and nothing has to fit a disk.

Weights are random, since zeros would cost less power; their sizes and layout are those of a served model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from workers.models.architecture import Architecture, Experts
from workers.models.rope import Rope
from workers.weights.prepared import Prepared
from workers.weights.quantised.weight import FP8, QuantisedWeight
from workers.weights.sharding import shard_of

_LLAMA_ROPE: Final = Rope(500_000.0, "llama3", factor=8.0)

LLAMA_8B: Final = Architecture(
    name="llama", format="safetensors", layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128,
    vocabulary=128256, context=131072, rms_eps=1e-5, rope=_LLAMA_ROPE, tied=False,
)  # fmt: skip
LLAMA_70B: Final = replace(LLAMA_8B, layers=80, hidden=8192, intermediate=28672, heads=64)
QWEN3_30B: Final = Architecture(
    name="qwen3moe", format="safetensors", layers=48, hidden=2048, intermediate=6144, heads=32, kv_heads=4,
    head_dim=128, vocabulary=151936, context=40960, rms_eps=1e-6, rope=Rope(1e6), tied=False, qk_norm=True,
    experts=Experts(count=128, chosen=8, intermediate=768),
)  # fmt: skip
TINY: Final = replace(LLAMA_8B, layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=300)
TINY_MOE: Final = replace(
    QWEN3_30B, layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, vocabulary=300,
    experts=Experts(count=8, chosen=2, intermediate=32),
)  # fmt: skip
MODELS: Final = {
    "Llama-3.1-8B bf16": LLAMA_8B,
    "Qwen3-30B-A3B bf16": QWEN3_30B,
    "Llama-3.3-70B bf16": LLAMA_70B,
    "Llama-3.1-8B FP8": LLAMA_8B,
    "Llama-3.3-70B FP8": LLAMA_70B,
}
FP8_MODELS: Final = frozenset(name for name in MODELS if name.endswith("FP8"))


@dataclass(frozen=True)
class Case:
    """`rows` sequences with `context` tokens of KV each take steps of `new` tokens each."""

    rows: int
    context: int
    new: int = 1

    @property
    def name(self) -> str:
        """For people."""
        if self.new > 1:
            return f"prefill of {self.new}"
        return f"decode, {self.rows} rows at {self.context}"


@dataclass(frozen=True)
class Setup:
    """Where and how it is measured. fp8: layers' matrices have 8 bits and a scale for each row; inputs are rounded."""

    device: torch.device
    dtype: torch.dtype
    page_tokens: int
    repeats: int
    free_bytes: int
    fp8: bool = False


def random_weights(
    architecture: Architecture, dtype: torch.dtype, device: torch.device, *, fp8: bool = False
) -> Prepared:
    """As `workers.weights.prepared.prepare` lays them out."""
    a = architecture
    generator = torch.Generator(device).manual_seed(1)

    def matrix(outputs: int, inputs: int) -> Tensor:
        made = torch.empty(outputs, inputs, dtype=dtype, device=device)
        return made.normal_(0, inputs**-0.5, generator=generator)

    def named(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
        if not fp8:
            return {name: matrix(outputs, inputs)}
        numbers = torch.empty(outputs, inputs, dtype=dtype, device=device).normal_(0, 100, generator=generator)
        scales = torch.full((outputs, 1), inputs**-0.5 / 100, device=device)
        weight = QuantisedWeight(numbers.to(FP8), scales, inputs, None, torch.empty(0, device=device))
        return {f"{name}.{part}": tensor for part, tensor in weight.tensors().items()}

    def norm(width: int) -> Tensor:
        return torch.ones(width, dtype=dtype, device=device)

    tensors = {"embedding": matrix(a.vocabulary, a.hidden), "head": matrix(a.vocabulary, a.hidden)}
    tensors["final_norm"] = norm(a.hidden)
    for layer in range(a.layers):
        mine = {"attention_norm": norm(a.hidden), "mlp_norm": norm(a.hidden)}
        if a.qk_norm:
            mine |= {"q_norm": norm(a.head_dim), "k_norm": norm(a.head_dim)}
        mine |= named("qkv", (a.heads + 2 * a.kv_heads) * a.head_dim, a.hidden)
        mine |= named("attention_out", a.hidden, a.heads * a.head_dim)
        if (experts := a.experts_of(layer)) is None:
            mine |= named("gate_up", 2 * a.intermediate, a.hidden) | named("down", a.hidden, a.intermediate)
        else:
            mine["router"] = matrix(experts.count, a.hidden)
            up = matrix(experts.count * 2 * experts.intermediate, a.hidden)
            down = matrix(experts.count * a.hidden, experts.intermediate)
            for expert, (one, other) in enumerate(zip(up.chunk(experts.count), down.chunk(experts.count), strict=True)):
                mine |= {f"{expert}.gate_up": one, f"{expert}.down": other}
        tensors |= {f"{layer}.{name}": tensor for name, tensor in mine.items()}
    return Prepared(tensors, a, shard_of(a, 0, 1), dtype)


def weight_bytes(architecture: Architecture, itemsize: int, *, fp8: bool = False) -> int:
    """Of all weights."""
    a = architecture
    outer = 2 * a.vocabulary * a.hidden
    return outer * itemsize + (a.parameters - outer) * (1 if fp8 else itemsize)


def read_bytes(architecture: Architecture, rows: int, itemsize: int, *, fp8: bool = False) -> float:
    """That a decode step of `rows` rows reads of the weights: all but the embedding, and of experts those that some row
    has chosen, were they chosen evenly."""
    a = architecture
    total = float(a.parameters - a.vocabulary * a.hidden)
    if a.experts is not None:
        of_experts = a.layers * a.experts.count * 3 * a.hidden * a.experts.intermediate
        idle = (1 - a.experts.chosen / a.experts.count) ** rows
        total -= of_experts * idle
    head = a.vocabulary * a.hidden
    return head * itemsize + (total - head) * (1 if fp8 else itemsize)


def flops(architecture: Architecture, tokens: int, drawn: int, pairs: float) -> float:
    """Of a step: of the products, and of attention over so many pairs of a query and a key."""
    a = architecture
    mlp = a.intermediate if a.experts is None else a.experts.chosen * a.experts.intermediate
    layer = a.hidden * a.head_dim * (2 * a.heads + 2 * a.kv_heads) + 3 * a.hidden * mlp
    products = 2.0 * (tokens * a.layers * layer + drawn * a.vocabulary * a.hidden)
    return products + 4.0 * pairs * a.layers * a.heads * a.head_dim
