"""Plans for an encoder: rows are whole sequences, vectors come in the order of the plan, a bad row is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from driving import make_plan
from tiny_encoders import VOCABULARY, save

from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen
from bus.packed import pack_u32, unpack_f32
from workers.encoding.encoder import Encoder
from workers.encoding.execute import EncodeExecutor
from workers.encoding.weights import load_weights
from workers.step.execute import StepBroken

TEXTS = {0: [5, 6, 7], 1: [8] * 30, 2: [9, 10], 3: [11] * 29}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    directory = tmp_path_factory.mktemp("bert")
    save(directory, "bert")
    return Encoder(load_weights(directory, torch.float32))


def opened(slot: int, tokens: list[int], segment: int | None = None) -> SlotOpen:
    whole = len(tokens) if segment is None else segment
    return SlotOpen(slot, slot + 1, pack_u32(tokens), len(tokens), 0, b"", b"", Sampling(), -1, whole)


def vectors(
    encoder: Encoder, executor: EncodeExecutor, step: int, slots: list[int], closes: tuple[int, ...] = ()
) -> object:
    rows = [(slot, 0, len(TEXTS[slot]), False) for slot in slots]
    plan = make_plan(step, rows, opens=[opened(slot, TEXTS[slot]) for slot in slots], closes=closes)
    result = executor.run(plan)
    assert (result.step, result.slots, result.tokens) == (step, b"", b"")
    return unpack_f32(result.vectors).reshape(len(slots), encoder.architecture.dimensions)


def test_vectors_come_in_the_order_of_the_plan_whatever_the_lengths(encoder: Encoder) -> None:
    executor = EncodeExecutor(encoder, 4)
    together = vectors(encoder, executor, 1, [2, 1, 0, 3])
    for row, slot in enumerate((2, 1, 0, 3)):
        alone = vectors(encoder, EncodeExecutor(encoder, 4), 1, [slot])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)  # type: ignore[index]


def test_slots_are_in_use_until_they_are_closed(encoder: Encoder) -> None:
    executor = EncodeExecutor(encoder, 4)
    vectors(encoder, executor, 1, [0, 1])
    assert executor.in_use == 2
    executor.run(make_plan(2, closes=[0, 1]))
    assert executor.in_use == 0


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (make_plan(1, [(1, 0, 2, False)]), (1,)),  # closed
        (make_plan(1, [(0, 0, 2, False)], opens=[opened(0, [5, 6, 7])]), (0,)),  # a part
        (make_plan(1, [(0, 1, 2, False)], opens=[opened(0, [5, 6, 7])]), (0,)),
        (make_plan(1, [(0, 0, 3, True)], opens=[opened(0, [5, 6, 7])]), (0,)),  # drawn from
        (make_plan(1, [(0, 0, 1, False)], opens=[opened(0, [VOCABULARY])]), (0,)),
        (make_plan(1, [(0, 0, 67, False)], opens=[opened(0, [5] * 67)]), (0,)),
        (make_plan(1, [(0, 0, 3, False)], opens=[opened(0, [5, 6, 7], 0)]), (0,)),
        (make_plan(1, [(9, 0, 3, False)], opens=[opened(9, [5, 6, 7])]), ()),
    ],
)
def test_what_cannot_be_a_row_fails_the_step_and_closes_all(
    encoder: Encoder, plan: object, named: tuple[int, ...]
) -> None:
    executor = EncodeExecutor(encoder, 4)
    with pytest.raises(StepBroken) as broken:
        executor.run(plan)  # type: ignore[arg-type]
    assert (broken.value.slots, broken.value.together, executor.in_use) == (named, True, 0)


def test_a_row_that_is_not_finite_is_named(encoder: Encoder) -> None:
    words = encoder._tensors["words"]
    kept = words[100].clone()
    words[100] = float("nan")
    try:
        with pytest.raises(StepBroken) as broken:
            EncodeExecutor(encoder, 4).run(
                make_plan(1, [(0, 0, 2, False), (1, 0, 1, False)], opens=[opened(0, [5, 6]), opened(1, [100])])
            )
    finally:
        words[100] = kept
    assert broken.value.slots == (1,)
