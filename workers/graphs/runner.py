"""A decoder whose decode steps are played back. What is not a decode step, or does not fit, it computes as it comes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workers.graphs.book import Book, Choice, Way
from workers.graphs.recorder import Recorder, Recording
from workers.lora.adapter import Adapter
from workers.models.architecture import Architecture
from workers.models.decoder import Decoder
from workers.models.interface import Batch
from workers.operators.interface import Graphable

log = logging.getLogger(__name__)


class GraphedDecoder:
    """Implements `workers.models.interface.Model`.

    Args:
        decoder: computes; nothing of its layers may wait for the device.
        operators: the decoder's.
        recorder: of the device.
        book: decides.
        pages: that all steps are on.
        ranks: of the group. With more than one, whoever cannot record leaves the step, and so the group: the others
            have a graph with this rank's memory in it.
    """

    def __init__(
        self, decoder: Decoder, operators: Graphable, recorder: Recorder, book: Book, pages: Tensor, ranks: int = 1
    ) -> None:
        self._ranks = ranks
        self._decoder, self._operators, self._recorder = decoder, operators, recorder
        self._book, self._pages = book, pages
        self._recordings: dict[int, Recording] = {}
        rows = book.sizes[-1]
        self._ids = torch.zeros(rows, dtype=torch.int64, device=decoder.device)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=decoder.device)

    @property
    def architecture(self) -> Architecture:
        return self._decoder.architecture

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self._decoder.dtype

    @torch.inference_mode()
    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        rows = len(batch.row_context)
        # Adapters are other weights for each step, which no recording has.
        choice = self._book.choose(rows if batch.row_starts[-1] == rows and not batch.adapters else 0)
        if choice.way is Way.COMPUTE or pages.data_ptr() != self._pages.data_ptr():
            return self._decoder.forward(ids, batch, pages)
        if not self._operators.replay(choice.size, batch):
            return self._decoder.forward(ids, batch, pages)
        self._fill(ids, batch.positions, choice.size)
        found = self._by_graph(choice)
        return self._decoder.forward(ids, batch, pages) if found is None else found[:rows]

    def logits(self, hidden: Tensor, adapters: Sequence[Adapter | None] = ()) -> Tensor:
        return self._decoder.logits(hidden, adapters)

    def spent_ns(self) -> Mapping[str, int]:
        return self._decoder.spent_ns()

    def _fill(self, ids: Tensor, positions: Tensor, size: int) -> None:
        rows = len(ids)
        self._ids[:rows], self._positions[:rows] = ids, positions
        self._ids[rows:size] = self._positions[rows:size] = 0

    def _by_graph(self, choice: Choice) -> Tensor | None:
        """[size, hidden]; None where it has to be computed after all."""
        way, size = choice
        if way is Way.REHEARSE:
            self._book.rehearsed(size)
            return self._step(size)
        if way is Way.RECORD:
            try:
                self._recordings[size] = made = self._recorder.record(lambda: self._step(size))
            except RuntimeError:
                if self._ranks > 1:
                    raise
                log.exception("steps of %d rows are computed without a graph: it cannot be recorded", size)
                self._book.give_up(size)
                return None
            self._book.keep(size, made.took_bytes)
            log.info("recorded steps of %d rows: %.1f MiB", size, made.took_bytes / (1 << 20))
        recording = self._recordings[size]
        recording.play()
        return recording.out

    def _step(self, size: int) -> Tensor:
        self._operators.capture(size, self._positions[:size], self._pages)
        self._decoder.adapted.plan(())
        return self._decoder.compute(self._ids[:size])
