"""Every family on the GPU's kernels, in Triton's interpreter: the logits of torch's operators, whatever a step is of.

Small random models. Steps are prefill, chunks after context, decodes, and all of it mixed; windows are shorter than the
sequences. What single kernels compute is in `test_kernels_triton` and `test_attention_triton`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from forward import Runner
from tiny import OF_FAMILY, saved, tiny

from workers.kernels.triton.launch import launches
from workers.operators.fused import fused

CPU = torch.device("cpu")
# Rows of (sequence, tokens) of each step.
STEPS = (
    [("a", 14)],
    [("a", 11), ("b", 2)],
    [("c", 9), ("a", 1), ("b", 1)],
    [("a", 1), ("b", 1), ("c", 1)],
)
SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
OF_VARIANT: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, SMALL) for family in OF_FAMILY},
    "gemma3_text": ("gemma3_text", {**SMALL, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3 of a part of each head": (
        "phi3",
        {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
}  # fmt: skip
TOLERANCE = 2e-4  # of logits of some units, in float32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits_of(runner: Runner, ids: Tensor) -> list[Tensor]:
    """By step, [tokens, vocabulary]."""
    at: dict[str, int] = {}
    found = []
    for step in STEPS:
        rows = []
        for name, count in step:
            begin = at.get(name, 0)
            at[name] = begin + count
            rows.append((name, ids[begin : begin + count].roll(ord(name)).tolist()))
        found.append(runner.logits(torch.cat(runner.step(rows))))
    return found


@pytest.mark.parametrize("variant", OF_VARIANT)
def test_a_family_has_the_logits_of_torch(variant: str, tmp_path: Path) -> None:
    """Given steps of all kinds, when both compute them, then logits are the same within rounding."""
    family, changes = OF_VARIANT[variant]
    path = saved(tiny(family, **changes), tmp_path)
    ids = torch.randint(0, 101, (40,), generator=torch.Generator().manual_seed(3))
    plain = Runner(path, page_tokens=8)
    with launches(run=True) as seen:
        ours = logits_of(Runner(path, page_tokens=8, make_operators=fused(torch.float32, CPU)), ids)
    for found, expected in zip(ours, logits_of(plain, ids), strict=True):
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    kernels = {each.kernel.__name__ for each in seen}
    assert kernels >= {"_norm", "_rotate_and_write", "_split", "_merge", "_prefill", "_gated"}
