"""Paged attention equals dense attention, for any rows, page tables, shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bus.messages.steps import KvShape
from workers.attention.groups import group_rows
from workers.attention.paged import PagedAttention
from workers.models.interface import Batch
from workers.pages import page_tensor, quantised_kv, scales_of, spread, spread_block
from workers.step.windows import Folding

LAYERS = 2


@dataclass(frozen=True)
class Case:
    """Sequences with `(computed, new)` tokens each; KV heads `mine` of `kv_heads` belong to the rank under test."""

    rows: list[tuple[int, int]]
    page_tokens: int
    kv_heads: int
    mine: range
    group: int
    dim: int
    seed: int
    windows: tuple[int, ...] = ()
    scale: float = 0.0
    cap: float = 0.0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.integers(1, 4))
    first = draw(st.integers(0, kv_heads - 1))
    last = draw(st.integers(first + 1, kv_heads))
    prefills = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(2, 40)), max_size=3))
    decodes = draw(st.lists(st.tuples(st.integers(0, 90), st.just(1)), min_size=0 if prefills else 1, max_size=6))
    return Case(
        rows=prefills + decodes,
        page_tokens=draw(st.sampled_from([1, 4, 16])),
        kv_heads=kv_heads,
        mine=range(first, last),
        group=draw(st.integers(1, 4)),
        dim=draw(st.sampled_from([4, 8, 64])),
        seed=draw(st.integers(0, 1 << 30)),
        windows=draw(st.sampled_from([(), (0, 1), (3, 17), (17, 0), (40, 1000)])),
        scale=draw(st.sampled_from([0.0, 0.3])),
        cap=draw(st.sampled_from([0.0, 1.5])),
    )


class World:
    """A case's tensors: pages full of NaN, earlier tokens written by earlier steps, and what dense attention says."""

    def __init__(self, case: Case, dtype: torch.dtype, spare: int = 2) -> None:
        self.case = case
        self.folds: list[list[int]] = [[] for _ in case.rows]
        generator = torch.Generator().manual_seed(case.seed)
        pages_of = [-(-(computed + new) // case.page_tokens) for computed, new in case.rows]
        cells = torch.randperm(sum(pages_of) + spare, generator=generator)
        self.tables = list(cells[: sum(pages_of)].split(pages_of))
        self.unused = cells[sum(pages_of) :]
        shape = KvShape(LAYERS, case.kv_heads, case.page_tokens, case.dim, str(dtype).removeprefix("torch."))
        # NaN in every dtype; of int8, in its scales.
        self.pages = page_tensor(torch.full((len(cells), shape.page_bytes), 255, dtype=torch.uint8), shape)
        heads = len(case.mine)
        self.kv = [
            torch.randn(LAYERS, computed + new, 2, heads, case.dim, generator=generator) for computed, new in case.rows
        ]
        self.kept = [_kept(kv, dtype) for kv in self.kv]
        self.queries = [
            torch.randn(LAYERS, computed + new, heads * case.group, case.dim, generator=generator)
            for computed, new in case.rows
        ]
        self.attention = PagedAttention(case.mine, case.group, windows=case.windows, scale=case.scale, cap=case.cap)

    def held(self) -> Tensor:
        """What the pages stand for: as the pages."""
        return _meant(self.pages, scales_of(self.pages), 2) if self.pages.dtype == torch.int8 else self.pages

    def step(self, spans: list[tuple[int, int, int]]) -> list[list[Tensor]]:
        """Run `(sequence, begin, end)` rows; per layer and row the output."""
        page_tokens = self.case.page_tokens
        positions = torch.cat([torch.arange(begin, end) for _, begin, end in spans])
        cells = torch.cat([self.tables[row][torch.arange(begin, end) // page_tokens] for row, begin, end in spans])
        starts = [0]
        for _, begin, end in spans:
            starts.append(starts[-1] + end - begin)
        tables = [self.tables[row][: -(-end // page_tokens)] for row, _, end in spans]
        batch = Batch(positions, cells, positions % page_tokens, starts, [end for *_, end in spans], tables)
        if any(self.folds):
            batch = replace(batch, folds=[torch.tensor(self.folds[row], dtype=torch.int64) for row, *_ in spans])
        self.attention.plan(batch, self.pages)
        found = []
        for layer in range(LAYERS):
            query = torch.cat([self.queries[row][layer, begin:end] for row, begin, end in spans])
            kv = torch.cat([self.kv[row][layer, begin:end] for row, begin, end in spans])
            out = self.attention.forward(query, kv, layer)
            found.append(list(out.split([end - begin for _, begin, end in spans])))
        return found

    def dense(self, row: int, layer: int) -> Tensor:
        """float64 attention of all tokens of a sequence, computed the plain way."""
        query = self.queries[row][layer].double().transpose(0, 1)
        keys, values = (
            part.double().transpose(0, 1).repeat_interleave(self.case.group, 0)
            for part in self.kept[row][layer].unbind(1)
        )
        scores = query @ keys.transpose(1, 2) * (self.case.scale or self.case.dim**-0.5)
        if self.case.cap:
            scores = self.case.cap * torch.tanh(scores / self.case.cap)
        at = torch.arange(scores.shape[-1])
        behind = at[:, None] - at
        window = self.case.windows[layer] if self.case.windows else 0
        unseen = (behind < 0) | (behind >= (window or len(at)))
        return (scores.masked_fill(unseen, float("-inf")).softmax(-1) @ values).transpose(0, 1)

    def fill(self) -> None:
        """Run the tokens that the case calls computed, in one step of prefills and then one by one at the end."""
        early = [(row, 0, computed - 1) for row, (computed, _) in enumerate(self.case.rows) if computed > 1]
        late = [(row, computed - 1, computed) for row, (computed, _) in enumerate(self.case.rows) if computed]
        for spans in (early, late):
            if spans:
                self.step(spans)

    def last(self) -> list[list[Tensor]]:
        return self.step([(row, computed, computed + new) for row, (computed, new) in enumerate(self.case.rows)])


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_paged_equals_dense(case: Case) -> None:
    """Law: for every row, paged attention is causal attention over the row's own tokens, within the layer's window, and
    nothing else."""
    world = World(case, torch.float32)
    world.fill()
    for layer, rows in enumerate(world.last()):
        for row, found in enumerate(rows):
            expected = world.dense(row, layer)[case.rows[row][0] :]
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.int8]), windows=st.sampled_from([(0, 3), (17, 0)]))
@settings(max_examples=60, deadline=None)
def test_blocks_behind_a_window_are_read_from_folds(case: Case, dtype: torch.dtype, windows: tuple[int, ...]) -> None:
    """Law: with blocks behind the window folded, and their pages in other hands, nothing changes."""
    case = replace(case, windows=windows)
    whole, folded = World(case, dtype, spare=60), World(case, dtype, spare=60)
    folding = Folding.of(windows)
    assert folding is not None
    assert folding.blocks == 2
    whole.fill()
    folded.fill()
    free = folded.unused.tolist()
    for row, (computed, _) in enumerate(case.rows):
        unseen = max(0, computed - folding.window + 1) // case.page_tokens
        for first in range(0, unseen - 1, 2):
            if not free:
                break
            cells = folded.tables[row][first : first + 2]
            folding.fold(folded.pages, cells, free[-1])
            folded.folds[row].append(free.pop())
            folded.pages[cells] = -100 if dtype == torch.int8 else torch.nan
            if dtype == torch.int8:
                scales_of(folded.pages)[cells] = torch.nan
    for expected, found in zip(whole.last(), folded.last(), strict=True):
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("windows", "blocks"),
    [((), None), ((0, 0), None), ((4, 0, 0), None), ((4, 0), 2), ((4, 4, 0, 4, 4), 5), ((4, 9), 0)],
)
def test_folds_are_there_where_they_free_something(windows: tuple[int, ...], blocks: int | None) -> None:
    folding = Folding.of(windows)
    assert (folding.blocks if folding is not None else None) == blocks


def _kept(kv: Tensor, dtype: torch.dtype) -> Tensor:
    """`kv` as pages of that dtype hold it."""
    return _meant(*quantised_kv(kv), 2) if dtype == torch.int8 else kv.to(dtype)


def _meant(numbers: Tensor, scales: Tensor, kind: int) -> Tensor:
    """What int8 stands for; `kind` is the dimension of K and V."""
    keys, values = (numbers.float() * scales[..., None]).unbind(kind)
    return torch.stack([spread(keys) / spread_block(keys.shape[-1]), values], kind)


@given(case=cases(), dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.int8]))
@settings(max_examples=30, deadline=None)
def test_smaller_pages_are_attended_in_float32(case: Case, dtype: torch.dtype) -> None:
    world = World(case, dtype)
    world.fill()
    tolerance = 5e-5 if dtype == torch.int8 else 1e-5  # spreading rounds
    for layer, rows in enumerate(world.last()):
        for row, found in enumerate(rows):
            expected = world.dense(row, layer)[case.rows[row][0] :]
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@given(case=cases())
@settings(max_examples=30, deadline=None)
def test_a_row_does_not_depend_on_the_others(case: Case) -> None:
    """Law: a row alone gives what it gives in company, beyond rounding."""
    together, alone = World(case, torch.float32), World(case, torch.float32)
    together.fill()
    alone.fill()
    expected = together.last()
    for row, (computed, new) in enumerate(case.rows):
        for layer, found in enumerate(alone.step([(row, computed, computed + new)])):
            torch.testing.assert_close(found[0], expected[layer][row], rtol=1e-5, atol=1e-6)


@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.int8]))
@settings(max_examples=40, deadline=None)
def test_writes_stay_where_they_belong(case: Case, dtype: torch.dtype) -> None:
    """Law: K and V stand in the row's own pages, in the rank's own heads; cells of nobody keep what they had."""
    world = World(case, dtype)
    world.fill()
    world.last()
    mine, pages = slice(case.mine.start, case.mine.stop), world.held()
    tolerance = 1e-6 if dtype == torch.int8 else 0
    assert pages[world.unused].isnan().all()
    others = [head for head in range(case.kv_heads) if head not in case.mine]
    assert pages[:, :, :, others].isnan().all()
    for row, (computed, new) in enumerate(case.rows):
        held = pages[world.tables[row]][:, :, :, mine].permute(1, 0, 4, 2, 3, 5).flatten(1, 2)
        torch.testing.assert_close(held[:, : computed + new], world.kept[row], rtol=tolerance, atol=tolerance)
        assert held[:, computed + new :].isfinite().all()


def test_a_long_chunk_is_cut_into_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a mask that may hold few numbers, when a chunk has many blocks, then the result is the same."""
    monkeypatch.setattr("workers.attention.paged._MASK_NUMBERS", 1)  # blocks of 16 queries
    for computed, new in ((0, 75), (33, 64), (7, 5)):
        case = Case([(computed, new)], 16, 2, range(2), 3, 8, seed=computed)
        world = World(case, torch.float32)
        world.fill()
        torch.testing.assert_close(world.last()[1][0].double(), world.dense(0, 1)[computed:], rtol=1e-5, atol=1e-5)


@given(counts=st.lists(st.integers(1, 2000), max_size=64), most=st.integers(1, 4000))
def test_groups_are_a_partition_within_bounds(counts: list[int], most: int) -> None:
    """Law: every row is in one group, the first of a group is its longest, and scratch is bounded."""
    groups = group_rows(counts, most)
    assert sorted(row for group in groups for row in group) == list(range(len(counts)))
    for group in groups:
        longest = counts[group[0]]
        assert longest == max(counts[row] for row in group)
        assert len(group) == 1 or len(group) * longest <= most
        assert sum(longest - counts[row] for row in group) <= 16


def test_equal_rows_share_one_group() -> None:
    assert len(group_rows([7] * 40, 10_000)) == 1
