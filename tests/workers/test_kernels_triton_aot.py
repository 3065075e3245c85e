"""Every kernel with every shipped configuration compiles for GPUs that are not there, as it is meant to.

Compiling is another process: in this one Triton's interpreter has the kernels. All GPUs: `make test-kernels`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from workers.kernels.triton.tuning import SHARED_BYTES

ROOT = Path(__file__).parents[2]


def compiled(gpu: str, *options: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(ROOT / "tests/workers/shipped.py"), gpu, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(gpu: str, launches: list[dict[str, Any]]) -> None:
    """No spills, shared memory that fits, products by tensor cores, loads of keys and values that run ahead."""
    assert {each["kernel"] for each in launches} >= {
        "_list", "_split", "_merge", "_prefill", "_rotate_and_write", "_norm", "_gated", "_grouped", "_embed",
        "_assemble", "_edit", "_scan", "_finish", "_truncate", "_best", "_remember", "_shrink", "_expand",
        "_product", "_sum", "_round", "_widen",
    }  # fmt: skip
    for each in launches:
        assert each["spilled"] == 0, each
        assert each["shared"] <= SHARED_BYTES[gpu], each
        if each["kernel"] in ("_split", "_prefill"):
            assert each["cp.async"] > 0, each
        if each["kernel"] == "_split":
            assert each["mma.sync"] > 0, each  # 16 rows: what newer instructions take begins at 64
        if each["kernel"] == "_product":
            assert each["cp.async"] > 0, each
            expected = {"sm_90": "wgmma", "sm_100": "tcgen05"}.get(gpu, "mma.sync")
            # 64 rows are the least of the newer instructions, and integers are left out of Blackwell's.
            narrow = each["rows"] < 64 or (gpu == "sm_100" and each["inputs"] == "int8")
            assert each["mma.sync" if narrow else expected] > 0, each
        if each["kernel"] == "_prefill":
            expected = {"sm_90": "wgmma", "sm_100": "tcgen05"}.get(gpu, "mma.sync")
            assert each["rows"] >= 64 or expected == "mma.sync", each
            assert each[expected] > 0, each


def test_one_configuration_of_each_kernel_compiles_for_hopper() -> None:
    """The short version, for every change; the long one is below."""
    check("sm_90", compiled("sm_90", "--short"))


def test_no_step_waits_for_a_compiler_because_of_a_length() -> None:
    """Steps of all kinds of rows and contexts are one specialisation of each kernel, `_list` of powers of two."""
    (counted,) = compiled("sm_90", "--specialisations")
    assert counted == {"_rotate_and_write": 1, "_list": 2, "_split": 1, "_merge": 1, "_prefill": 1}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("gpu", sorted(SHARED_BYTES))
def test_all_that_is_shipped_compiles(gpu: str) -> None:
    check(gpu, compiled(gpu))
