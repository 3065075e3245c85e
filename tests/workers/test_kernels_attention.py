"""Attention on pages of bfloat16: near the exact sums, and the same bits on every processor and however work is cut."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from forward import Runner
from test_models_tiny import IDS
from tiny import saved, tiny
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from workers.host import cpu_flags
from workers.kernels import build
from workers.kernels.pack import Kernels

pytestmark = pytest.mark.kernels

AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "fma", "f16c"})
DOT = AVX512 | {"avx512_bf16"}
AMX = DOT | {"amx_tile", "amx_int8", "amx_bf16"}
# What a library is compiled for; and what this machine must have to run it: Intel's have no sse4a, yet could.
PROCESSORS = {"avx2": AVX2, "avx512": AVX512, "vdpbf16ps": DOT | {"sse4a"}, "amx": AMX}
HERE = [name for name, needs in PROCESSORS.items() if needs - {"sse4a"} <= cpu_flags()]
LONG = (IDS * 7)[:590]


def hidden(
    path: Path, *chunks: int, processor: str = "avx2", threads: int = 2, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    kernels = Kernels(build.library(PROCESSORS[processor]), threads, "floats")
    runner, found, begin = Runner(path, kernels=kernels, dtype=dtype), [], 0
    for size in chunks:
        found += runner.step([("a", LONG[begin : begin + size])])
        begin += size
    return torch.cat(found)


@pytest.mark.parametrize("head_dim", [16, 48, 64, 128, 256])
def test_processors_and_cuts_change_no_bit(head_dim: int, tmp_path: Path) -> None:
    """Seven query heads to a KV head, over several splits of keys; chunks that end anywhere, and single tokens."""
    heads = {16: 14, 48: 14, 64: 14, 128: 7, 256: 2}[head_dim]
    path = saved(
        tiny("qwen2", max_position_embeddings=1024, head_dim=head_dim, num_attention_heads=heads,
             num_key_value_heads=max(heads // 7, 1)),
        tmp_path,
    )  # fmt: skip
    whole = hidden(path, 590)
    assert torch.isfinite(whole).all()
    for processor in HERE:
        assert torch.equal(hidden(path, 590, processor=processor), whole), processor
        cut = hidden(path, 200, 55, *[1] * 5, 250, *[1] * 4, 3, 73, processor=processor, threads=1)
        assert torch.equal(cut, whole), processor


def test_denormals_are_the_same_everywhere(tmp_path: Path) -> None:
    """Some values are denormal, or their weighted sums are; what comes out is made large enough to be seen."""
    model = tiny("llama", num_hidden_layers=1, head_dim=64, num_attention_heads=2, num_key_value_heads=1)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.v_proj.weight *= 2.0**-128
        attention.o_proj.weight *= 2.0**126
    path = saved(model, tmp_path)
    whole = hidden(path, 590)
    for processor in HERE:
        assert torch.equal(hidden(path, 590, processor=processor), whole), processor


@pytest.mark.parametrize("head_dim", [48, 64])
def test_attention_is_near_the_exact_one(head_dim: int, tmp_path: Path) -> None:
    """In float64, of queries (scaled for powers of two), keys and values rounded to bfloat16: what is left is the
    rounding of weights."""
    model = tiny("llama", max_position_embeddings=1024, num_hidden_layers=1, head_dim=head_dim)
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.mlp.down_proj.weight.zero_()
    path = saved(model, tmp_path)
    model = model.double()
    layer, attention = model.model.layers[0], model.model.layers[0].self_attn
    with torch.no_grad():
        x = model.model.embed_tokens(torch.tensor([LONG]))
        normed = layer.input_layernorm(x)
        q, k, v = (
            project(normed).view(1, len(LONG), -1, head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cos, sin = model.model.rotary_emb(x, torch.arange(len(LONG))[None])
        q, k = apply_rotary_pos_emb(q, k, cos.double(), sin.double())
        q, k, v = (each.bfloat16().double() for each in (q * (math.log2(math.e) / head_dim**0.5), k, v))
        found = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=math.log(2))
        after = x + attention.o_proj(found.transpose(1, 2).reshape(1, len(LONG), -1))
        expected = model.model.norm(after)[0]
    for processor in HERE:
        error = (hidden(path, 590, processor=processor).double() - expected).square().mean().sqrt()
        assert error < 1e-3 * expected.square().mean().sqrt()
