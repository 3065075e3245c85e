"""Slots after any sequence of plans equal a naive model; a plan that makes no sense is refused, with the slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from driving import Row, make_open, make_plan
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus.messages.requests import Sampling
from workers.step.rows import rows_of
from workers.step.slots import PlanRefused, Slots

SLOTS, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS = 4, 30, 4, 50, 64
CPU = torch.device("cpu")


def new_slots() -> Slots:
    return Slots(SLOTS, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, CPU)


@dataclass
class Naive:
    tokens: list[int]
    pages: list[int]
    sampling: Sampling
    computed: int = 0
    prompt: int = field(default=0)


class SlotsAgainstNaive(RuleBasedStateMachine):
    """Law: after any plans, every array read by index equals plain lists kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = new_slots()
        self.naive: dict[int, Naive] = {}
        self.step = 0

    @rule(
        slot=st.integers(0, SLOTS - 1),
        tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20),
        penalty=st.sampled_from([1.0, 1.2]),
        data=st.data(),
    )
    def opens(self, slot: int, tokens: list[int], penalty: float, data: st.DataObject) -> None:
        """Also over a request that was there: an open begins afresh."""
        pages = data.draw(st.lists(st.integers(0, CELLS - 1), max_size=7))
        prompt = data.draw(st.integers(0, len(tokens)))
        computed = data.draw(st.integers(0, min(len(tokens), len(pages) * PAGE_TOKENS)))
        sampling = Sampling(repetition_penalty=penalty, seed=slot)
        self.apply(opens=[make_open(slot, tokens, pages, sampling=sampling, prompt_tokens=prompt, computed=computed)])
        self.naive[slot] = Naive(list(tokens), list(pages), sampling, computed, prompt)

    @rule(slots=st.lists(st.integers(0, SLOTS - 1), max_size=3))
    def closes(self, slots: list[int]) -> None:
        """Closing a closed slot changes nothing."""
        self.apply(closes=slots)
        for slot in slots:
            self.naive.pop(slot, None)

    @precondition(lambda self: self.naive)
    @rule(data=st.data())
    def grows(self, data: st.DataObject) -> None:
        slots = data.draw(st.lists(st.sampled_from(sorted(self.naive)), max_size=4))
        pages = [(slot, data.draw(st.integers(0, CELLS - 1))) for slot in slots]
        room = -(-CONTEXT // PAGE_TOKENS)
        pages = [(slot, page) for slot, page in pages if len(self.naive[slot].pages) + len(slots) <= room]
        self.apply(pages=[(slot, page, page + 1000) for slot, page in pages])
        for slot, page in pages:
            self.naive[slot].pages.append(page)

    @precondition(lambda self: any(len(slot.tokens) <= CONTEXT for slot in self.naive.values()))
    @rule(data=st.data())
    def draws(self, data: st.DataObject) -> None:
        able = sorted(slot for slot, naive in self.naive.items() if len(naive.tokens) <= CONTEXT)
        chosen = data.draw(st.lists(st.sampled_from(able), min_size=1, unique=True))
        tokens = [data.draw(st.integers(0, VOCABULARY - 1)) for _ in chosen]
        self.slots.append(np.array(chosen), torch.tensor(tokens))
        for slot, token in zip(chosen, tokens, strict=True):
            self.naive[slot].tokens.append(token)

    @rule()
    def fails(self) -> None:
        self.slots.close_all()
        self.naive.clear()

    def apply(self, **changes: object) -> None:
        self.step += 1
        self.slots.apply(make_plan(self.step, **changes))  # type: ignore[arg-type]

    @invariant()
    def equal(self) -> None:
        assert self.slots.in_use == len(self.naive)
        for slot, naive in self.naive.items():
            assert self.slots.length[slot] == len(naive.tokens)
            assert self.slots.prompt_length[slot] == naive.prompt
            positions = np.arange(len(naive.tokens))
            assert self.slots.ids(np.full(len(positions), slot), positions).tolist() == naive.tokens
            blocks = np.arange(len(naive.pages))
            assert self.slots.pages(np.full(len(blocks), slot), blocks).tolist() == naive.pages
            assert self.slots.generations(np.full(len(blocks), slot), blocks).tolist() == [
                page + 1000 for page in naive.pages
            ]
            table = self.slots.block_table(slot, min(len(naive.pages) * PAGE_TOKENS, CONTEXT))
            assert table.tolist() == naive.pages[: len(table)]

    @invariant()
    def penalties_count_every_token(self) -> None:
        for slot, naive in self.naive.items():
            if naive.sampling.repetition_penalty == 1.0:
                continue
            adjustment = self.slots.sampling.rows(np.array([slot]), np.array([0])).adjustments[0]
            assert adjustment is not None
            logits = torch.ones(VOCABULARY)
            adjustment.apply(logits)
            assert set(torch.nonzero(logits < 1).squeeze(-1).tolist()) == set(naive.tokens)


TestSlotsAgainstNaive = SlotsAgainstNaive.TestCase
TestSlotsAgainstNaive.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


OPEN = make_open(1, range(10), [5, 6, 7], computed=4)


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({"closes": [SLOTS]}, ()),
        ({"opens": [make_open(SLOTS, [1])]}, ()),
        ({"opens": [make_open(2, [])]}, (2,)),
        ({"opens": [make_open(2, [VOCABULARY])]}, (2,)),
        ({"opens": [make_open(2, [1] * (CONTEXT + 1))]}, (2,)),
        ({"opens": [make_open(2, [1], prompt_tokens=2)]}, (2,)),
        ({"opens": [make_open(2, [1], computed=2)]}, (2,)),
        ({"opens": [make_open(2, [1], [CELLS])]}, (2,)),
        ({"opens": [make_open(2, [1], range(9))]}, (2,)),
        ({"pages": [(3, 1, 1)]}, ()),
        ({"pages": [(1, page, 1) for page in range(6)]}, (1,)),
        ({"pages": [(1, CELLS, 1)]}, (1,)),
    ],
)
def test_changes_that_make_no_sense_are_refused(changes: dict[str, object], slots: tuple[int, ...]) -> None:
    state = new_slots()
    state.apply(make_plan(1, opens=[OPEN]))
    with pytest.raises(PlanRefused) as caught:
        state.apply(make_plan(2, **changes))  # type: ignore[arg-type]
    assert caught.value.slots == slots


@pytest.mark.parametrize(
    ("rows", "slots"),
    [
        ([(0, 0, 1, False)], ()),  # closed: perhaps by a failure, so nobody's fault
        ([(SLOTS, 0, 1, False)], ()),
        ([(1, 4, 1, False), (1, 5, 1, False)], ()),
        ([(1, 4, 0, False)], (1,)),
        ([(1, 4, 7, True)], (1,)),  # a token that was never drawn
        ([(1, 5, 1, False)], (1,)),  # leaves a gap
        ([(1, 4, 5, True)], (1,)),  # draws in the middle
    ],
)
def test_rows_that_make_no_sense_are_refused(rows: Sequence[Row], slots: tuple[int, ...]) -> None:
    state = new_slots()
    plan = make_plan(1, rows, opens=[OPEN])
    state.apply(plan)
    with pytest.raises(PlanRefused) as caught:
        rows_of(plan, state)
    assert caught.value.slots == slots


def test_rows_beyond_the_block_table_are_refused() -> None:
    state = new_slots()
    plan = make_plan(1, [(1, 0, 10, True)], opens=[make_open(1, range(10), [5, 6])])
    state.apply(plan)
    with pytest.raises(PlanRefused, match="block table"):
        rows_of(plan, state)


def test_rows_become_a_batch() -> None:
    """Two chunks and a decode row; page 9 is written twice over and committed once, as far as it is valid."""
    state = new_slots()
    opens = [make_open(0, range(10), [3, 9, 5]), make_open(2, range(20, 26), [8, 2], computed=5)]
    plan = make_plan(1, [(0, 0, 7, False), (2, 5, 1, True)], opens=opens)
    state.apply(plan)
    rows = rows_of(plan, state)
    batch = rows.batch(state, CPU)
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 5]
    assert batch.page_of.tolist() == [3, 3, 3, 3, 9, 9, 9, 2]
    assert batch.offset_of.tolist() == [0, 1, 2, 3, 0, 1, 2, 1]
    assert batch.row_starts == [0, 7, 8]
    assert batch.row_context == [7, 6]
    assert [table.tolist() for table in batch.block_tables] == [[3, 9], [8, 2]]
    assert [values.tolist() for values in rows.written(state, rows.ends)] == [[3, 9, 2], [1003, 1009, 1002], [4, 3, 2]]
