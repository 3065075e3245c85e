"""What a step takes at least, counted by hand for a small model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bus.ceilings import Ceilings, ceilings_file, cores, load, processor, save
from bus.messages.steps import KvShape, StepPlan
from bus.packed import pack_u32
from workers import ceilings
from workers.step.effort import effort_of
from workers.weights.prepared import Prepared

HIDDEN, LAYERS, HEADS, KV_HEADS, WIDTH, MLP, VOCABULARY = 64, 2, 4, 2, 16, 96, 100
KV = KvShape(LAYERS, KV_HEADS, 16, WIDTH, "bfloat16")


def weights(kernels: object = None, bits: int = 0) -> Prepared:
    architecture = SimpleNamespace(layers=LAYERS, hidden=HIDDEN, head_dim=WIDTH)
    shard = SimpleNamespace(
        heads=range(HEADS), kv_heads=range(KV_HEADS), intermediate=range(MLP), vocabulary=range(VOCABULARY)
    )
    tensors = {
        "embedding": torch.zeros(VOCABULARY, HIDDEN, dtype=torch.bfloat16),
        "head": torch.zeros(VOCABULARY, HIDDEN, dtype=torch.bfloat16),
        **{
            f"{layer}.{name}": torch.zeros(1000, dtype=torch.uint8)
            for layer in range(LAYERS)
            for name in ("qkv", "down")
        },
    }
    if bits:
        tensors["0.gate.form"] = torch.tensor([bits, 32, 1, 1, 0, 0], dtype=torch.int32)
    return Prepared(tensors, architecture, shard, torch.bfloat16, kernels)  # type: ignore[arg-type]


def plan(*rows: tuple[int, int, bool]) -> StepPlan:
    starts, counts, samples = zip(*rows, strict=True)
    return StepPlan(
        1, b"", (), pack_u32(range(len(rows))), pack_u32(starts), pack_u32(counts), bytes(samples), b"", b"", b""
    )


def test_a_chunk_and_a_decode() -> None:
    step = effort_of(weights(), KV, "bfloat16").of(plan((0, 8, False), (100, 1, True)))
    matrices = HIDDEN * WIDTH * (2 * HEADS + 2 * KV_HEADS) + 3 * HIDDEN * MLP
    pairs = sum(range(1, 9)) + 101
    expected = 2 * LAYERS * matrices * 9 + 2 * HIDDEN * VOCABULARY + 4 * LAYERS * HEADS * WIDTH * pairs
    assert step.operations == {"bfloat16": expected}
    kv_token = LAYERS * 2 * KV_HEADS * WIDTH * 2
    assert step.read == 4 * 1000 + VOCABULARY * HIDDEN * 2 + (8 + 101) * kv_token


def test_a_step_that_draws_nothing_does_not_read_the_head() -> None:
    effort = effort_of(weights(), KV, "bfloat16")
    drawn, not_drawn = effort.of(plan((0, 8, True))), effort.of(plan((0, 8, False)))
    assert drawn.read - not_drawn.read == VOCABULARY * HIDDEN * 2


def test_kernels_multiply_codes_as_int8_and_attend_in_what_the_engine_says() -> None:
    for attends_in in ("float32", "bfloat16"):
        step = effort_of(weights(object(), bits=5), KV, attends_in).of(plan((0, 8, False)))
        assert set(step.operations) == {"int8", attends_in}
    floats = effort_of(weights(object(), bits=16), KV, "float32").of(plan((0, 8, False)))
    assert set(floats.operations) == {"float32"}


def test_a_measurement_is_kept_and_is_of_one_host_only(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    monkeypatch.setattr(ceilings, "FOR_S", 0.0)
    monkeypatch.setattr(ceilings, "SIDE", 256)
    monkeypatch.setattr(ceilings, "READ_BYTES", 8 << 20)
    assert load(ceilings_file()) is None
    assert ceilings.main() == 0
    found = load(ceilings_file())
    assert found is not None
    assert (found.processor, found.cores) == (processor(), cores())
    assert found.read_bytes_per_s > 1e8
    assert set(found.operations_per_s) == {"int8", "bfloat16", "float32"}
    save(Ceilings("another", found.cores, "", 1.0, {}))
    assert load(ceilings_file()) is None
    ceilings_file().write_text("{")
    assert load(ceilings_file()) is None
