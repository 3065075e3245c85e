"""Blocks behind windows on the real executor: folded or let go of, and their pages in other hands, an answer is that of
transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import saved, tiny

from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import pack_u32, unpack_u32
from workers.group import Alone
from workers.models.architecture import kv_shape
from workers.models.load import load_model
from workers.pages import new_pages
from workers.step.execute import Executor, StepBroken
from workers.step.rows import Written
from workers.step.slots import Slots
from workers.step.windows import Folding

PAGE = 8
CELLS = 90
PROMPT = [(7 * at) % 90 + 6 for at in range(60)]
TOKENS = 130
CPU = torch.device("cpu")


class Memory:
    """Pages in memory of this process."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def launched(self, written: Written) -> None: ...
    def commit(self, written: Written) -> None: ...
    def abandon(self) -> None: ...


class Answering:
    """One slot, and what a scheduler would tell its worker."""

    def __init__(self, path: Path) -> None:
        model = load_model(path, dtype=torch.float32, device=CPU, keep=lambda make: make(), kernels=None)
        architecture = model.architecture
        found = Folding.of(architecture.windows)
        assert found is not None
        self.folding = found
        self.pages = new_pages(kv_shape(architecture, PAGE, torch.float32), CELLS)
        self.slots = Slots(2, 400, PAGE, architecture.vocabulary, CELLS, CPU, fold=found.blocks)
        self.executor = Executor(model, self.slots, Memory(self.pages), Alone())
        self.free = [int(cell) for cell in np.random.default_rng(5).permutation(CELLS)]
        self.step, self.behind, self.most = 0, 0, 0
        self.table: list[int] = []
        self.logprobs: list[float] = []
        self.folds: list[int] = []

    def run(self, start: int, count: int, *, sample: bool, opens: tuple[SlotOpen, ...] = ()) -> list[int]:
        """A step of one row, with pages and folds as it needs them."""
        self.step += 1
        more = [self.free.pop() for _ in range(-(-(start + count) // PAGE) - len(self.table))]
        self.table += more
        unseen = max(0, start - self.folding.window + 1) // PAGE
        folds = []
        if self.folding.blocks:
            folds = [self.free.pop() for _ in range((unseen - self.behind) // self.folding.blocks)]
            self.folds += folds
            unseen = self.behind + len(folds) * self.folding.blocks
        plan = StepPlan(
            self.step, b"", opens, pack_u32([1]), pack_u32([start]), pack_u32([count]), bytes([sample]),
            pack_u32([1] * len(more)), pack_u32(more), pack_u32([1] * len(more)),
            fold_slots=pack_u32([1] * len(folds)), folds=pack_u32(folds), fold_generations=pack_u32([1] * len(folds)),
        )  # fmt: skip
        result = self.executor.run(plan)
        drawn: list[int] = unpack_u32(result.tokens).tolist()
        self.logprobs += [value.chosen for _, value in result.logprobs]
        for block in range(self.behind, unseen):
            self.pages[self.table[block]] = torch.nan
            self.free.insert(0, self.table[block])
        self.behind = unseen
        self.most = max(self.most, len(self.table) - self.behind + len(self.folds))
        return drawn

    def answer(self) -> list[int]:
        opened = SlotOpen(1, 7, pack_u32(PROMPT), len(PROMPT), 0, b"", b"", Sampling(temperature=0.0, logprobs=0))
        self.run(0, 30, sample=False, opens=(opened,))
        told = self.run(30, len(PROMPT) - 30, sample=True)
        while len(told) < TOKENS:
            told += self.run(len(PROMPT) + len(told) - 1, 1, sample=True)
        return told


@pytest.mark.parametrize(
    ("family", "most"),
    [
        ("gemma3_text", 17),
        ("mistral", 9),
        pytest.param("gemma2", 18, marks=pytest.mark.slow),
        pytest.param("phi3", 9, marks=pytest.mark.slow),
    ],
)
def test_an_answer_is_that_of_transformers_while_pages_behind_windows_are_anothers(
    family: str, most: int, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    model = tiny(family)
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None,
            pad_token_id=0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    logprobs = [float(logits[0].log_softmax(-1).max()) for logits in expected.logits]
    answering = Answering(saved(model, tmp_path))
    assert answering.answer() == expected.sequences[0, len(PROMPT) :].tolist()
    assert answering.logprobs == pytest.approx(logprobs, abs=2e-4)  # a few wrong blocks change tokens seldom
    assert answering.most <= most < len(answering.table) == 24


def test_blocks_that_are_not_computed_are_not_folded(tmp_path: Path) -> None:
    answering = Answering(saved(tiny("gemma3_text"), tmp_path))
    opened = SlotOpen(1, 7, pack_u32(PROMPT), len(PROMPT), 0, b"", b"", Sampling(temperature=0.0, logprobs=0))
    answering.run(0, 30, sample=False, opens=(opened,))
    answering.behind = -answering.folding.blocks  # so that a fold seems due
    with pytest.raises(StepBroken, match="not computed"):
        answering.run(30, 1, sample=False)
