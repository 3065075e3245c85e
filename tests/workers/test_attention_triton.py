"""Attention of the GPU's kernels, in Triton's interpreter, is attention in float64, for any rows, pages and shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from workers.attention.interface import HeadNorms
from workers.attention.paged import PagedAttention
from workers.attention.triton import GraphLimits, TritonAttention
from workers.kernels.triton.attend import Shape
from workers.kernels.triton.launch import launches
from workers.kernels.triton.rotary import as_stored
from workers.kernels.triton.tuning import INTERPRETER, NoTuning, Unsupported, tuning
from workers.models.interface import Batch

CPU = torch.device("cpu")
QUANTISED = (torch.int8, torch.float8_e4m3fn)
# A case that fails is small, and shrinking it would take the interpreter minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
# Of the numbers that are compared. float16 has 11 bits, bfloat16 8; weights of a softmax are rounded to them as well.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    """Sequences with `(computed, new)` tokens each; KV heads `mine` of `kv_heads` belong to the rank under test."""

    rows: list[tuple[int, int]]
    page_tokens: int = 16
    kv_heads: int = 2
    mine: range = range(2)
    group: int = 2
    dim: int = 32
    shapes: tuple[Shape, ...] = (Shape(0.2), Shape(0.2))
    dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype = torch.float32
    seed: int = 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.integers(1, 3))
    first = draw(st.integers(0, kv_heads - 1))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16]))
    chunks = draw(st.lists(st.tuples(st.sampled_from([0, 0, 7, 64, 270]), st.integers(2, 70)), max_size=2))
    single = st.tuples(st.one_of(st.integers(0, 600), st.sampled_from([255, 256, 511, 512])), st.just(1))
    decodes = draw(st.lists(single, min_size=0 if chunks else 1, max_size=3))
    windows = draw(st.sampled_from([(0, 0), (0, 0), (5, 0), (40, 300), (1, 1)]))
    cap = draw(st.sampled_from([0.0, 0.0, 1.5]))
    return Case(
        rows=chunks + decodes,
        page_tokens=draw(st.sampled_from([8, 16, 64])),
        kv_heads=kv_heads,
        mine=range(first, draw(st.integers(first + 1, kv_heads))),
        group=draw(st.sampled_from([1, 3, 4, 7])),
        dim=draw(st.sampled_from([16, 32, 48])),
        shapes=tuple(Shape(0.2, window, cap) for window in windows),
        dtype=dtype,
        kv_dtype=draw(st.sampled_from([dtype, dtype, *QUANTISED])),
        seed=draw(st.integers(0, 1 << 30)),
    )


class World:
    """A case's tensors: pages full of what would spoil everything, earlier tokens in place, and float64's opinion."""

    def __init__(self, case: Case, graphs: GraphLimits | None = None) -> None:
        self.case, heads, layers = case, len(case.mine), len(case.shapes)
        generator = torch.Generator().manual_seed(case.seed)
        pages_of = [-(-(computed + new) // case.page_tokens) for computed, new in case.rows]
        cells = torch.randperm(sum(pages_of) + 2, generator=generator)
        self.tables = list(cells[: sum(pages_of)].split(pages_of))
        self.unused = cells[sum(pages_of) :]
        shape = (len(cells), layers, 2, case.kv_heads, case.page_tokens, case.dim)
        spoiled = 127 if case.kv_dtype == torch.int8 else float("nan")
        self.pages = torch.full(shape, spoiled, dtype=case.kv_dtype)
        self.scales: Tensor | None = None
        if case.kv_dtype in QUANTISED:
            self.scales = (torch.rand(layers, 2, heads, generator=generator) + 0.5) / (
                30 if case.kv_dtype == torch.int8 else 8
            )
        self.kv, self.queries = [], []
        for computed, new in case.rows:
            self.kv.append(torch.randn(layers, computed + new, 2, heads, case.dim, generator=generator).to(case.dtype))
            query = torch.randn(layers, computed + new, heads * case.group, case.dim, generator=generator)
            self.queries.append(query.to(case.dtype))
        for row, (computed, _) in enumerate(case.rows):
            at = torch.arange(computed)
            cell, offset = self.tables[row][at // case.page_tokens], at % case.page_tokens
            for layer in range(layers):
                mine = self.pages[:, layer, :, case.mine.start : case.mine.stop]
                mine[cell, :, :, offset] = self.stored(row, layer)[:computed]
        self.attention = TritonAttention(
            case.mine,
            case.group,
            case.dim,
            case.shapes,
            case.kv_dtype,
            CPU,
            scales=self.scales,
            graphs=None if graphs is None else replace(graphs, dummy=int(self.unused[0])),
        )

    def stored(self, row: int, layer: int) -> Tensor:
        """K and V of a row as pages hold them."""
        return as_stored(self.kv[row][layer], self.case.kv_dtype, None if self.scales is None else self.scales[layer])

    def batch(self, rows: list[int]) -> Batch:
        """A step of the new tokens of these rows."""
        spans = [(row, self.case.rows[row][0], sum(self.case.rows[row])) for row in rows]
        positions = torch.cat([torch.arange(begin, end) for _, begin, end in spans])
        page_tokens = self.case.page_tokens
        cells = torch.cat([self.tables[row][torch.arange(begin, end) // page_tokens] for row, begin, end in spans])
        starts = [0]
        for _, begin, end in spans:
            starts.append(starts[-1] + end - begin)
        tables = [self.tables[row] for row in rows]
        return Batch(positions, cells, positions % page_tokens, starts, [end for *_, end in spans], tables)

    def new(self, tensors: list[Tensor], rows: list[int], layer: int) -> Tensor:
        """The new tokens' part of queries or KV."""
        return torch.cat([tensors[row][layer, self.case.rows[row][0] :] for row in rows])

    def step(self, rows: list[int] | None = None) -> list[list[Tensor]]:
        """By layer and row the attention of a step."""
        which = list(range(len(self.case.rows))) if rows is None else rows
        self.attention.plan(self.batch(which), self.pages)
        counts = [self.case.rows[row][1] for row in which]
        return [
            list(
                self.attention.forward(
                    self.new(self.queries, which, layer), self.new(self.kv, which, layer), layer
                ).split(counts)
            )
            for layer in range(len(self.case.shapes))
        ]

    def expected(self, row: int, layer: int) -> Tensor:
        """float64 attention of the new tokens of a row to what its pages hold, computed the plain way."""
        case, shape = self.case, self.case.shapes[layer]
        computed = case.rows[row][0]
        mine = self.pages[self.tables[row], layer, :, case.mine.start : case.mine.stop]
        held = mine.permute(0, 3, 1, 2, 4).flatten(0, 1)[: sum(case.rows[row])].double()
        if self.scales is not None:
            held = held * self.scales[layer][:, :, None].double()
        keys, values = (part.transpose(0, 1).repeat_interleave(case.group, 0) for part in held.unbind(1))
        query = self.queries[row][layer, computed:].double().transpose(0, 1)
        scores = query @ keys.transpose(1, 2) * shape.scale
        if shape.cap:
            scores = shape.cap * torch.tanh(scores / shape.cap)
        position = torch.arange(computed, keys.shape[1])[:, None]
        token = torch.arange(keys.shape[1])
        hidden = token > position
        if shape.window:
            hidden |= token <= position - shape.window
        return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ values).transpose(0, 1)

    def check(self, found: list[list[Tensor]], rows: list[int] | None = None) -> None:
        tolerance = TOLERANCE[self.case.dtype] * (1 + 3 * (self.case.kv_dtype in QUANTISED))
        for layer, of_rows in enumerate(found):
            for row, values in zip(rows or range(len(of_rows)), of_rows, strict=True):
                torch.testing.assert_close(values.double(), self.expected(row, layer), rtol=tolerance, atol=tolerance)


@given(case=cases())
@example(case=Case([(0, 1)]))
@example(case=Case([(255, 1), (256, 1), (512, 1)], kv_dtype=torch.int8, group=4))
@example(case=Case([(270, 40), (300, 1)], page_tokens=8, shapes=(Shape(0.2, 33, 1.5), Shape(0.2)), dim=48))
@settings(max_examples=10, deadline=None, phases=PHASES)
def test_any_step_is_attention_over_what_the_pages_hold(case: Case) -> None:
    """Law: decodes, drafts, chunks alone and after context, windows, caps, quantised pages, all in one step."""
    world = World(case)
    world.check(world.step())


@given(case=cases())
@settings(max_examples=6, deadline=None, phases=PHASES)
def test_a_row_is_the_same_bit_by_bit_in_any_company(case: Case) -> None:
    """Law: splits have a fixed length, so nothing of a row depends on the others; alone, rows get the same bits."""
    together = World(case).step()
    for row in range(len(case.rows)):
        for layer, (found,) in enumerate(World(case).step([row])):
            assert torch.equal(found, together[layer][row])


@given(case=cases())
@settings(max_examples=6, deadline=None, phases=PHASES)
def test_writes_stay_where_they_belong(case: Case) -> None:
    """Law: K and V stand in the row's own pages, in the rank's own heads; cells of nobody keep what they had."""
    world = World(case)
    before = world.pages.clone().view(torch.uint8)
    world.step()
    mine = slice(case.mine.start, case.mine.stop)
    for row, (computed, new) in enumerate(case.rows):
        for layer in range(len(case.shapes)):
            held = world.pages[world.tables[row], layer, :, mine].permute(0, 3, 1, 2, 4).flatten(0, 1)
            wanted = world.stored(row, layer)
            assert torch.equal(held[: computed + new].float(), wanted.float())
    at = torch.zeros(len(before), dtype=torch.bool)
    at[torch.cat(world.tables)] = True
    after = world.pages.view(torch.uint8)
    assert torch.equal(after[~at], before[~at])
    others = [head for head in range(case.kv_heads) if head not in case.mine]
    assert torch.equal(after[:, :, :, others], before[:, :, :, others])


def test_drafts_are_verified_by_the_splits() -> None:
    """A few tokens of a row at once are causal among each other, over the boundary of a split, and in a window."""
    case = Case([(254, 4), (3, 2), (0, 3)], group=4, shapes=(Shape(0.2), Shape(0.2, window=255)))
    world = World(case)
    with launches(run=True) as seen:
        found = world.step()
    assert {each.kernel.__name__ for each in seen} == {"_rotate_and_write", "_list", "_split", "_merge"}
    world.check(found)


def test_a_prompt_that_is_new_is_left_to_torch_where_it_computes_the_same() -> None:
    """SDPA for the plain layer; the kernel for the one with a window; the kernel for both where KV is quantised."""

    def kernels(case: Case) -> list[str]:
        with launches(run=True) as seen:
            World(case).step()
        return [each.kernel.__name__ for each in seen if each.kernel.__name__ == "_prefill"]

    case = Case([(0, 40)], shapes=(Shape(0.2), Shape(0.2, window=8)))
    assert len(kernels(case)) == 1
    assert len(kernels(replace(case, shapes=(Shape(0.2), Shape(0.2, window=40))))) == 0
    assert len(kernels(replace(case, kv_dtype=torch.int8))) == 2


def test_torch_and_triton_agree() -> None:
    """The two back ends behind one interface: same pages, same answers."""
    case = Case([(33, 20), (0, 9), (300, 1), (15, 1)], shapes=(Shape(32**-0.5), Shape(32**-0.5)))
    world, other = World(case), World(case)
    other.pages = other.pages.nan_to_num(0.0)
    other.attention = PagedAttention(case.mine, case.group)  # type: ignore[assignment]
    for ours, theirs in zip(world.step(), other.step(), strict=True):
        for found, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normed", [False, True])
def test_rotation_and_writing_in_one(normed: bool) -> None:
    """`rotate_and_forward` is `forward` of what norm and rotation make of queries and keys."""
    case = Case([(20, 18), (40, 1)], group=3, dim=48, seed=5)
    world, other = World(case), World(case)
    rows, layer, heads, kv_heads, half = [0, 1], 1, 6, 2, 24
    query, kv = world.new(world.queries, rows, layer), world.new(world.kv, rows, layer)
    angles = torch.rand(len(query), half) * 6
    norms = HeadNorms(torch.rand(48) + 0.5, torch.rand(48) + 0.5, 1e-6) if normed else None

    def turned(values: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            values = values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        x, y = values.chunk(2, -1)
        c, s = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([x * c - y * s, x * s + y * c], -1)

    turned_query = turned(query, None if norms is None else norms.query)
    turned_kv = torch.stack([turned(kv[:, 0], None if norms is None else norms.key), kv[:, 1]], 1)
    other.attention.plan(other.batch(rows), other.pages)
    expected = other.attention.forward(turned_query, turned_kv, layer)
    qkv = torch.cat([query, kv.flatten(1, 2)], 1)
    assert qkv.shape[1] == heads + 2 * kv_heads
    world.attention.plan(world.batch(rows), world.pages)
    found = world.attention.rotate_and_forward(qkv, (angles.cos(), angles.sin()), layer, norms)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(world.pages[world.tables[0]], other.pages[other.tables[0]], equal_nan=True)


LIMITS = GraphLimits(rows=4, pages=40, tokens=2000, dummy=0)


class FakeGraph:
    """What a CUDA graph is: launches with fixed grids and fixed addresses, played back without the host's code."""

    def __init__(self, world: World, rows: int) -> None:
        heads, dim, layers = len(world.case.mine), world.case.dim, range(len(world.case.shapes))
        self.query = torch.zeros(len(layers), rows, heads * world.case.group, dim, dtype=world.case.dtype)
        self.kv = torch.zeros(len(layers), rows, 2, heads, dim, dtype=world.case.dtype)
        with launches(run=False) as self.recorded:
            world.attention.capture(rows, world.pages)
            self.out = [world.attention.forward(self.query[layer], self.kv[layer], layer) for layer in layers]

    def play(self) -> None:
        for each in self.recorded:
            each.run()


def test_a_captured_step_serves_any_step_of_its_size() -> None:
    """Given a graph recorded once, when steps of other rows and lengths are played, then each is right, and what fills
    it up writes to nobody's pages."""
    case = Case(
        [(0, 1), (254, 1), (255, 1), (520, 1), (31, 1)],
        kv_heads=1,
        mine=range(1),
        group=4,
        shapes=(Shape(0.2), Shape(0.2, window=40, cap=2.0)),
        kv_dtype=torch.int8,
    )
    world = World(case, LIMITS)
    graph = FakeGraph(world, 4)
    for rows in ([3, 1], [4, 2, 1, 3], [0]):
        assert world.attention.replay(4, world.batch(rows))
        for layer in range(2):
            graph.query[layer, : len(rows)] = world.new(world.queries, rows, layer)
            graph.kv[layer, : len(rows)] = world.new(world.kv, rows, layer)
            graph.kv[layer, len(rows) :] = 7.0
        before = world.pages.clone()
        graph.play()
        touched = (world.pages != before).flatten(1).any(1).nonzero().flatten().tolist()
        mine = torch.cat([world.tables[row] for row in rows]).tolist()
        assert set(touched) <= {*mine, int(world.unused[0])}
        world.check([list(out[: len(rows)].split(1)) for out in graph.out], rows)


def test_a_smaller_graph_shares_the_buffers() -> None:
    world = World(Case([(40, 1), (300, 1)]), LIMITS)
    FakeGraph(world, 4)
    graph = FakeGraph(world, 2)
    assert world.attention.replay(2, world.batch([1, 0]))
    for layer in range(2):
        graph.query[layer], graph.kv[layer] = (
            world.new(world.queries, [1, 0], layer),
            world.new(world.kv, [1, 0], layer),
        )
    graph.play()
    world.check([list(out.split(1)) for out in graph.out], [1, 0])


@pytest.mark.parametrize(
    ("rows", "size", "limits"),
    [
        ([(3, 1), (4, 1), (5, 1)], 2, LIMITS),  # more rows than the graph has
        ([(3, 2)], 2, LIMITS),  # a row of two tokens
        ([(600, 1)], 2, replace(LIMITS, tokens=600)),  # more context than there is room for
        ([(600, 1)], 2, replace(LIMITS, pages=37)),  # more pages
    ],
)
def test_a_step_that_no_graph_serves_is_planned(rows: list[tuple[int, int]], size: int, limits: GraphLimits) -> None:
    world = World(Case(rows), limits)
    assert not world.attention.replay(size, world.batch(list(range(len(rows)))))
    world.check(world.step())


def attention(**changes: Any) -> TritonAttention:
    arguments = {"group": 2, "head_dim": 32, "kv_dtype": torch.float16, "scales": None, "tuning": tuning(INTERPRETER)}
    arguments |= changes
    group, head_dim, kv_dtype = (arguments.pop(name) for name in ("group", "head_dim", "kv_dtype"))
    return TritonAttention(range(2), group, head_dim, [Shape(1.0)], kv_dtype, CPU, **arguments)


def test_what_cannot_be_is_refused_by_name() -> None:
    """Before any step: a GPU without FP8, scales that are missing, heads that no kernel takes, graphs without room."""
    scales = torch.ones(1, 2, 2)
    with pytest.raises(Unsupported, match="sm_80 does not convert FP8"):
        attention(kv_dtype=torch.float8_e4m3fn, scales=scales, tuning=tuning("sm_80"))
    with pytest.raises(Unsupported, match="no scales"):
        attention(kv_dtype=torch.int8)
    with pytest.raises(Unsupported, match="32 query heads"):
        attention(group=32)
    with pytest.raises(Unsupported, match="heads of 20 numbers"):
        attention(head_dim=20)
    with pytest.raises(NoTuning, match="decode attention with head_dim 512"):
        attention(head_dim=512)
    with pytest.raises(ValueError, match="no room was kept for graphs"):
        attention().capture(1, torch.empty(1, 1, 2, 2, 16, 32))
