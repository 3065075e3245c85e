"""An engine on a stand: executor, slots, device pages, graphs and sampler as a worker has them; plans come by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from benchmarks.gpu.shapes import Case, Setup, random_weights
from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import pack_u32
from workers.attention.triton import GraphLimits
from workers.graphs.book import Book, room_for, sizes_up_to
from workers.graphs.recorder import CudaRecorder
from workers.graphs.runner import GraphedDecoder
from workers.group import Alone
from workers.hbm.copier import HostCopier, Pair, Wait
from workers.hbm.pages import DevicePages
from workers.kernels.triton.tuning import tuning_of
from workers.models.architecture import Architecture
from workers.models.decoder import Decoder
from workers.models.interface import SINGLE, Model
from workers.models.load import build
from workers.operators.fused import FusedOperators, fused
from workers.sampling.on_device import DeviceSamplingTable
from workers.step.execute import Executor
from workers.step.readback import CudaReader, HostReader
from workers.step.rows import Written
from workers.step.slots import Slots


class NoArena:
    """Commit words go nowhere; what pages hold before the first step is whatever is there."""

    def commit(self, written: Written) -> None:
        """Nothing to do."""


class NoCopies(HostCopier):
    """Pages are taken as they lie: the arena's copies run beside the steps, and would be measured as copies are."""

    def load(self, pairs: Sequence[Pair]) -> None:
        """Nothing to do."""

    def store(self, pairs: Sequence[Pair]) -> Wait:  # noqa: ARG002
        """Nothing to do."""
        return lambda: None


def opening(slot: int, tokens: int, computed: int, pages: Sequence[int]) -> SlotOpen:
    """A sequence enters a slot, with its KV in pages."""
    ids = pack_u32([(slot * 31 + at) % 200 for at in range(tokens)])
    generations = pack_u32([1] * len(pages))
    return SlotOpen(slot, slot + 1, ids, tokens, computed, pack_u32(pages), generations, Sampling(temperature=0.0))


def plan(
    step: int,
    rows: Sequence[tuple[int, int, int]],
    opens: Sequence[SlotOpen] = (),
    closes: Sequence[int] = (),
    forgets: Sequence[int] = (),
) -> StepPlan:
    """A step of (slot, start, count), all of which draw a token."""
    slots, starts, counts = zip(*rows, strict=True) if rows else ((), (), ())
    return StepPlan(
        step, pack_u32(closes), tuple(opens), pack_u32(slots), pack_u32(starts), pack_u32(counts),
        bytes([1] * len(rows)), b"", b"", b"", forgets=pack_u32(forgets),
    )  # fmt: skip


class Stand:
    """Args: rows: sequences; tokens: of each at the end."""

    def __init__(self, architecture: Architecture, setup: Setup, rows: int, tokens: int) -> None:
        a, device, self._rows = architecture, setup.device, rows
        self._page_tokens, self._tokens = setup.page_tokens, tokens
        self._own = math.ceil(tokens / setup.page_tokens) + 1
        count = rows * self._own
        frames = torch.zeros(
            count + 1, a.layers, 2, a.kv_heads, setup.page_tokens, a.head_dim, dtype=setup.dtype, device=device
        )
        self._pages = DevicePages(frames, NoCopies(frames, frames), NoArena())
        sampler = DeviceSamplingTable(rows, a.vocabulary, device, tuning_of(device))
        context = self._own * setup.page_tokens
        slots = Slots(
            rows, context, setup.page_tokens, a.vocabulary, count, device, sampler=sampler, placement=self._pages
        )
        model = self._model(a, setup, frames, GraphLimits(rows, self._own, rows * context, count))
        reader = CudaReader(device) if device.type == "cuda" else HostReader()
        self._executor = Executor(model, slots, self._pages, Alone(), reader=reader)
        self._step, self._at = 0, -1

    def step(self, case: Case) -> None:
        """The next one of every sequence. Decodes are launched before the step in front of them is read, as in serving,
        so that in the long run a call takes as long as a step does; a prefill is read at once."""
        opens = []
        if self._at < 0:
            # What is computed is whole pages; the first step computes the rest.
            computed = case.context // self._page_tokens * self._page_tokens
            length = case.context + case.new
            opens = [opening(slot, length, computed, self._table(slot)) for slot in range(self._rows)]
            rows = [(slot, computed, length - computed) for slot in range(self._rows)]
            self._at = length
        else:
            rows = [(slot, self._at, 1) for slot in range(self._rows)]
            self._at += 1
        self._step += 1
        self._executor.launch(plan(self._step, rows, opens))
        while self._executor.in_flight > (case.new == 1):
            self._executor.finish()

    def start_over(self) -> None:
        """All sequences leave; the next step is their first."""
        self._step += 1
        pages = [page for slot in range(self._rows) for page in self._table(slot)]
        self._executor.run(plan(self._step, [], closes=range(self._rows), forgets=pages))
        self._at = -1

    def _table(self, slot: int) -> list[int]:
        return list(range(slot * self._own, (slot + 1) * self._own))

    @staticmethod
    def _model(a: Architecture, setup: Setup, frames: torch.Tensor, limits: GraphLimits) -> Model:
        weights = random_weights(a, setup.dtype, setup.device, fp8=setup.fp8)
        model = build(weights, SINGLE, setup.device, fused(setup.dtype, setup.device, limits))
        if setup.device.type != "cuda":
            return model
        assert isinstance(model, Decoder)
        assert isinstance(model.operators, FusedOperators)
        sizes = sizes_up_to(limits.rows)
        book = Book(sizes, room_for(sizes))
        return GraphedDecoder(model, model.operators, CudaRecorder(setup.device), book, frames)
