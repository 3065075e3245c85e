"""Pages in device memory are the arena's pages: found, loaded, written through, and never another's. On a CPU.

Copies out are held back as long as anything may, so that a frame which is used again too early shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch
from driving import Driver, PlainPages, make_open, make_plan
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tiny import saved, tiny
from torch import Tensor

from bus.packed import pack_u32, unpack_u32
from workers.group import Alone
from workers.hbm.balance import Measured, NoRoom, pages_that_fit
from workers.hbm.bounce import Bounces
from workers.hbm.copier import HostCopier, Pair, Wait
from workers.hbm.frames import Frames, NoFrames
from workers.hbm.pages import DevicePages
from workers.hbm.register import Registered, slices
from workers.models.interface import Model
from workers.models.load import load_model
from workers.step.execute import Executor, StepBroken
from workers.step.slots import Slots

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
CELLS, PAGE_TOKENS, SLOTS = 24, 4, 3
PROMPTS = [[1, 5, 9, 3, 17, 40, 8, 2, 77], [4, 4, 60], [12, 7, 7, 7, 1, 2]]


class LateCopier(HostCopier):
    """Copies out happen when they are waited for, and not before."""

    def __init__(self, frames: Tensor, cells: Tensor) -> None:
        super().__init__(frames, cells)
        self.loaded: list[int] = []

    def load(self, pairs: Sequence[Pair]) -> None:
        super().load(pairs)
        self.loaded += [cell for _, cell in pairs]

    def store(self, pairs: Sequence[Pair]) -> Wait:
        return lambda: (HostCopier.store(self, pairs), None)[1]


class Worker:
    """An executor whose pages are in "device memory" of so many frames, over an arena that outlives it."""

    def __init__(self, model: Model, arena: PlainPages, frames: int) -> None:
        a = model.architecture
        held = torch.full((frames + 1, *arena.tensor.shape[1:]), float("nan"))
        self.copier = LateCopier(held, arena.tensor)
        self.pages = DevicePages(held, self.copier, arena)
        slots = Slots(SLOTS, 64, PAGE_TOKENS, a.vocabulary, CELLS, CPU, placement=self.pages)
        self.executor = Executor(model, slots, self.pages, Alone())

    def driver(self) -> Driver:
        return Driver(self.executor, PAGE_TOKENS, CELLS, chunk=5)


def arena_of(model: Model) -> PlainPages:
    a = model.architecture
    return PlainPages(torch.full((CELLS, a.layers, 2, a.kv_heads, PAGE_TOKENS, a.head_dim), float("nan")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = saved(tiny("llama", **SMALL), tmp_path_factory.mktemp("model"))
    return load_model(path, dtype=torch.float32, device=CPU)


def plain(model: Model) -> tuple[Driver, PlainPages]:
    arena = arena_of(model)
    slots = Slots(SLOTS, 64, PAGE_TOKENS, model.architecture.vocabulary, CELLS, CPU)
    return Driver(Executor(model, slots, arena, Alone()), PAGE_TOKENS, CELLS, chunk=5), arena


def test_tokens_and_full_pages_are_those_of_a_worker_in_the_arena(model: Model) -> None:
    """Given as few frames as the block tables need, when requests come and go, then tokens are the same, and every page
    that was filled stands in the arena, committed, with the same bytes."""
    (driver, expected), arena = plain(model), arena_of(model)
    worker = Worker(model, arena, frames=14)
    ours = worker.driver()
    for prompts in (PROMPTS, PROMPTS[::-1], PROMPTS[:2]):
        assert ours.generate(prompts, 9) == driver.generate(prompts, 9)
    full = {handle for handle, tokens in expected.valid.items() if tokens == PAGE_TOKENS}
    assert full <= set(arena.valid)
    for (page, _), tokens in arena.valid.items():
        assert tokens == PAGE_TOKENS
        if (page, page + 1000) in full and expected.valid[page, page + 1000] == PAGE_TOKENS:
            torch.testing.assert_close(arena.tensor[page], expected.tensor[page])


def test_a_worker_goes_on_where_another_was_killed(model: Model) -> None:
    """Given a worker that is gone with its device memory, when another takes the request from the pages in the arena,
    then it draws the tokens that the first one would have drawn, and computes only what was not named."""
    arena = arena_of(model)
    prompt, table = PROMPTS[0], [3, 11, 7, 2, 19]
    first = Worker(model, arena, frames=8)

    def draw(worker: Worker, step: int, start: int, count: int, **changes: object) -> int:
        plan = make_plan(step, [(0, start, count, True)], **changes)  # type: ignore[arg-type]
        return int(unpack_u32(worker.executor.run(plan).tokens)[0])

    tokens = list(prompt)
    tokens.append(draw(first, 1, 0, len(prompt), opens=[make_open(0, prompt, table)]))
    for step in range(2, 6):
        tokens.append(draw(first, step, len(tokens) - 1, 1))
    undisturbed = [*tokens]
    for step in range(6, 10):
        undisturbed.append(draw(first, step, len(undisturbed) - 1, 1))
    named = (len(tokens) - 1) // PAGE_TOKENS
    arena.tensor[table[named:]] = float("nan")  # what was not full is worth nothing
    second = Worker(model, arena, frames=8)
    opened = make_open(0, tokens, table, computed=named * PAGE_TOKENS, prompt_tokens=len(prompt))
    tokens.append(draw(second, 1, named * PAGE_TOKENS, len(tokens) - named * PAGE_TOKENS, opens=[opened]))
    for step in range(2, 5):
        tokens.append(draw(second, step, len(tokens) - 1, 1))
    assert tokens == undisturbed
    assert second.copier.loaded == table[:named]


def test_what_is_still_there_is_not_loaded_and_what_was_handed_out_again_is(model: Model) -> None:
    """Given a page that left its slot, when it comes back it is found; unless the scheduler has said that others may
    have written it since."""
    arena = arena_of(model)
    worker = Worker(model, arena, frames=8)
    prompt, table = PROMPTS[0], [3, 11, 7]
    again = make_open(0, prompt, table, computed=2 * PAGE_TOKENS)
    run = worker.executor.run
    drawn = unpack_u32(run(make_plan(1, [(0, 0, 9, True)], opens=[make_open(0, prompt, table)])).tokens)
    found = unpack_u32(run(make_plan(2, [(0, 8, 1, True)], opens=[again], closes=[0])).tokens)
    assert found.tolist() == drawn.tolist()
    assert worker.copier.loaded == []
    run(msgspec.structs.replace(make_plan(3, closes=[0]), forgets=pack_u32([11])))
    run(make_plan(4, [(0, 8, 1, True)], opens=[again]))
    assert worker.copier.loaded == [11]


def test_too_many_pages_fail_the_step_as_too_little_memory(model: Model) -> None:
    worker = Worker(model, arena_of(model), frames=2)
    with pytest.raises(StepBroken) as broken:
        worker.driver().generate(PROMPTS[:1], 1)
    assert broken.value.out_of_memory
    assert worker.pages.frames.held == 0
    assert worker.driver().generate(PROMPTS[1:2], 2) == plain(model)[0].generate(PROMPTS[1:2], 2)


class FramesMachine(RuleBasedStateMachine):
    """Laws: a frame is one page's; what is found without loading is what was last written under that name; holders keep
    their frames."""

    PAGES, FRAMES = 4, 3  # few, so that they meet

    def __init__(self) -> None:
        super().__init__()
        self.frames = Frames(self.FRAMES)
        self.holders: dict[int, int] = {}
        self.generation = dict.fromkeys(range(self.PAGES), 1)
        self.written = dict.fromkeys(range(self.PAGES), 0)  # what the arena's page holds
        self.in_frame: dict[int, tuple[int, int]] = {}  # frame: page, what was written
        self.frame_of: dict[int, int] = {}
        self.whole: set[int] = set()
        self.clock = 0

    @rule(page=st.integers(0, PAGES - 1), known=st.booleans())
    def hold(self, page: int, known: bool) -> None:
        if self.holders.get(page):
            known = page in self.whole
            if not known:
                with pytest.raises(ValueError, match="in use"):
                    self.frames.hold(page, self.generation[page], known=False)
                return
        try:
            frame, load = self.frames.hold(page, self.generation[page], known=known)
        except NoFrames:
            assert sum(count > 0 for count in self.holders.values()) == self.FRAMES
            return
        if not self.holders.get(page):
            assert all(self.frame_of[other] != frame for other, count in self.holders.items() if count)
        if known and not load:
            assert self.in_frame[frame] == (page, self.written[page])
        if known:
            self.in_frame[frame] = (page, self.written[page])
            self.whole.add(page)
        else:
            self.in_frame[frame] = (page, -1)
            self.whole.discard(page)
        self.frame_of[page] = frame
        self.holders[page] = self.holders.get(page, 0) + 1

    @precondition(lambda self: any(self.holders.values()))
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from([page for page, count in self.holders.items() if count]))
        if page in self.whole:
            return
        self.clock += 1
        self.written[page] = self.clock
        self.in_frame[self.frame_of[page]] = (page, self.clock)
        self.whole.add(page)
        self.frames.filled(page)

    @precondition(lambda self: any(self.holders.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from([page for page, count in self.holders.items() if count]))
        self.holders[page] -= 1
        self.frames.release(page)

    @rule(page=st.integers(0, PAGES - 1), renamed=st.booleans())
    def handed_out_again(self, page: int, renamed: bool) -> None:
        """Somebody else writes the page: under another generation, or after the worker was told."""
        if self.holders.get(page):
            return
        self.clock += 1
        self.written[page] = self.clock
        if renamed:
            self.generation[page] += 1
        else:
            self.frames.forget(page)

    @invariant()
    def counts_add_up(self) -> None:
        held = sum(count > 0 for count in self.holders.values())
        assert self.frames.held == held
        assert self.frames.held + self.frames.kept <= self.frames.count


TestFrames = FramesMachine.TestCase
TestFrames.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    total=st.integers(1 << 30, 200 << 30), other=st.integers(0, 20 << 30), weights=st.integers(0, 150 << 30),
    extra=st.integers(0, 20 << 30), graphs=st.integers(0, 1 << 30), budget=st.sampled_from([0, 1 << 30, 40 << 30]),
    page=st.sampled_from([1 << 16, 8 << 20]),
)  # fmt: skip
def test_the_balance_adds_up_and_nothing_is_given_out_twice(
    total: int, other: int, weights: int, extra: int, graphs: int, budget: int, page: int
) -> None:
    """Law: lines add up to the device, pages keep to what is left and to the budget, and two are the least."""
    assume(other + weights <= total)
    measured = Measured(total, total - other - weights, weights, weights + extra)
    try:
        pages, balance = pages_that_fit(measured, page, graphs=graphs, budget=budget, least=2)
    except NoRoom:
        assert measured.free - extra - graphs < 2 * page + (1 << 30) + 0.04 * total
        return
    assert pages >= 2
    assert sum(value for _, value in balance.lines()) == balance.total == total
    assert balance.free > 0
    assert balance.kv == pages * page
    assert not budget or balance.kv <= budget


@given(pages=st.integers(1, 300), page=st.sampled_from([64, 100]), most=st.integers(1, 5000))
def test_slices_are_whole_pages_one_behind_the_other(pages: int, page: int, most: int) -> None:
    parts = slices(1000, 1000 + pages * page, page, most)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (1000, 1000 + pages * page)
    assert all(len(part) % page == 0 and len(part) <= max(most, page) for part in parts)


def test_what_cannot_be_pinned_is_copied_over_a_bounce_buffer() -> None:
    """Slices are pinned in order, and the first that fails is the last: pages behind it are not covered."""
    cells = torch.zeros(6, 8, dtype=torch.uint8)
    begin = cells.data_ptr()
    registered, asked = Registered(begin), []

    def pin(address: int, size: int) -> bool:
        asked.append((address - begin, size))
        return address - begin < 16

    registered.register(slices(begin, begin + 48, 8, 16), pin)
    assert asked == [(0, 16), (16, 16)]
    assert [registered.covers(cell) for cell in cells] == [True, True, False, False, False, False]


@given(st.lists(st.sampled_from(["out", "in", "wait"]), max_size=40), st.integers(2, 4), st.integers(1, 5))
def test_a_pinned_page_is_not_used_for_another_before_the_host_has_brought_it_on(
    moves: list[str], count: int, pages: int
) -> None:
    """Law: however steps store, load and wait, a cell holds what was stored when its store was waited for."""
    pinned, arena, on_the_way = [0] * count, dict[int, int](), dict[int, int]()

    def wait(at: int) -> None:
        pinned[at] = on_the_way.pop(at, pinned[at])

    def bring_on(at: int, cell: int) -> None:
        assert at not in on_the_way
        arena[cell] = pinned[at]

    bounces, stores, cell = Bounces(count, wait, bring_on), list[list[tuple[int, int]]](), 0
    for move in [*moves, *["wait"] * len(moves)]:
        match move:
            case "out":
                stores.append([])
                for _ in range(pages):
                    cell, at = cell + 1, bounces.take()
                    on_the_way[at] = 1000 + cell
                    bounces.owe(at, cell)
                    stores[-1].append((at, cell))
            case "in":
                at = bounces.take()
                pinned[at] = -1
            case "wait" if stores:
                store = stores.pop(0)
                for at, where in store:
                    bounces.settle(at, where)
                assert [arena[where] for _, where in store] == [1000 + where for _, where in store]


def test_too_little_memory_is_told_with_the_balance() -> None:
    with pytest.raises(NoRoom, match=r"2 pages of KV of 8388608 bytes.*weights 15.00.* of 16.00 GiB"):
        pages_that_fit(Measured(16 << 30, 1 << 30, 15 << 30, 15 << 30), 8 << 20, graphs=1 << 29, budget=0, least=2)
