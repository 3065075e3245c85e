"""Steps from graphs are the steps that were asked for, and graphs are recorded when they pay. On a CPU.

The recorder here keeps what a CUDA graph keeps: operations on fixed addresses, kernels with fixed grids, and none of
the host's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from forward import Runner
from tiny import saved, tiny

from workers.attention.triton import GraphLimits
from workers.graphs.book import WANTED, Book, Choice, Way, room_for, sizes_up_to
from workers.graphs.runner import GraphedDecoder
from workers.kernels.triton.launch import Launch, launches
from workers.models.decoder import Decoder
from workers.operators.fused import FusedOperators, fused

CPU = torch.device("cpu")
SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
CELLS = 40


def shares_memory(out: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether a result lies in what an argument lies in."""
    place = out.untyped_storage().data_ptr()
    return any(isinstance(each, Tensor) and each.untyped_storage().data_ptr() == place for each in args)


class Tape(TorchDispatchMode):
    """Torch's operators and Triton's launches in the order in which they were asked for."""

    def __init__(self, launched: list[Launch]) -> None:
        super().__init__()
        self._launched, self._taken = launched, 0
        self.steps: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.take_launches()
        out = func(*args, **(kwargs or {}))
        # A view is where it was recorded; whether `to` gives one is known only afterwards.
        outs = [each for each in (out if isinstance(out, tuple | list) else [out]) if isinstance(each, Tensor)]
        if outs and (func._schema.is_mutable or not shares_memory(outs[0], args)):
            self.steps.append(lambda: self._again(func, args, kwargs or {}, outs))
        return out

    def take_launches(self) -> None:
        self.steps += [each.run for each in self._launched[self._taken :]]
        self._taken = len(self._launched)

    @staticmethod
    def _again(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outs: list[Tensor]) -> None:
        found = func(*args, **kwargs)
        for again, out in zip(found if isinstance(found, tuple | list) else [found], outs, strict=True):
            if again.data_ptr() != out.data_ptr():
                out.copy_(again)


class Taped:
    """Implements `workers.graphs.recorder.Recording`."""

    took_bytes = 1 << 20

    def __init__(self, step: Callable[[], Tensor]) -> None:
        with launches(run=False) as launched, Tape(launched) as tape:
            self.out = step()
        tape.take_launches()
        self._steps = tape.steps

    def play(self) -> None:
        for step in self._steps:
            step()


class Recorder:
    """Implements `workers.graphs.recorder.Recorder`."""

    def __init__(self, *, broken: bool = False) -> None:
        self._broken, self.made = broken, 0

    def record(self, step: Callable[[], Tensor]) -> Taped:
        if self._broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.made += 1
        return Taped(step)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def runners(path: Path, recorder: Recorder, book: Book) -> tuple[Runner, Runner]:
    """One that plays graphs, and one that computes with torch."""
    limits = GraphLimits(rows=book.sizes[-1], pages=8, tokens=300, dummy=CELLS - 1)
    ours = Runner(path, page_tokens=8, cells=CELLS, make_operators=fused(torch.float32, CPU, limits))
    decoder = ours.models[0]
    assert isinstance(decoder, Decoder)
    assert isinstance(decoder.operators, FusedOperators)
    ours._free.remove(CELLS - 1)
    ours.models[0] = GraphedDecoder(decoder, decoder.operators, recorder, book, ours.pages)
    return ours, Runner(path, page_tokens=8, cells=CELLS)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_steps_from_graphs_are_those_of_torch(family: str, tmp_path: Path) -> None:
    """Given decodes that come and go beside a prefill, when sizes are recorded on the way, then every step has torch's
    hidden states; a graph of four serves three rows, and what fills it up disturbs nobody."""
    path = saved(tiny(family, **SMALL), tmp_path)
    recorder, book = Recorder(), Book(sizes_up_to(4), 1 << 30)
    ours, theirs = runners(path, recorder, book)
    steps: list[list[tuple[str, list[int]]]] = [[("a", [5, 9, 3]), ("b", [1] * 11)], [("c", [7, 7]), ("a", [4])]]
    steps += [[("a", [n]), ("b", [n + 1]), ("c", [n + 2])] for n in range(WANTED + 3)]
    steps += [[("d", [8, 1]), ("a", [3])], [("d", [1]), ("c", [2]), ("b", [3]), ("a", [4])], [("a", [2])]]
    for step in steps:
        for found, expected in zip(ours.step(step), theirs.step(step), strict=True):
            torch.testing.assert_close(found.clone(), expected, rtol=2e-4, atol=2e-4)
    assert book.recorded == {4}
    assert recorder.made == 1


def test_what_cannot_be_recorded_is_computed_and_not_tried_again(tmp_path: Path) -> None:
    path = saved(tiny("llama", **SMALL), tmp_path)
    book = Book(sizes_up_to(1), 1 << 30)
    ours, theirs = runners(path, Recorder(broken=True), book)
    for n in range(WANTED + 4):
        (found,), (expected,) = ours.step([("a", [n])]), theirs.step([("a", [n])])
        torch.testing.assert_close(found.clone(), expected, rtol=2e-4, atol=2e-4)
    assert not book.recorded
    assert book.choose(1) == Choice(Way.COMPUTE)


def follow(book: Book, rows: int) -> Way:
    """A step, carried out as the runner does."""
    way, size = book.choose(rows)
    if way is Way.REHEARSE:
        book.rehearsed(size)
    elif way is Way.RECORD:
        book.keep(size, 10)
    return way


def test_a_size_is_recorded_when_it_came_often_enough() -> None:
    book = Book(sizes_up_to(256), 1 << 30)
    ways = [follow(book, 30) for _ in range(WANTED + 3)]
    assert ways == [*[Way.COMPUTE] * WANTED, Way.REHEARSE, Way.RECORD, Way.PLAY]
    assert book.choose(32) == Choice(Way.PLAY, 32)
    assert book.choose(20) == Choice(Way.PLAY, 32)  # until 24 has one of its own
    assert book.choose(5).way is Way.COMPUTE
    assert book.choose(257).way is Way.COMPUTE


@given(rows=st.integers(1, 600))
def test_every_step_has_a_size_that_is_little_larger(rows: int) -> None:
    """Law: sizes ascend to the largest, and none is filled up by more than a half and seven rows."""
    sizes = sizes_up_to(rows)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == rows
    for wanted in range(1, rows + 1):
        size = next(size for size in sizes if size >= wanted)
        assert size - wanted <= max(7, wanted / 8)


@given(st.lists(st.sampled_from([0, 1, 2, 3, 9, 30, 80]), min_size=40, max_size=80), st.integers(0, 60))
def test_graphs_keep_to_their_room(steps: list[int], room: int) -> None:
    """Law: nothing is recorded once the room is used, nothing that was not rehearsed, and what is played is there."""
    book, rehearsed = Book(sizes_up_to(64), room), set()
    for rows in steps:
        used = book.used_bytes
        way, size = book.choose(rows)
        if way is Way.COMPUTE:
            continue
        assert size >= rows
        if way is Way.REHEARSE:
            book.rehearsed(size)
            rehearsed.add(size)
        elif way is Way.RECORD:
            assert used < room
            assert size in rehearsed
            book.keep(size, 10)
        else:
            assert size in book.recorded


def test_room_is_kept_for_every_size_within_reason() -> None:
    assert room_for(sizes_up_to(1)) == 32 << 20
    assert room_for(sizes_up_to(4096)) == 1 << 30
