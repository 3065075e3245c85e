"""Quantised checkpoints of each format compute what the dequantised model does, and on their own bits nearly that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import Runner
from safetensors.torch import load_file, save_file
from test_models_tiny import IDS, close, computed, expected
from tiny import saved, tiny
from tiny_quantised import Written, awq, compressed, fp8, gptq, int8, packed, quantised
from torch import Tensor

from bus.config import ModelConfig
from workers import engine
from workers.engine import choose
from workers.host import cpu_flags
from workers.kernels.build import library
from workers.kernels.library import Attention
from workers.kernels.pack import Kernels
from workers.models.load import load_weights
from workers.weights.quantised.config import quantisation_of
from workers.weights.quantised.directory import QuantisedDirectory
from workers.weights.quantised.registry import FORMATS
from workers.weights.source import WeightsError

CPU = torch.device("cpu")
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}

FORMS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Written], bool]] = {
    # name: quantization_config, how a layer is written, whether the kernels carry its bits
    "gptq": (GPTQ, gptq, True),
    "gptq with zeros": ({**GPTQ, "sym": False}, partial(gptq, symmetric=False), True),
    "gptq of 8 bits": ({**GPTQ, "bits": 8}, partial(gptq, bits=8), True),
    "gptq in order of activation": ({**GPTQ, "desc_act": True}, partial(gptq, order=True), False),
    "gptq of groups of 16": ({**GPTQ, "group_size": 16}, partial(gptq, group=16), False),
    "gptq of version 2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, partial(gptq, version=2), True),
    "awq": (AWQ, awq, True),
    "compressed w4a16": (compressed("pack-quantized", 4, "int", "group", group_size=32), packed, True),
    "compressed w4a16 with zeros": (
        compressed("pack-quantized", 4, "int", "group", group_size=32, symmetric=False),
        partial(packed, symmetric=False),
        True,
    ),
    "compressed w8a16": (
        compressed("pack-quantized", 8, "int", "group", group_size=32), partial(packed, bits=8), True,
    ),
    "compressed w8a8": (compressed("int-quantized", 8, "int", "channel"), int8, True),
    "compressed fp8 per row": (compressed("float-quantized", 8, "float", "channel"), partial(fp8, rows=True), False),
    "compressed fp8 per tensor": (compressed("float-quantized", 8, "float", "tensor"), fp8, False),
    "compressed fp8 in blocks": (
        compressed("float-quantized", 8, "float", "block", block_structure=[64, 64]), partial(fp8, block=64), False,
    ),
    "fp8 per tensor": ({**FP8, "activation_scheme": "static"}, fp8, False),
    "fp8 in blocks": (
        {**FP8, "weight_block_size": [64, 64]}, partial(fp8, block=64, scale="weight_scale_inv"), False,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more, and lose much where others compute on the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def written(form: str, path: Path, family: str = "llama") -> tuple[Any, Path]:
    """The dequantised model, and its checkpoint."""
    config, write, _ = FORMS[form]
    model = tiny(family)
    return model, quantised(model, path, config, write)


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_dequantised_model(form: str, tmp_path: Path) -> None:
    model, path = written(form, tmp_path)
    close(computed(Runner(path), 50), model)
    close(computed(Runner(path, ranks=2), 50), model)


@pytest.mark.parametrize("form", ["gptq", "compressed w4a16", "fp8 per tensor"])
@pytest.mark.parametrize("family", ["qwen3_moe", "phi3"])
def test_experts_and_fused_layers_are_layers_like_any_other(family: str, form: str, tmp_path: Path) -> None:
    model = tiny(family, **({"moe_intermediate_size": 64} if "moe" in family else {}))
    reference = saved_dequantised(model, tmp_path, form)
    torch.testing.assert_close(
        computed(Runner(tmp_path / "q"), 50), computed(Runner(reference), 50), rtol=1e-5, atol=1e-4
    )


def saved_dequantised(model: Any, tmp_path: Path, form: str) -> Path:
    """Write q, quantised, and f, the same as floats: where transformers keeps experts in another form than files."""
    config, write, _ = FORMS[form]
    floats = saved(model, tmp_path / "f")
    tensors = load_file(floats / "model.safetensors")
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            small[name] = tensor
            continue
        tensors[name], parts = write(tensor)
        small |= {f"{name.removesuffix('weight')}{part}": each for part, each in parts.items()}
    save_file(tensors, floats / "model.safetensors", metadata={"format": "pt"})
    other = saved(model, tmp_path / "q")
    save_file(small, other / "model.safetensors", metadata={"format": "pt"})
    edit(other, quantization_config=config)
    return floats


@pytest.mark.kernels
@pytest.mark.parametrize("form", [form for form, (_, _, carried) in FORMS.items() if carried])
def test_the_kernels_compute_on_its_own_bits(form: str, tmp_path: Path) -> None:
    model, path = written(form, tmp_path)
    runner = Runner(path, kernels=Kernels(library(cpu_flags()), 1, "file"))
    weights = load_weights(path, dtype=torch.bfloat16, kernels=Kernels(library(cpu_flags()), 1, "file"))
    assert {8 if "8" in form else 4} <= set(weights.bits) <= {4, 8, 32}, "32 is embedding and head"
    exact = expected(model)
    divergence = (exact.exp() * (exact - computed(runner, len(IDS)))).sum(-1)
    assert float(divergence.mean()) < 0.1, "what is left is the rounding of activations"


@pytest.mark.parametrize("form", FORMS)
def test_codes_stand_for_the_weights(form: str, tmp_path: Path) -> None:
    """Given a layer that the kernels can carry, then its codes are its weights but for the rounding of minima."""
    _, path = written(form, tmp_path)
    config = quantisation_of(path)
    assert config is not None
    source = QuantisedDirectory(path, config)
    name = "model.layers.1.mlp.down_proj.weight"
    whole = source.load(name, torch.float32)
    codes = source.codes(name, slice(8, 40))
    assert (codes is not None) == FORMS[form][2]
    if codes is not None:
        torch.testing.assert_close(torch.from_numpy(codes.weights()), whole[8:40], rtol=2e-3, atol=2e-3)
    assert torch.equal(source.load(name, torch.float32, slice(8, 40), slice(32, 96)), whole[8:40, 32:96])


def test_what_computes_is_chosen_by_what_can_carry_the_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "library", lambda _: Path("kernels.so"))
    monkeypatch.setattr(engine, "attention_of", lambda _: Attention("AMX", ""))

    def scheme(form: str, **options: Any) -> str:
        path = tmp_path / form
        if not path.exists():
            written(form, path)
        found = choose(ModelConfig(name="m", source="path:m", **options), CPU, 1, path)
        return found.kernels.scheme if found.kernels is not None else "torch"

    assert scheme("awq") == scheme("compressed w8a8") == "file"
    assert scheme("fp8 in blocks") == "torch"
    assert scheme("fp8 in blocks", quantize="int8") == "int8"
    assert scheme("awq", dtype="float32") == "torch"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"quant_method": "bitsandbytes"}, f"quantisation 'bitsandbytes' is not supported .{', '.join(FORMATS)} are"),
        ({**GPTQ, "bits": 3}, "gptq of 3 bits"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({**AWQ, "bits": 8}, "awq of 8 bits"),
        ({**AWQ, "version": "gemv"}, "version 'gemv'"),
        ({**FP8, "activation_scheme": "odd"}, "activation_scheme 'odd'"),
        (compressed("marlin-24", 4, "int", "group"), "format 'marlin-24' with weights of 4-bit int by group"),
        (compressed("nvfp4-pack-quantized", 4, "float", "tensor_group"), "'nvfp4-pack-quantized'"),
        ({**compressed("int-quantized", 8, "int", "channel"), "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({**compressed("int-quantized", 8, "int", "channel"), "config_groups": {}}, "0 different config_groups"),
        ({"quant_method": 7}, "quant_method"),
        (AWQ, "no layer is quantised"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(config: dict[str, Any], problem: str, tmp_path: Path) -> None:
    edit(saved(tiny("llama"), tmp_path), quantization_config=config)
    with pytest.raises(WeightsError, match=problem):
        load_weights(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize(
    ("form", "part", "tensor", "problem"),
    [
        ("gptq", "scales", None, "scales: missing"),
        ("gptq", "g_idx", torch.full((160,), 9, dtype=torch.int32), "g_idx names group 9 of 5"),
        ("compressed w4a16", "weight_shape", torch.tensor([96, 159]), r"weight_shape is \[96, 159\]"),
        ("compressed w8a8", "weight_scale", torch.ones(7), "7 scales for 96 rows"),
        ("compressed w8a8", "weight", torch.ones(96, 160), "type float32 are not int8"),
        ("fp8 per tensor", "weight", torch.ones(96, 160), "type float32 are not FP8"),
        ("fp8 in blocks", "weight_scale_inv", torch.ones(2, 2), r"\[2, 2\] scales of blocks, expected \[2, 3\]"),
    ],
)
def test_a_broken_layer_is_named(form: str, part: str, tensor: Tensor | None, problem: str, tmp_path: Path) -> None:
    written(form, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"model.layers.1.mlp.down_proj.{part}"
    del tensors[name]
    save_file(
        tensors if tensor is None else {**tensors, name: tensor},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(WeightsError, match=problem) as caught:
        load_weights(tmp_path, dtype=torch.float32)
    assert "model.layers.1.mlp.down_proj" in caught.value.tensor


def edit(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
