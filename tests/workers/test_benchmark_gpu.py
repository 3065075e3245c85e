"""The GPU's benchmark: its cases are right, which the interpreter shows at small sizes; without a GPU it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from benchmarks.gpu import engine
from benchmarks.gpu.__main__ import Ceilings
from benchmarks.gpu.cases import Sizes, cases
from benchmarks.gpu.shapes import LLAMA_8B, LLAMA_70B, QWEN3_30B, TINY, Case, Setup, random_weights
from workers.kernels.triton.tuning import INTERPRETER, tuning
from workers.weights.quantised.weight import QuantisedWeight

SMALL = Sizes(
    hidden=96, inner=100, vocabulary=700, heads=6, kv_heads=2, head_dim=32, page_tokens=16,
    rows=(3,), decodes=((2, 70),), chunks=((0, 40), (20, 30)), dtype=torch.float32,
)  # fmt: skip


def test_each_case_computes_what_torch_does() -> None:
    names = []
    for case in cases(SMALL, torch.device("cpu"), tuning(INTERPRETER)):
        case.check()
        assert (case.moved_bytes > 0) != (case.flops > 0)
        names.append(case.name)
    assert len(names) == len(set(names)) == 3 + 2 + 4 + 4 + 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_and_says_why() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, cwd=root, env=environment, check=False
    )
    assert done.returncode == 69
    assert "this measures kernels on an NVIDIA GPU: torch" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_engine_on_a_stand_takes_every_kind_of_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Dry, on tiny models: decodes and a prefill of each, with figures that hang together."""
    engine.main(["--dry", "--json", "--only", "tiny"])
    about, *found = map(json.loads, capsys.readouterr().out.splitlines())
    assert about["dry"]
    assert [line["case"] for line in found] == 2 * [case.name for case in engine.DRY]
    for line in found:
        assert line["layers"] == line["of_layers"] == 2
        assert line["of_floor"] == pytest.approx(line["floor_ms"] / line["ms"])


def test_floors_are_those_that_were_worked_out_by_hand() -> None:
    """Of an H200, from its measured copy and product: decode of the 8B and the 30B, prefill of the 8B, in ms."""
    h200 = Ceilings(4300.0, 780.0)
    for model, case, expected in (
        (LLAMA_8B, Case(1, 1024), 3.52), (LLAMA_8B, Case(32, 4096), 7.49), (LLAMA_8B, Case(128, 1024), 7.49),
        (LLAMA_8B, Case(256, 1024), 12.9), (QWEN3_30B, Case(1, 1024), 1.44), (QWEN3_30B, Case(128, 1024), 17.1),
        (LLAMA_8B, Case(1, 0, 2048), 38.5),
    ):  # fmt: skip
        assert engine.floor_s(model, case, 2, h200) * 1e3 == pytest.approx(expected, rel=0.03)


def test_weights_of_8_bits_read_half_and_multiply_faster() -> None:
    """The 70B in FP8 at one row, and its prefill, as they were worked out by hand."""
    h200 = Ceilings(4300.0, 780.0, 1400.0)
    for case, expected in ((Case(1, 1024), 16.5), (Case(1, 0, 2048), 209.0)):
        assert engine.floor_s(LLAMA_70B, case, 2, h200, fp8=True) * 1e3 == pytest.approx(expected, rel=0.03)
    setup = Setup(torch.device("cpu"), torch.bfloat16, 64, 1, 138 << 30, fp8=True)
    assert engine.fitting(LLAMA_70B, Case(128, 1024), setup).layers == 80
    weights = random_weights(TINY, torch.bfloat16, torch.device("cpu"), fp8=True)
    assert weights.quantised == ("FP8 with inputs rounded",)
    weight = weights.gate_up(0)
    assert isinstance(weight, QuantisedWeight)
    assert (weight.rows, weight.inputs) == (192, 64)
    assert float(weight.weights().std()) == pytest.approx(64**-0.5, rel=0.05)


def test_what_does_not_fit_is_computed_in_part_or_left_out() -> None:
    setup = Setup(torch.device("cpu"), torch.bfloat16, 64, 1, 138 << 30)
    assert engine.fitting(LLAMA_8B, Case(128, 1024), setup).layers == 32
    assert 40 <= engine.fitting(LLAMA_70B, Case(1, 1024), setup).layers < 80
    (line,) = engine.lines({"70B": LLAMA_70B}, [Case(256, 4096)], setup, Ceilings(1, 1), float("inf"))
    assert "fit" in line["left_out"]
