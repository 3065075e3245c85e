"""A loaded model made ready for steps: what computes it, on which pages, and what draws.

| device                       | computes                         | pages                                     |
|------------------------------|----------------------------------|-------------------------------------------|
| CPU                          | the C++ kernels, or torch        | the arena's own, in place                 |
| GPU                          | Triton's kernels, graphs         | in device memory, as many as fit          |
| a GPU's stand-in (tests)     | torch                            | in other memory than the arena            |

On a GPU the largest step is computed once before there are pages, so that it is known what is left for them. A rank of
a group has its own KV heads of each page in its device's memory, and writes them to its part of the arena's; all ranks
have as many pages as the one with the least room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from bus.config import parse_size
from workers import gpu
from workers.arena import ArenaPages
from workers.attention.interface import own_heads
from workers.graphs.book import GRAPH_BYTES, Book, room_for, sizes_up_to
from workers.hbm.balance import Balance, Measured, pages_that_fit
from workers.hbm.copier import Copier, HostCopier
from workers.hbm.pages import DevicePages
from workers.host import Assignment, Unsuitable
from workers.kernels.triton.tuning import NoTuning, Unsupported
from workers.models.decoder import Decoder
from workers.models.interface import Collectives, Model
from workers.models.load import build
from workers.models.warm import step_of
from workers.sampling.table import Sampler
from workers.step.execute import Pages
from workers.step.readback import CudaReader, HostReader, Reader

if TYPE_CHECKING:
    from workers.loading import Loaded

log = logging.getLogger(__name__)

_GRAPH_ROWS: Final = 256  # a step of more is bound by products, not by launches
_STAND_IN_LATE_S: Final = 0.003  # so that its next step is launched before this one is read, as a GPU's is
_LEAST: Final = 2  # pages of the shortest sequence that goes on


class Device(NamedTuple):
    """A GPU's memory, and the pages in it."""

    pages: DevicePages
    balance: Balance


class Ready(NamedTuple):
    """What slots and executor are made with.

    Attributes:
        pages: for the executor.
        cells: pages of plans are below it.
        device: None where pages are the arena's.
        sampler: None for torch's.
        reader: None where the device is the host.
    """

    model: Model
    pages: Pages
    cells: int
    device: Device | None = None
    sampler: Sampler | None = None
    reader: Reader | None = None

    @property
    def device_pages(self) -> int:
        """That slots can hold at once; 0 where pages are the arena's."""
        return 0 if self.device is None else self.device.pages.frames.count


def bring_up(loaded: Loaded, arena: ArenaPages, assignment: Assignment, collectives: Collectives) -> Ready:
    """On a GPU it takes seconds, and belongs on a thread beside the loop.

    Raises:
        workers.hbm.balance.NoRoom: device memory is too small.
        workers.host.Unsuitable: the GPU's kernels do not compute this model.
    """
    if not assignment.in_device_memory:
        return Ready(build(loaded.weights, collectives, assignment.device), arena, arena.cells)
    if assignment.device.type == "cuda":
        try:
            return _on_gpu(loaded, arena, assignment, collectives)
        except (Unsupported, NoTuning) as problem:
            raise Unsuitable(f"the GPU's kernels do not compute {loaded.file}: {problem}") from problem
    log.warning("this worker's GPU is a stand-in of %s: for tests only", gpu.TEST_MEMORY)
    memory, cells = gpu.test_memory(), own_heads(arena.tensor, loaded.weights.shard.kv_heads)
    measured = Measured(memory, memory, 0, 0)

    def fit(budget: int) -> tuple[int, Balance]:
        return pages_that_fit(measured, cells[0].nbytes, graphs=0, budget=budget, least=_LEAST, spare=0)

    count, balance = _agreed(fit, 0, cells[0].nbytes, assignment, collectives)
    frames = torch.zeros(count + 1, *cells.shape[1:], dtype=cells.dtype)
    model = build(loaded.weights, collectives, assignment.device)
    return _ready(model, arena, frames, HostCopier(frames, cells), balance, HostReader(_STAND_IN_LATE_S))


def _on_gpu(loaded: Loaded, arena: ArenaPages, assignment: Assignment, collectives: Collectives) -> Ready:
    # Slow to import, and not there on hosts without GPUs.
    from workers.attention.triton import GraphLimits
    from workers.graphs.recorder import CudaRecorder
    from workers.graphs.runner import GraphedDecoder
    from workers.hbm.copier import CudaCopier
    from workers.hbm.register import Registered, register_in_background
    from workers.kernels.triton.tuning import tuning_of
    from workers.operators.fused import FusedOperators, fused
    from workers.sampling.on_device import DeviceSamplingTable

    device, config, weights, ranks = assignment.device, assignment.model, loaded.weights, assignment.ranks
    cells = own_heads(arena.tensor, weights.shard.kv_heads)
    torch.cuda.set_device(device)
    architecture = weights.architecture
    sampler = DeviceSamplingTable(config.slots, architecture.vocabulary, device, tuning_of(device))
    sizes = sizes_up_to(min(config.slots, _GRAPH_ROWS))
    graphs = room_for(sizes)
    measured = _measure(build(weights, collectives, device, fused(weights.dtype, device)), loaded, assignment)

    def fit(budget: int) -> tuple[int, Balance]:
        return pages_that_fit(measured, cells[0].nbytes, graphs=graphs, budget=budget, least=_LEAST)

    count, balance = _agreed(fit, parse_size(config.device_kv), cells[0].nbytes, assignment, collectives)
    frames = torch.zeros(count + 1, *cells.shape[1:], dtype=cells.dtype, device=device)
    # A part of a page is not one piece of the arena. It is one of a pinned page, from which the host goes on.
    pinned = register_in_background(cells) if ranks == 1 else Registered(cells.data_ptr())
    copier = CudaCopier(frames, cells, pinned)
    pages = -(-loaded.context_tokens // loaded.kv.page_tokens)
    limits = GraphLimits(sizes[-1], pages, min(count * loaded.kv.page_tokens, sizes[-1] * loaded.context_tokens), count)
    decoder = build(weights, collectives, device, fused(weights.dtype, device, limits))
    assert isinstance(decoder, Decoder)
    assert isinstance(decoder.operators, FusedOperators)
    recorder = CudaRecorder(device, GRAPH_BYTES if ranks > 1 else 0)
    model = GraphedDecoder(decoder, decoder.operators, recorder, Book(sizes, graphs), frames, ranks)
    return _ready(model, arena, frames, copier, balance, CudaReader(device), sampler)


def _agreed(
    fit: Callable[[int], tuple[int, Balance]], budget: int, page_bytes: int, assignment: Assignment,
    collectives: Collectives,
) -> tuple[int, Balance]:  # fmt: skip
    """How many pages all ranks have: what differs between them would be another choice in each one's steps."""
    count, balance = fit(budget)
    if assignment.ranks == 1:
        return count, balance
    counts = collectives.all_gather_last(torch.tensor([count], device=assignment.device), [1] * assignment.ranks)
    least = int(counts.min())
    return (count, balance) if least == count else fit(least * page_bytes)


def _measure(model: Model, loaded: Loaded, assignment: Assignment) -> Measured:
    """Compute the largest prefill and the largest decode step, on pages that are given back."""
    device, shape, config = assignment.device, loaded.kv, assignment.model
    most = 0
    prompt, decodes = min(config.step_tokens, loaded.context_tokens), min(config.slots, config.step_tokens)
    for rows, tokens in ((1, prompt), (decodes, 1)):
        cells = rows * -(-tokens // shape.page_tokens)
        pages = torch.zeros(
            cells, shape.layers, 2, len(loaded.weights.shard.kv_heads), shape.page_tokens, shape.head_dim,
            dtype=loaded.weights.dtype, device=device,
        )  # fmt: skip
        held = pages.nbytes
        torch.cuda.reset_peak_memory_stats(device)
        ids, batch = step_of(rows, tokens, shape.page_tokens, device)
        hidden = model.forward(ids, batch, pages)
        model.logits(hidden[:: max(1, len(hidden) // config.slots)][: config.slots])
        torch.cuda.synchronize(device)
        most = max(most, torch.cuda.max_memory_allocated(device) - held)
        del pages, hidden
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return Measured(total, free, loaded.weights.bytes, most)


def _ready(
    model: Model, arena: ArenaPages, frames: torch.Tensor, copier: Copier, balance: Balance, reader: Reader,
    sampler: Sampler | None = None,
) -> Ready:  # fmt: skip
    pages = DevicePages(frames, copier, arena)
    log.info("device memory: %s", balance, extra={"pages": pages.frames.count})
    return Ready(model, pages, arena.cells, Device(pages, balance), sampler, reader)
