"""Adapters compute what transformers with PEFT computes, beside others and none, with torch and with the kernels."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import EVERYWHERE, adapted, merged
from forward import Runner
from safetensors.torch import load_file, save_file
from test_models_tiny import IDS
from tiny import saved, tiny, written
from torch import Tensor

from workers.host import cpu_flags
from workers.kernels.build import library
from workers.kernels.pack import Kernels, Scheme
from workers.lora.adapter import Adapter
from workers.lora.reader import BadAdapter, Bounds, read_adapter
from workers.models.load import load_weights

BOUNDS = Bounds(256, 1 << 30)
COMPUTED_BY = [pytest.param(False, id="torch"), pytest.param(True, id="kernels", marks=pytest.mark.kernels)]


def kernels(scheme: Scheme = "floats", threads: int = 2) -> Kernels:
    return Kernels(library(cpu_flags()), threads, scheme)


def read(base: Path, path: Path, native: bool, ranks: int = 1, dtype: torch.dtype = torch.float32) -> list[Adapter]:
    """Each rank's share."""
    found = []
    for rank in range(ranks):
        weights = load_weights(base, dtype=dtype, rank=rank, ranks=ranks, kernels=kernels() if native else None)
        found.append(read_adapter(path, path.name, weights, BOUNDS))
    return found


def logits_of(runner: Runner, name: str, *chunks: int) -> Tensor:
    """Of a sequence that is fed in chunks of these sizes and the rest one by one."""
    hidden, begin = [], 0
    for size in [*chunks, *[1] * (len(IDS) - sum(chunks))]:
        hidden += runner.step([(name, IDS[begin : begin + size])])
        begin += size
    return runner.logits(torch.cat(hidden), [name] * len(IDS)).log_softmax(-1)


def expected(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([IDS])).logits[0].float().log_softmax(-1)
    return found


def close(found: Tensor, model: Any) -> None:
    torch.testing.assert_close(found, expected(model), rtol=1e-5, atol=1e-3)


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "everywhere": ("llama", {}),
    "rank 1": ("llama", {"r": 1}),
    "rank 19, rslora": ("llama", {"r": 19, "use_rslora": True, "lora_alpha": 5}),
    "rank 256": ("llama", {"r": 256, "lora_alpha": 64}),
    "attention only": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "some layers": ("llama", {"layers_to_transform": [1], "target_modules": ["o_proj", "down_proj"]}),
    "head only": ("llama", {"target_modules": ["lm_head"]}),
    "patterns": ("llama", {"rank_pattern": {"q_proj": 7, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "biases of the base": ("qwen2", {}),
    "fused parts": ("phi3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
}  # fmt: skip


@pytest.mark.parametrize("native", COMPUTED_BY)
@pytest.mark.parametrize("variant", CONFIGS)
def test_an_adapter_computes_what_peft_computes(variant: str, native: bool, tmp_path: Path) -> None:
    family, config = CONFIGS[variant]
    model = tiny(family, **({"sliding_window": None} if family == "phi3" else {}))
    base = saved(model, tmp_path / "base")
    peft = adapted(model, tmp_path / "a", **config)
    assert not torch.allclose(expected(peft), expected(model), atol=1e-2), "the adapter changes nothing"
    runner = Runner(base, kernels=kernels() if native else None)
    runner.adapters = dict.fromkeys(("a", "b"), read(base, tmp_path / "a", native))
    close(logits_of(runner, "a", len(IDS)), peft)
    close(logits_of(runner, "b", 33, 17, 2), peft)
    close(logits_of(runner, "c", 40), model)


def test_what_an_adapter_means_is_its_product_added_to_the_weights(tmp_path: Path) -> None:
    model = tiny("llama")
    peft = adapted(model, tmp_path, r=6, use_rslora=True)
    torch.testing.assert_close(expected(merged(model, tmp_path)), expected(peft), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("native", COMPUTED_BY)
def test_ranks_have_slices_of_it(native: bool, tmp_path: Path) -> None:
    model = tiny("qwen2", num_attention_heads=6, head_dim=32)
    base = saved(model, tmp_path / "base")
    peft = adapted(model, tmp_path / "a")
    runner = Runner(base, ranks=2, kernels=kernels() if native else None)
    runner.adapters = {"a": read(base, tmp_path / "a", native, ranks=2)}
    close(logits_of(runner, "a", 33, 17, 2), peft)


def test_an_adapter_fits_a_base_that_was_read_from_gguf(tmp_path: Path) -> None:
    """Rows of q and k are in another order in that file."""
    model = tiny("llama")
    base = written(model, tmp_path / "m.gguf")
    peft = adapted(model, tmp_path / "a")
    runner = Runner(base)
    runner.adapters = {"a": read(base, tmp_path / "a", native=False)}
    close(logits_of(runner, "a", 40), peft)


@pytest.mark.parametrize("family", ["mixtral", "qwen3", "gemma2", "gemma3_text", "granite"])
def test_other_families_have_adapters_too(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    base = saved(model, tmp_path / "base")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if family != "mixtral":
        modules += ["gate_proj", "up_proj", "down_proj"]
    peft = adapted(model, tmp_path / "a", target_modules=modules)
    runner = Runner(base)
    runner.adapters = {"a": read(base, tmp_path / "a", native=False)}
    close(logits_of(runner, "a", 33, 17), peft)


@pytest.mark.kernels
@pytest.mark.parametrize("scheme", ["floats", "int8"])
def test_neighbours_with_other_adapters_or_none_change_no_bit(scheme: Scheme, tmp_path: Path) -> None:
    model = tiny("llama")
    base = saved(model, tmp_path / "base")
    for seed, rank in ((1, 4), (2, 33)):
        adapted(model, tmp_path / f"{seed}", seed=seed, r=rank)
    one, two = (read(base, tmp_path / name, native=True) for name in ("1", "2"))

    def runner(threads: int = 2) -> Runner:
        made = Runner(base, kernels=kernels(scheme, threads), dtype=torch.bfloat16)
        made.adapters = {"one": one, "two": two, "other": one}
        return made

    rows = [("one", IDS[:40]), ("two", IDS[3:40]), ("none", IDS[:21])]
    alone = []
    for row in rows:
        apart = runner(threads=1)
        steps = [apart.step([row])[0], *(apart.step([(row[0], [token])])[0] for token in IDS[40:44])]
        alone.append((torch.cat(steps), apart.logits(torch.cat(steps), [row[0]] * sum(map(len, steps)))))
    together = runner()
    found = [[hidden] for hidden in together.step([*rows, ("other", IDS[:70])])[:3]]
    for token in IDS[40:44]:
        order = [("other", [5]), *((name, [token]) for name, _ in rows)]
        for kept, hidden in zip(found, together.step(order)[1:], strict=True):
            kept.append(hidden)
    for (name, _), parts, (hidden, logits) in zip(rows, found, alone, strict=True):
        assert torch.equal(torch.cat(parts), hidden)
        assert torch.equal(together.logits(torch.cat(parts), [name] * len(hidden)), logits)
    plain = Runner(base, kernels=kernels(scheme), dtype=torch.bfloat16)
    assert torch.equal(plain.step([("x", IDS[:21])])[0], alone[2][0][:21]), "a row without one has other bits"


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    model = tiny("llama")
    base = saved(model, tmp_path / "base")
    adapted(model, tmp_path / "a", seed=1)
    adapted(model, tmp_path / "b", seed=2)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    digests = {name: read(base, tmp_path / name, native=False)[0].digest for name in "abc"}
    assert digests["a"] == digests["c"] != digests["b"]
    config = (tmp_path / "c" / "adapter_config.json").read_text()
    (tmp_path / "c" / "adapter_config.json").write_text(config.replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert read(base, tmp_path / "c", native=False)[0].digest != digests["a"]


# --- what is refused ------------------------------------------------------------------------------------------------


def _config(**changes: Any) -> Any:
    def spoil(path: Path) -> None:
        file = path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def _tensors(change: Any) -> Any:
    def spoil(path: Path) -> None:
        file = path / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return spoil


def _pickled(name: str) -> Any:
    def spoil(path: Path) -> None:
        tensors = load_file(path / "adapter_model.safetensors")
        (path / "adapter_model.safetensors").unlink()
        torch.save(tensors, path / name)

    return spoil


def _pipe(path: Path) -> None:
    (path / "adapter_model.safetensors").unlink()
    os.mkfifo(path / "adapter_model.safetensors")


_Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD: dict[str, tuple[Any, str]] = {
    "a pickle": (_pickled("adapter_model.bin"), "adapter_model.bin is a pickle"),
    "a pickle by another name": (_pickled("adapter_model.safetensors"), "it is a pickle"),
    "no weights": (lambda path: (path / "adapter_model.safetensors").unlink(), "No such file"),
    "no configuration": (lambda path: (path / "adapter_config.json").unlink(), "No such file"),
    "a pipe": (_pipe, "no regular file"),
    "cut short": (lambda path: os.truncate(path / "adapter_model.safetensors", 5000), "cannot be read as safetensors"),
    "not JSON": (lambda path: (path / "adapter_config.json").write_text("{"), "not the configuration"),
    "deep JSON": (lambda path: (path / "adapter_config.json").write_text('{"a":' + "[" * 90_000), "not the config"),
    "another method": (_config(peft_type="IA3"), "only LORA"),
    "dora": (_config(use_dora=True), "use_dora"),
    "a variant of tomorrow": (_config(use_xora=True), "use_xora"),
    "biases": (_config(bias="all"), "bias 'all'"),
    "whole modules": (_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "pissa": (_config(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    "rank too large": (_config(r=257), "rank 257"),
    "rank of nothing": (_config(r=0), "rank 0"),
    "another rank than the tensors": (_config(r=5), "of rank 5 this model has"),
    "an alpha that is none": (_config(lora_alpha=1e300), "lora_alpha"),
    "a pattern that takes for ever": (_config(rank_pattern={"(a+)+b": 4}), "pattern"),
    "a wrong shape": (_tensors(lambda t: t.update({_Q: torch.zeros(4, 95)})), "of rank 4 this model has"),
    "a module too many": (
        _tensors(lambda t: t.update({_Q.replace("layers.0", "layers.3"): t[_Q].clone()})),
        "layers.3",
    ),
    "half a module": (_tensors(lambda t: t.pop(_Q)), "lora_A.weight is missing"),
    "an embedding": (
        _tensors(lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 101)})),
        "adapters of the embedding are not served",
    ),
    "an expert": (
        _tensors(lambda t: t.update({_Q.replace("self_attn.q_proj", "mlp.experts.3.up_proj"): torch.zeros(4, 96)})),
        r"mlp\.experts\.3\.up_proj: adapters of experts",
    ),
    "a router": (
        _tensors(lambda t: t.update({_Q.replace("self_attn.q_proj", "mlp.gate"): torch.zeros(4, 96)})),
        r"mlp\.gate: adapters of experts and of what chooses them",
    ),
    "no matrix": (_tensors(lambda t: t.update({"x": torch.zeros(4, 96)})), "no matrix of a LoRA adapter"),
    "another vocabulary": (
        _tensors(lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.zeros(99, 96)})),
        "vocabulary was changed",
    ),
    "not finite": (_tensors(lambda t: t[_Q].fill_(float("inf"))), "not finite"),
    "integers": (_tensors(lambda t: t.update({_Q: torch.zeros(4, 96, dtype=torch.int8)})), "torch.int8"),
    "nothing": (_tensors(lambda t: t.clear()), "no module"),
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    """A base with its weights, and a good adapter."""
    path = tmp_path_factory.mktemp("small")
    model = tiny("llama")
    base = saved(model, path / "base")
    adapted(model, path / "good")
    return load_weights(base, dtype=torch.float32), path / "good", model


@pytest.mark.parametrize("what", BAD)
def test_a_bad_adapter_is_refused_by_name(what: str, small: tuple[Any, Path, Any], tmp_path: Path) -> None:
    weights, good, _ = small
    path = tmp_path / "bad"
    shutil.copytree(good, path)
    spoil, said = BAD[what]
    spoil(path)
    with pytest.raises(BadAdapter, match=said) as refused:
        read_adapter(path, "bad", weights, BOUNDS)
    assert str(path) in str(refused.value)


def test_an_adapter_that_is_too_large_is_refused_unread(small: tuple[Any, Path, Any]) -> None:
    weights, good, _ = small
    size = (good / "adapter_model.safetensors").stat().st_size
    read_adapter(good, "a", weights, Bounds(256, size))
    with pytest.raises(BadAdapter, match=r"at most \d+ are served .*max_size"):
        read_adapter(good, "a", weights, Bounds(256, size - 1))
    with pytest.raises(BadAdapter, match="rank 4: 1 to 3"):
        read_adapter(good, "a", weights, Bounds(3, size))


def test_an_adapter_of_another_model_does_not_fit(small: tuple[Any, Path, Any], tmp_path: Path) -> None:
    weights, _, _ = small
    adapted(tiny("llama", hidden_size=192), tmp_path / "other", target_modules=EVERYWHERE)
    with pytest.raises(BadAdapter, match="this model has"):
        read_adapter(tmp_path / "other", "a", weights, BOUNDS)
