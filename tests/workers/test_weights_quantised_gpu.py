"""Quantised checkpoints on a GPU's kernels, in Triton's interpreter: from a file of each format to logits.

Layers that round inputs are compared with a model whose layers round the same in torch; and all of them, within what
that costs, with the dequantised one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from forward import Runner
from test_products_triton import rounded_reference
from test_weights_quantised import AWQ, FORMS, FP8, GPTQ, edit
from tiny import saved, tiny
from tiny import written as gguf_written
from tiny_quantised import awq, fp8, gptq, quantised

from bus.config import ModelConfig
from workers.forms import form_of, numerics, told
from workers.kernels.triton import product
from workers.kernels.triton.launch import launches
from workers.layers.linear import Linear
from workers.models.load import load_weights
from workers.operators.fused import fused
from workers.operators.interface import MakeOperators
from workers.operators.plain import PlainOperators, plain
from workers.weights import store
from workers.weights.loader import Form, Weight
from workers.weights.quantised.weight import QuantisedWeight
from workers.weights.source import WeightsError

CPU = torch.device("cpu")
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 40}  # fmt: skip
IDS = [3, 1, 4, 1, 5, 9, 2, 6]
KINDS = {
    "gptq": "INT4", "gptq with zeros": "INT4", "gptq of 8 bits": "INT8", "gptq of version 2": "INT4", "awq": "INT4",
    "compressed w4a16": "INT4", "compressed w4a16 with zeros": "INT4", "compressed w8a16": "INT8",
    "compressed w8a8": "INT8 with inputs rounded", "compressed fp8 per row": "FP8 with inputs rounded",
    "compressed fp8 per tensor": "FP8 with inputs rounded", "compressed fp8 in blocks": "FP8 with inputs rounded",
    "fp8 per tensor": "FP8 with inputs rounded", "fp8 in blocks": "FP8 with inputs rounded",
}  # fmt: skip
AT_ONCE = ("gptq with zeros", "compressed w8a8", "fp8 per tensor", "fp8 in blocks")  # the others are slow tests


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Rounding(PlainOperators):
    """Torch's operators, but that inputs are rounded where a GPU rounds them."""

    def linear(self, weight: Weight, bias: Tensor | None = None) -> Any:
        if not isinstance(weight, QuantisedWeight):
            return Linear(weight, bias)
        return lambda x: product.reference(*rounded_reference(x, weight), weight, bias).to(x.dtype)


def rounding(*arguments: Any) -> Rounding:
    operators = plain(*arguments)
    return Rounding(operators._attention, operators._kv_heads)


def logits(path: Path, make: MakeOperators, form: Form | None, ranks: int = 1) -> Tensor:
    runner = Runner(path, page_tokens=8, make_operators=make, form=form, ranks=ranks)
    prefill = runner.step([("a", IDS[:5])])
    decode = runner.step([("a", IDS[5:6]), ("b", IDS[6:])])
    return runner.logits(torch.cat([*prefill, *decode]))


def compare(path: Path, form: Form, ranks: int = 1) -> set[str]:
    """Kernels that were launched."""
    with launches(run=True) as seen:
        found = logits(path, fused(torch.float32, CPU), form, ranks)
    torch.testing.assert_close(found, logits(path, rounding, form, ranks), rtol=1e-3, atol=1e-3)
    exact = logits(path, plain, None).log_softmax(-1)
    divergence = (exact.exp() * (exact - found.log_softmax(-1))).sum(-1).mean()
    assert float(divergence) < 0.05, "inputs of 8 bits cost no more"
    return {each.kernel.__name__ for each in seen}


@pytest.mark.parametrize(
    "form", [form if form in AT_ONCE else pytest.param(form, marks=pytest.mark.slow) for form in KINDS]
)
def test_a_checkpoint_has_the_logits_of_its_numbers(form: str, tmp_path: Path) -> None:
    """Prefill, then decodes of two sequences."""
    config, write, _ = FORMS[form]
    config = rounds(config) if form.startswith("compressed") else config
    path = quantised(tiny("llama", **SMALL), tmp_path, config, write)
    launched = compare(path, "file")
    weights = load_weights(path, dtype=torch.float32, form="file", lay_out=lambda weight: weight)
    assert weights.quantised == (KINDS[form],)
    assert {"_product"} <= launched
    assert ("_round" in launched) == ("rounded" in KINDS[form])
    floats = load_weights(path, dtype=torch.bfloat16, lay_out=lambda weight: weight)
    assert weights.bytes < floats.bytes, "though what is not quantised is in float32"


def rounds(config: dict[str, Any]) -> dict[str, Any]:
    """As llm-compressor says that inputs are rounded, where weights have 8 bits and one scale for a row or block."""
    group = config["config_groups"]["group_0"]
    if config["format"] == "pack-quantized":
        return config
    inputs = {"num_bits": 8, "type": group["weights"]["type"], "dynamic": True, "symmetric": True, "strategy": "token"}
    return {**config, "config_groups": {"group_0": {**group, "input_activations": inputs}}}


@pytest.mark.parametrize("form", ["int4", pytest.param("fp8", marks=pytest.mark.slow),
                                  pytest.param("int8", marks=pytest.mark.slow)])  # fmt: skip
def test_floats_are_rounded_at_load(form: Form, tmp_path: Path) -> None:
    path = saved(tiny("qwen2", **SMALL), tmp_path)
    with launches(run=True):
        found = logits(path, fused(torch.float32, CPU), form)
    torch.testing.assert_close(found, logits(path, rounding, form), rtol=1e-3, atol=1e-3)
    exact = logits(path, plain, None).log_softmax(-1)
    assert float((exact.exp() * (exact - found.log_softmax(-1))).sum(-1).mean()) < (0.5 if form == "int4" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_gguf_file_is_multiplied_with_as_it_is(kind: str, tmp_path: Path) -> None:
    path = gguf_written(tiny("llama", **SMALL), tmp_path / "m.gguf", getattr(gguf.GGMLQuantizationType, kind))
    assert "_product" in compare(path, "file")


@pytest.mark.slow
def test_experts_keep_their_form(tmp_path: Path) -> None:
    model = tiny("qwen3_moe", **{**SMALL, "num_hidden_layers": 2, "moe_intermediate_size": 32, "num_experts": 4})
    path = saved(model, tmp_path)
    with launches(run=True) as seen:
        found = logits(path, fused(torch.float32, CPU), "int4")
    forms = {each.arguments["FORM"] for each in seen if each.kernel.__name__ == "_grouped"}
    assert forms == {"int4"}
    torch.testing.assert_close(found, logits(path, rounding, "int4"), rtol=1e-3, atol=1e-3)


def test_what_no_kernel_takes_is_served_as_floats_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = quantised(tiny("llama", **SMALL), tmp_path, {**GPTQ, "desc_act": True}, partial(gptq, order=True))
    weights = load_weights(path, dtype=torch.bfloat16, form="file", lay_out=lambda weight: weight)
    assert weights.quantised == ()
    assert "4 matrices are dequantised to bfloat16: groups in an order of their own" in caplog.text


def test_ranks_that_would_cut_a_group_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny("llama", **{**SMALL, "intermediate_size": 192})
    path = quantised(model, tmp_path, {**GPTQ, "group_size": 64}, partial(gptq, group=64))
    with pytest.raises(WeightsError, match=r"mlp.down_proj.weight: columns 0 to 96 cut a group of 64: use fewer"):
        load_weights(path, dtype=torch.bfloat16, rank=0, ranks=2, form="file", lay_out=lambda weight: weight)


@pytest.mark.parametrize("write", [partial(gptq, symmetric=False), awq, fp8], ids=["gptq", "awq", "fp8"])
def test_ranks_share_a_matrix_out(write: Callable[[Tensor], Any], tmp_path: Path) -> None:
    """Given two ranks, then their parts stand for the columns and rows of the whole."""
    config = FP8 if write is fp8 else AWQ if write is awq else GPTQ
    path = quantised(tiny("llama", **SMALL), tmp_path, config, write)

    def load(rank: int, ranks: int) -> Any:
        return load_weights(path, dtype=torch.float32, rank=rank, ranks=ranks, form="file", lay_out=lambda each: each)

    whole, parts = load(0, 1), [load(rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.down(0).weights() for part in parts], 1), whole.down(0).weights())
    assert torch.equal(torch.cat([part.attention_out(0).weights() for part in parts], 1),
                       whole.attention_out(0).weights())  # fmt: skip
    rows = [part.gate_up(0).weights().chunk(2) for part in parts]
    together = torch.cat([torch.cat([gate for gate, _ in rows]), torch.cat([up for _, up in rows])])
    assert torch.equal(together, whole.gate_up(0).weights())


@pytest.mark.parametrize(("config", "write", "name"), [(AWQ, awq, "INT4"), (FP8, fp8, "FP8 with inputs rounded")])
def test_weights_keep_their_form_in_the_store_and_on_a_device(
    config: dict[str, Any], write: Callable[[Tensor], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a file of the store, then what is mapped is what was made, and a device holds as many bytes."""
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    path = quantised(tiny("llama", **SMALL), tmp_path / "m", config, write)
    key = store.Key(b"x" * 16, "bfloat16-file", 0, 1, "test")

    def load(keep: Any) -> Any:
        return load_weights(path, dtype=torch.bfloat16, form="file", lay_out=lambda weight: weight, keep=keep)

    made = load(lambda make: make())
    load(lambda make: store.open_or_make(key, make))
    assert store.is_kept(key)
    mapped = load(lambda _: store.open_or_make(key, pytest.fail))
    assert mapped.bytes == made.bytes == mapped.on(CPU).bytes
    for weights in (mapped, mapped.on(CPU)):
        layer = weights.down(0)
        assert (layer.name, layer.inputs, layer.rows) == (name, 96, 64)
        assert torch.equal(layer.weights(), made.down(0).weights())


def test_the_form_follows_from_configuration_and_file(tmp_path: Path) -> None:
    floats, packed = saved(tiny("llama", **SMALL), tmp_path / "f"), saved(tiny("llama", **SMALL), tmp_path / "q")
    edit(packed, quantization_config=FP8)
    gpu = torch.device("cuda")

    def form(path: Path, device: torch.device = gpu, **options: Any) -> Form | None:
        return form_of(ModelConfig(name="m", source="path:m", device="cuda", **options), device, path)

    assert form(floats) is form(packed, CPU) is form(packed, quantize="none") is form(packed, dtype="bfloat16") is None
    assert form(packed) == form(tmp_path / "m.gguf") == "file"
    assert form(floats, quantize="fp8") == "fp8"
    assert numerics(None, (9, 0)) == b""
    assert len({numerics("file", (9, 0)), numerics("file", (8, 0)), numerics("int4", (9, 0))}) == 3


def test_a_gpu_without_fp8_says_what_it_does_instead(tmp_path: Path) -> None:
    path = quantised(tiny("llama", **SMALL), tmp_path, FP8, fp8)
    weights = load_weights(path, dtype=torch.bfloat16, form="file", lay_out=lambda weight: weight)
    assert told(weights, (9, 0)) == ""
    assert "compute capability 8.6 has no products of FP8, which come with 8.9" in told(weights, (8, 6))
