"""The GPU's benchmark: its cases are right, which the interpreter shows at small sizes; without a GPU it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from benchmarks.gpu.cases import Sizes, cases
from workers.kernels.triton.tuning import INTERPRETER, tuning

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
    assert len(names) == len(set(names)) == 3 + 2 + 4 + 3


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
