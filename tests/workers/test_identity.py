"""By what KV is known: whatever rounds it otherwise makes another identity, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import torch

from workers.engine import Engine
from workers.kernels.pack import Kernels
from workers.loading import identity_of

WEIGHTS = b"w" * 32
TORCH = Engine(torch.float32, torch.float32, None)
KERNELS = Engine(torch.float32, torch.float32, Kernels(Path("kernels.so"), 2, "floats"))


def test_what_computes_otherwise_shares_no_prefix() -> None:
    found = {
        identity_of(WEIGHTS, engine.numerics, rope, ranks, rounded)
        for engine in (TORCH, KERNELS)
        for rope in ("", "long")
        for ranks in (1, 2, 3)
        for rounded in ("", "5f")
    }
    assert len(found) == 2 * 2 * 3 * 2


def test_the_reference_path_is_known_by_its_weights_alone() -> None:
    assert identity_of(WEIGHTS, TORCH.numerics, "", 1) == WEIGHTS


def test_threads_and_the_file_of_the_kernels_make_no_difference() -> None:
    other = KERNELS._replace(kernels=Kernels(Path("elsewhere.so"), 7, "floats"))
    assert identity_of(WEIGHTS, KERNELS.numerics, "", 1) == identity_of(WEIGHTS, other.numerics, "", 1)
