"""Pages of int8 in the CPU kernels: they hold what `quantised_kv` says, attention over that is near the exact one, and
the bits are the same on every processor and however work is cut.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import Runner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_attention import HERE, LONG, PROCESSORS, hidden
from tiny import saved, tiny
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from bus.config import Config, ModelConfig
from workers.capacity import shape as capacity_of
from workers.host import Unsuitable, assign
from workers.kernels import build
from workers.kernels.pack import Kernels
from workers.loading import load
from workers.pages import quantised, quantised_kv, scales_of, spread, spread_block

pytestmark = pytest.mark.kernels

INT8 = torch.int8
BIAS = 60.0  # of some keys of qwen2 here: what Qwen2.5's first layers have


def runner(path: Path, processor: str, threads: int = 2, page_tokens: int = 16, cells: int = 512) -> Runner:
    kernels = Kernels(build.library(PROCESSORS[processor]), threads, "floats")
    return Runner(path, kernels=kernels, dtype=INT8, page_tokens=page_tokens, cells=cells)


def model_of(family: str, head_dim: int, **changes: int) -> Any:
    heads = {16: 12, 48: 12, 64: 12, 80: 12, 128: 6, 256: 2}[head_dim]
    model = tiny(
        family, max_position_embeddings=1024, head_dim=head_dim, num_attention_heads=heads,
        num_key_value_heads=max(heads // 6, 1), **changes,
    )  # fmt: skip
    if family == "qwen2":
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.k_proj.bias[3::head_dim] = BIAS
    return model


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 128, 256])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_processors_and_cuts_change_no_bit(family: str, head_dim: int, tmp_path: Path) -> None:
    path = saved(model_of(family, head_dim), tmp_path)
    whole = hidden(path, 590, dtype=INT8)
    assert torch.isfinite(whole).all()
    for processor in HERE:
        assert torch.equal(hidden(path, 590, processor=processor, dtype=INT8), whole), processor
        cut = hidden(path, 200, 55, *[1] * 5, 250, *[1] * 4, 3, 73, processor=processor, threads=1, dtype=INT8)
        assert torch.equal(cut, whole), processor


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    return {
        (family, dim): saved(model_of(family, dim, num_hidden_layers=2), tmp_path_factory.mktemp(f"{family}{dim}"))
        for family in ("llama", "qwen2")
        for dim in (64, 80, 128)
    }


@given(
    which=st.tuples(st.sampled_from(["llama", "qwen2"]), st.sampled_from([64, 80, 128])),
    page_tokens=st.sampled_from([1, 3, 7, 16, 29, 64]),
    lengths=st.lists(st.integers(1, 320), min_size=1, max_size=3),
    processor=st.sampled_from(HERE),
)
@settings(max_examples=8, deadline=None)
def test_pages_and_neighbours_change_no_bit(
    paths: dict[tuple[str, int], Path], which: tuple[str, int], page_tokens: int, lengths: list[int], processor: str
) -> None:
    """Law: a row gets what it gets alone, on pages of any size, on any processor; its next token too."""
    model = runner(paths[which], processor, page_tokens=page_tokens, cells=3 * -(-321 // page_tokens))
    names = [str(at) for at in range(len(lengths))]
    rows = [LONG[at : at + length] for at, length in enumerate(lengths)]
    together = [model.step(list(zip(names, rows, strict=True))), model.step([(name, [5]) for name in names])]
    for at, row in enumerate(rows):
        alone = runner(paths[which], "avx2", threads=1)
        for step, new in zip(together, (row, [5]), strict=True):
            assert torch.equal(alone.step([("a", new)])[0], step[at])


def test_a_prefix_that_another_sequence_computed_is_as_good_as_ones_own(paths: dict[tuple[str, int], Path]) -> None:
    model = runner(paths["qwen2", 64], HERE[-1])
    model.step([("a", LONG[:300])])
    alone = runner(paths["qwen2", 64], HERE[-1]).step([("b", LONG[:320])])[0]
    model.share("a", "b", 288)
    assert torch.equal(model.step([("b", LONG[288:320])])[0], alone[288:])


@pytest.mark.parametrize("head_dim", [48, 64])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_attention_is_near_the_exact_one(family: str, head_dim: int, tmp_path: Path) -> None:
    """In float64, of queries (scaled for powers of two, rounded to bfloat16) over what the pages hold: what is left is
    the rounding of weights, and of keys with a bias. And the pages hold what they should."""
    count = len(LONG)
    model = model_of(family, head_dim, num_hidden_layers=1)
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.mlp.down_proj.weight.zero_()
    path = saved(model, tmp_path)
    model = model.double()
    layer, attention = model.model.layers[0], model.model.layers[0].self_attn
    bias = torch.zeros(1) if family == "llama" else attention.k_proj.bias.detach()
    with torch.no_grad():
        x = model.model.embed_tokens(torch.tensor([LONG]))
        cos, sin = (part.double() for part in model.model.rotary_emb(x, torch.arange(count)[None]))
        normed = layer.input_layernorm(x)
        q, k, v, b = (
            each.view(1, count, -1, head_dim).transpose(1, 2)
            for each in (*(f(normed) for f in (attention.q_proj, attention.k_proj, attention.v_proj)),
                         bias.expand(1, count, attention.k_proj.out_features))
        )  # fmt: skip
        q, k = apply_rotary_pos_emb(q * (math.log2(math.e) / head_dim**0.5), k, cos, sin)
        taken_out = apply_rotary_pos_emb(b, b, cos, sin)[0]
    for processor in HERE:
        run = runner(path, processor)
        (found,) = run.step([("a", LONG)])
        keys, values = held(run, "a", count)
        if family == "llama":
            as_written(run, "a", quantised_kv, torch.stack([k[0], v[0]]))
            wanted = spread(q) / spread_block(head_dim)
        else:
            as_written(run, "a", quantised, torch.stack([(k - taken_out)[0], v[0]]))
            wanted, keys = q, (keys + taken_out[0]).bfloat16().double()
        with torch.no_grad():
            seen = scaled_dot_product_attention(
                wanted.bfloat16().double(), keys[None], values[None], is_causal=True, enable_gqa=True, scale=math.log(2)
            )
            after = x + attention.o_proj(seen.transpose(1, 2).reshape(1, count, -1))
            expected = model.model.norm(after)[0]
        error = (found.double() - expected).square().mean().sqrt()
        assert error < 2e-3 * expected.square().mean().sqrt(), processor


def parts(run: Runner, name: str, tokens: int) -> tuple[Tensor, Tensor]:
    """Of the first layer: numbers [2, kv heads, tokens, head dim], scales [2, kv heads, tokens]."""
    pages = run.pages[run.table(name), 0]
    scales = scales_of(run.pages)[run.table(name), 0]
    return (
        pages.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :tokens],
        scales.permute(1, 2, 0, 3).flatten(2, 3)[:, :, :tokens],
    )


def held(run: Runner, name: str, tokens: int) -> Tensor:
    """float64 [2, kv heads, tokens, head dim]: what the numbers stand for."""
    numbers, scales = parts(run, name, tokens)
    return numbers.double() * scales.double()[..., None]


def as_written(run: Runner, name: str, how: Any, kv: Tensor) -> None:
    """kv: [2, kv heads, tokens, head dim], exact. A number that is nearly between two may become either."""
    numbers, scales = parts(run, name, kv.shape[2])
    expected, by = (found.movedim(0, 2) for found in how(kv.movedim(2, 0)))
    torch.testing.assert_close(scales, by, rtol=1e-3, atol=0)
    apart = (numbers.int() - expected.int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 0.02


def test_a_bias_of_keys_takes_nothing_from_the_rest_of_them(tmp_path: Path) -> None:
    """Given keys of which one number is far larger than the others, by their bias, when they are int8, then an answer
    is as near to that of float32 pages as without the bias."""
    lost = []
    for bias in (0.0, BIAS):
        model = model_of("qwen2", 64)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.k_proj.bias[3::64] = bias
                layer.self_attn.q_proj.weight *= 0.1  # that scores are not all about one key
                layer.self_attn.q_proj.bias *= 0.1
        path = saved(model, tmp_path / str(bias))
        small, exact = (hidden(path, 590, dtype=dtype) for dtype in (INT8, torch.float32))
        lost.append(float((small - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    assert lost[1] < 2 * lost[0], lost


def test_torch_refuses_keys_with_biases_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    path = saved(tiny("qwen2"), tmp_path / "model")
    model = ModelConfig(name="m", source=f"path:{path}", dtype="float32", kv_dtype="int8")
    why = 'model .m.: kv_dtype = "int8" cannot be had: keys of qwen2 have biases'
    with pytest.raises(Unsuitable, match=why):
        load(assign("worker@m.0.0", Config(model=(model,))), lambda _: None)
    assert "keys of qwen2 have biases" in capacity_of(model, Config(model=(model,))).problem
