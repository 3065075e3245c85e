"""Heads of published layouts on small random checkpoints: what they compute, what they draft, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from driving import Driver, PlainPages
from safetensors.torch import save_file
from test_speculative import DraftingDriver
from tiny import SIZES, saved, tiny
from torch import Tensor

from bus.messages.requests import Sampling
from workers.group import Alone
from workers.models.architecture import kv_shape
from workers.models.interface import Model
from workers.models.load import load_model
from workers.speculative.head_drafts import HeadDrafts
from workers.speculative.heads import UnusableHead, load_head
from workers.step.execute import Executor
from workers.step.slots import Slots

CPU = torch.device("cpu")
WIDE, HEADS, KV, DIM, WORDS = 96, 6, 3, 16, 101
CONTEXT, CELLS, PAGE = 128, 96, 4


def checkpoint(path: Path, layout: str, **changes: Any) -> dict[str, Tensor]:
    """A random head; its tensors by name without prefix."""
    shapes = {
        "self_attn.q_proj.weight": (HEADS * DIM, WIDE), "self_attn.k_proj.weight": (KV * DIM, WIDE),
        "self_attn.v_proj.weight": (KV * DIM, WIDE), "self_attn.o_proj.weight": (WIDE, HEADS * DIM),
        "mlp.gate_proj.weight": (160, WIDE), "mlp.up_proj.weight": (160, WIDE), "mlp.down_proj.weight": (WIDE, 160),
        "post_attention_layernorm.weight": (WIDE,),
    }  # fmt: skip
    if layout == "eagle":
        outer = {"fc.weight": (WIDE, 2 * WIDE), "fc.bias": (WIDE,), "embed_tokens.weight": (WORDS, WIDE)}
        names = {f"layers.0.{name}": shape for name, shape in shapes.items()} | outer
    else:
        norms = ("input_layernorm", "token_layernorm", "hidden_layernorm", "final_layernorm")
        shapes |= {f"{norm}.weight": (WIDE,) for norm in norms} | {"input_proj.weight": (WIDE, 2 * WIDE)}
        names = {f"model.mtp_layers.0.{name}": shape for name, shape in shapes.items()}
        names["model.embed_tokens.weight"] = (WORDS, WIDE)
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in names.items()}
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    config = {**SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, **changes}
    (path / "config.json").write_text(json.dumps(config))
    prefix = "layers.0." if layout == "eagle" else "model.mtp_layers.0."
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + SIZES["rms_norm_eps"]).rsqrt() * weight


def published(t: dict[str, Tensor], layout: str, hidden: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
    """The formulas of the papers over a whole sequence, in float64, without pages. hidden: [tokens, hidden]."""
    t = {name: value.double() for name, value in t.items()}
    hidden = hidden.double()
    if layout == "eagle":
        x = F.linear(torch.cat((t["embed_tokens.weight"][ids], hidden), -1), t["fc.weight"], t["fc.bias"])
        normed = x
    else:
        token = norm(t["model.embed_tokens.weight"][ids], t["token_layernorm.weight"])
        x = F.linear(torch.cat((norm(hidden, t["hidden_layernorm.weight"]), token), -1), t["input_proj.weight"])
        normed = norm(x, t["input_layernorm.weight"])
    angles = positions[:, None].double() / 10_000 ** (torch.arange(0, DIM, 2).double() / DIM)
    cos, sin = (torch.cat((f(angles), f(angles)), -1)[:, None] for f in (torch.cos, torch.sin))

    def rotated(part: str, heads: int) -> Tensor:
        y = F.linear(normed, t[f"self_attn.{part}_proj.weight"]).view(len(x), heads, DIM)
        return y * cos + torch.cat((-y[..., DIM // 2 :], y[..., : DIM // 2]), -1) * sin

    q, k = rotated("q", HEADS), rotated("k", KV).repeat_interleave(HEADS // KV, 1)
    v = F.linear(normed, t["self_attn.v_proj.weight"]).view(len(x), KV, DIM).repeat_interleave(HEADS // KV, 1)
    attended = F.scaled_dot_product_attention(*(y.transpose(0, 1) for y in (q, k, v)), is_causal=True)
    x = x + F.linear(attended.transpose(0, 1).reshape(len(x), -1), t["self_attn.o_proj.weight"])
    y = norm(x, t["post_attention_layernorm.weight"])
    gated = F.silu(F.linear(y, t["mlp.gate_proj.weight"])) * F.linear(y, t["mlp.up_proj.weight"])
    x = x + F.linear(gated, t["mlp.down_proj.weight"])
    return x if layout == "eagle" else norm(x, t["final_layernorm.weight"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(saved(tiny("llama"), tmp_path_factory.mktemp("model")), dtype=torch.float32, device=CPU)


class HeadDriver(DraftingDriver):
    def __init__(self, model: Model, head: Path | None) -> None:
        self.slots = Slots(8, CONTEXT, PAGE, WORDS, CELLS, CPU)
        shape = kv_shape(model.architecture, PAGE, torch.float32)
        pages = PlainPages(torch.zeros(CELLS, shape.layers, 2, shape.kv_heads, PAGE, shape.head_dim))
        self.proposer = HeadDrafts(load_head(head, model.architecture), model, self.slots) if head else None
        executor = Executor(model, self.slots, pages, Alone(), proposer=self.proposer)
        Driver.__init__(self, executor, PAGE, CELLS)
        self.most, self.ahead, self.drafted, self.accepted, self.context = 4, 2, 0, 0, CONTEXT // 2


@pytest.mark.parametrize("layout", ["eagle", "mtp"])
def test_a_head_computes_what_is_published(layout: str, tmp_path: Path, model: Model) -> None:
    """The first draft is of the published formulas, over prompt chunks, right drafts and wrong ones."""
    tensors = checkpoint(tmp_path / "head", layout)
    driver = HeadDriver(model, tmp_path / "head")
    states: dict[int, Tensor] = {}
    proposer = driver.proposer
    assert proposer is not None
    watch = proposer.watch

    def watched(slots: np.ndarray, starts: np.ndarray, hidden: list[Tensor]) -> None:
        for start, rows in zip(starts.tolist(), hidden, strict=True):
            states.update({start + at: row.clone() for at, row in enumerate(rows)})
        watch(slots, starts, hidden)

    proposer.watch = watched  # type: ignore[method-assign]
    (answer,) = driver.speculate([[5, 9, 2, 7, 7, 1]], 20, [Sampling()])
    assert driver.drafted > 20
    ids = driver.slots.tokens(0)
    places = torch.arange(len(ids) - 1)
    hidden = torch.stack([states[place] for place in places.tolist()])
    want = published(tensors, layout, hidden, torch.from_numpy(ids[1:].astype(np.int64)), places)
    held = proposer._aligned(0, ids, len(ids) - 1)
    assert held.newest is not None
    assert held.places.tolist() == places.tolist()
    assert torch.allclose(held.newest.double(), want[-1], rtol=1e-4, atol=1e-4)
    (draft,) = proposer.propose(np.array([0]), np.array([1]))
    assert draft.tolist() == [int(model.logits(want[-1:].float())[0].argmax())]
    assert answer == ids[6 : 6 + 20].tolist()


@pytest.mark.parametrize("layout", ["eagle", "mtp"])
def test_heads_change_nothing_that_is_drawn(layout: str, tmp_path: Path, model: Model) -> None:
    checkpoint(tmp_path / "head", layout)
    prompts, kinds = [[5, 9, 2], [1], [7] * 9], [Sampling(), Sampling(temperature=1.0, seed=4), Sampling()]
    with_head = HeadDriver(model, tmp_path / "head")
    assert with_head.speculate(prompts, 25, kinds) == HeadDriver(model, None).generate(prompts, 25, kinds)
    assert with_head.drafted


def test_heads_for_other_models_are_refused(tmp_path: Path, model: Model) -> None:
    checkpoint(tmp_path / "wide", "mtp", vocab_size=103)
    with pytest.raises(UnusableHead, match="the head wide is for another model: 96 wide with 103 tokens, and not 96"):
        load_head(tmp_path / "wide", model.architecture)
    with pytest.raises(UnusableHead, match=r"is no head that is known: there is no fc.weight or model.mtp_layers.0"):
        load_head(saved(tiny("llama"), tmp_path / "none"), model.architecture)
