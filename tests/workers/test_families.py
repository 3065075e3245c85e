"""Every family computes what transformers computes: small random models, in float32, from both formats.

What is peculiar to each is in `tiny.OF_FAMILY`; what is only there in some models is a variant here. The prompt is four
times as long as the windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from forward import Runner
from gguf.constants import MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES
from test_models_tiny import IDS, close, computed, expected
from tiny import GGUF_NAMES, OF_FAMILY, converted, saved, tiny, written

from bus.config import Config, ModelConfig
from workers import engine
from workers.capacity import shape
from workers.host import assign
from workers.kernels.library import Attention
from workers.layers.experts import route
from workers.loading import Loaded, load
from workers.models.config import read_architecture
from workers.models.families import FAMILIES, supported
from workers.weights.source import WeightsError

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0],
    "partial_rotary_factor": 0.75,
}


def longrope(original: int) -> dict[str, Any]:
    """Of a model that was trained with so much context, and then stretched to 512."""
    rope = {**LONGROPE, "original_max_position_embeddings": original}
    return {"rope_parameters": rope, "original_max_position_embeddings": original, "sliding_window": None}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in OF_FAMILY},
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "mixtral with a window": ("mixtral", {"sliding_window": 21}),
    "mixtral of one expert each": ("mixtral", {"num_experts_per_tok": 1}),
    "qwen2 with some windows": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 2},
    ),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3 with some windows": (
        "qwen3", {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 1},
    ),
    "qwen3_moe not normalised": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3_moe every other layer": ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": []}),
    "gemma2 as in gguf": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gemma3_text as in gguf": ("gemma3_text", {"query_pre_attn_scalar": 16}),
    "gemma2 without caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3_text with a logit cap": ("gemma3_text", {"final_logit_softcapping": 2.0}),
    "gemma3_text with linear rope": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "phi3 of a part of each head": (
        "phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "phi3 longrope": ("phi3", longrope(64)),
    "granite tied": ("granite", {"tie_word_embeddings": True}),
}  # fmt: skip
# llama.cpp's files have no place for these: queries are scaled by the size of a head, for example.
NOT_IN_GGUF = {
    "mistral", "mixtral with a window", "qwen2 with some windows", "qwen3 with some windows",
    "qwen3_moe not normalised", "gemma2", "gemma2 without caps", "gemma3_text", "gemma3_text with a logit cap",
    "gemma3_text with linear rope",
}  # fmt: skip
CHUNKS = (33, 17, 2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more, and lose much where others compute on the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(variant: str) -> Any:
    family, changes = VARIANTS[variant]
    return tiny(family, **changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_chunks_and_decode_equal_transformers(variant: str, tmp_path: Path) -> None:
    model = model_of(variant)
    path = saved(model, tmp_path)
    close(computed(Runner(path), len(IDS)), model)
    close(computed(Runner(path, page_tokens=8), *CHUNKS), model)
    assert read_architecture(path).parameters == model.num_parameters()


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - NOT_IN_GGUF))
def test_gguf_files_equal_transformers(variant: str, tmp_path: Path) -> None:
    model = model_of(variant)
    close(computed(Runner(written(model, tmp_path / "m.gguf")), *CHUNKS), model)


@pytest.mark.parametrize("family", OF_FAMILY)
def test_names_in_gguf_are_those_of_gguf(family: str) -> None:
    """Given what the tests write, when it is compared with gguf's own tables, then no name is our invention."""
    name = GGUF_NAMES.get(family, family)
    (architecture,) = [arch for arch in MODEL_ARCH if gguf.MODEL_ARCH_NAMES[arch] == name]
    known = {TENSOR_NAMES[tensor] for tensor in MODEL_TENSORS[architecture]}
    for tensor in converted(tiny(family, **({"mlp_only_layers": []} if family == "qwen3_moe" else {}))):
        stem = tensor.rsplit(".", 1)[0]
        parts = stem.split(".")
        assert (f"blk.{{bid}}.{parts[2]}" if len(parts) == 3 else stem) in known


@pytest.mark.parametrize("family", OF_FAMILY)
def test_ranks_agree_with_one(family: str, tmp_path: Path) -> None:
    """Given three KV heads and numbers of experts that two ranks cannot halve, when they share them, then all is the
    same."""
    model = tiny(family)
    close(computed(Runner(saved(model, tmp_path / "hf"), ranks=2), *CHUNKS), model)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "phi3"])
def test_ranks_share_stacked_experts_and_fused_parts_of_gguf_files(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    close(computed(Runner(written(model, tmp_path / "m.gguf"), ranks=3), *CHUNKS), model)


@pytest.mark.parametrize("family", OF_FAMILY)
def test_a_mixed_batch_draws_what_transformers_draws(family: str, tmp_path: Path) -> None:
    """Given prompts of all lengths that are fed in chunks and decode as soon as they can, when they are decoded
    greedily beyond the window, then each one's tokens are those that transformers draws for it alone."""
    model = tiny(family)
    runner = Runner(saved(model, tmp_path))
    prompts = [IDS[:1], IDS[:19], IDS[3:24], IDS[5:75]]
    for prompt, (tokens, logprobs) in zip(prompts, runner.greedy(prompts, 12, chunk=16), strict=True):
        ids = list(prompt)
        for token, logprob in zip(tokens, logprobs, strict=True):
            with torch.inference_mode():
                wanted, drawn = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).max(-1)
            assert token == int(drawn)
            assert logprob == pytest.approx(float(wanted), abs=1e-3)
            ids.append(token)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_shared_prefix_serves_a_second_sequence(family: str, tmp_path: Path) -> None:
    """Given pages of a prefix that another sequence computed, behind windows and within them, when a second sequence
    goes on from them, then it gets what it would have computed itself: pages are whole in all layers."""
    model = tiny(family)
    runner = Runner(saved(model, tmp_path))
    runner.step([("first", IDS[:64])])
    runner.share("first", "second", 48)
    (hidden,) = runner.step([("second", IDS[48:])])
    found = runner.logits(hidden).log_softmax(-1)
    torch.testing.assert_close(found, expected(model)[48:], rtol=1e-5, atol=2e-4)


def test_longrope_takes_the_factors_of_the_context_that_is_served(tmp_path: Path) -> None:
    """Given a model stretched from 128 tokens to 512, when it is served with no more than 128, then the short factors
    hold, as in transformers for a sequence of 90; and else the long ones, for that sequence too."""
    model = tiny("phi3", **longrope(128))
    path = saved(model, tmp_path)
    close(computed(Runner(path, context=128), *CHUNKS), model)
    assert read_architecture(path).rope.variant == "long"
    served = read_architecture(path).serving(128)
    assert (served.rope.variant, served.context) == ("short", 512)
    long = computed(Runner(path), *CHUNKS)
    assert (long - expected(model)).abs().max() > 0.1
    long_sequence = [*IDS, *IDS]
    with torch.inference_mode():
        wanted = model(torch.tensor([long_sequence])).logits[0, : len(IDS)].float().log_softmax(-1)
    torch.testing.assert_close(long, wanted, rtol=1e-5, atol=2e-4)


def test_pages_of_the_other_factors_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file that is served with two contexts, then the digests of its KV are others, and a worker can begin."""
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    path = saved(tiny("phi3", **longrope(128)), tmp_path / "model")

    def loaded(context: int) -> Loaded:
        model = ModelConfig(name="m", source=f"path:{path}", dtype="float32", context_tokens=context)
        assignment = assign("worker@m.0.0", Config(model=(model,)))
        found = load(assignment, lambda _: None)
        assert isinstance(found, Loaded)
        found.warm_up(assignment)
        return found

    short, also_short, long, also_long = map(loaded, (100, 128, 300, 0))
    assert short.root == also_short.root
    assert long.root == also_long.root
    assert short.root != long.root
    assert (short.context_tokens, also_long.context_tokens) == (100, 512)


def test_a_family_that_the_kernels_lack_is_told_by_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "library", lambda _: Path("kernels.so"))
    monkeypatch.setattr(engine, "attention_of", lambda _: Attention("AMX", ""))
    path = written(tiny("qwen3"), tmp_path / "m.gguf")
    model = ModelConfig(name="m", source=f"path:{path}")
    assert shape(model, Config(model=(model,))).computed_in in ("bfloat16", "float32")
    insists = ModelConfig(name="m", source=f"path:{path}", deterministic=True)
    assert "do not take qwen3's norms of q and k" in shape(insists, Config(model=(insists,))).problem


OLDER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # family: changes, and what config.json of transformers 4 has in place of rope_parameters, layer_types and defaults
    "gemma3_text": ({}, {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}),
    "gemma2": ({}, {"rope_theta": 1e4}),
    "mixtral": ({}, {"rope_theta": 1e6}),
    "qwen3": ({"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 1}, {"rope_theta": 1e4}),
    "qwen3_moe": ({}, {"num_experts": 8}),
    "phi3": (
        longrope(64),
        {
            "rope_theta": 1e4, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope", "short_factor": LONGROPE["short_factor"], "long_factor": LONGROPE["long_factor"],
            },
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", OLDER)
def test_older_configurations_say_the_same(family: str, tmp_path: Path) -> None:
    """The hub's files are of transformers 4, which leaves out what is usual in a family."""
    changes, older = OLDER[family]
    path = saved(tiny(family, **changes), tmp_path)
    newer = read_architecture(path)
    config = json.loads((path / "config.json").read_text())
    gone = ["rope_parameters", "layer_types", "original_max_position_embeddings"]
    gone += ["tie_word_embeddings"] if family.startswith("gemma") else []
    gone += ["num_local_experts"] if family == "qwen3_moe" else []
    kept = {key: value for key, value in config.items() if key not in gone}
    (path / "config.json").write_text(json.dumps({**kept, **older}))
    assert read_architecture(path) == newer


def test_windows_as_long_as_the_context_are_none(tmp_path: Path) -> None:
    """So that the kernels take what hides nothing; gemma's keep their rope."""
    for family, there in (("mistral", False), ("gemma3_text", True)):
        path = saved(tiny(family, sliding_window=512), tmp_path / family)
        assert any(read_architecture(path).windows) == there


def test_routing_is_softmax_then_the_heaviest() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, -3.0, 0.0, 1.0]])
    weights, experts = route(logits, 2, normalised=False)
    assert experts.tolist() == [[1, 2], [0, 3]]
    torch.testing.assert_close(weights, logits.softmax(-1).gather(1, experts))
    normalised, same = route(logits, 2, normalised=True)
    assert torch.equal(same, experts)
    torch.testing.assert_close(normalised.sum(-1), torch.ones(2))
    torch.testing.assert_close(normalised[:, 0] / normalised[:, 1], weights[:, 0] / weights[:, 1])


def test_a_token_is_computed_alike_in_every_batch(tmp_path: Path) -> None:
    """Given experts that are chosen by few tokens, when a batch has others, then a token's sum has the same order."""
    runner = Runner(saved(tiny("mixtral"), tmp_path))
    (alone,) = runner.step([("a", IDS[:40])])
    beside, _, _ = runner.step([("b", IDS[:40]), ("c", IDS[7:80]), ("d", IDS[3:4])])
    torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping is not supported in gemma3"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"hidden_activation": "gelu"}, "activation 'gelu' is not supported in gemma3"),
        ("gemma3_text", {"layer_types": ["sliding_attention"]}, "names 1 layers of 7"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 4}, "layers of type 'chunked_attention'"),
        ("mixtral", {"num_experts_per_tok": 6}, "6 experts of 5 cannot be chosen"),
        ("mixtral", {"num_local_experts": 0}, "not positive"),
        ("qwen3", {"attention_bias": True}, "biases of attention_bias"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "not supported in qwen3"),
        ("phi3", {"rope_parameters": {**LONGROPE, "long_factor": [1.0]}}, "6 short and 1 long factors, expected 6"),
    ],
)
def test_what_a_family_cannot_be_is_refused(family: str, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = saved(tiny(family), tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(WeightsError, match=problem):
        read_architecture(path)


def test_an_architecture_that_is_not_supported_is_told_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(WeightsError, match=f"'mamba' is not supported .{', '.join(supported())} are") as caught:
        read_architecture(tmp_path)
    assert "qwen3_moe" in str(caught.value)
    assert set(FAMILIES) == {family.removesuffix("_text") for family in OF_FAMILY}
