"""Paged attention on a GPU: Triton's kernels over the same pages as everywhere, page first.

Of a step's rows, each goes where its tokens are:

| row                                                         | computed by                                       |
|-------------------------------------------------------------|---------------------------------------------------|
| few tokens: one, or as many as fit a tile with their heads   | `kernels.triton.decode`: splits of fixed length    |
| more tokens, all of its sequence so far                     | torch's SDPA on K and V as they come               |
| more tokens after what is in pages                          | `kernels.triton.prefill`                          |

SDPA is left out where it would see other numbers than the pages hold (quantised KV), or does not know the layer's
window or cap.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.interface import HeadNorms, own_heads
from workers.kernels.triton import decode, prefill
from workers.kernels.triton.attend import Paged, Shape
from workers.kernels.triton.rotary import Destination, rotate_and_write
from workers.kernels.triton.tuning import Tuning, Unsupported, tuning_of
from workers.models.interface import Batch
from workers.step.staging import staged

_QUANTISED: Final = (torch.int8, torch.float8_e4m3fn)
# Where there is no GPU the interpreter runs one program after another; more than one, so that they share work out.
_PROCESSORS_OF_NONE: Final = 3


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Room for steps that graphs play back.

    Attributes:
        rows: of the largest graph.
        pages: of a row.
        tokens: contexts of all rows of a step together.
        dummy: the cell that rows write to that are there only to fill a graph up.
    """

    rows: int
    pages: int
    tokens: int
    dummy: int


@dataclass(frozen=True, slots=True)
class _Chunks:
    """A step's rows of many tokens, for layers of one shape. `dense`: their tokens, by row, for SDPA."""

    dense: list[slice]
    blocks: prefill.Blocks | None


class TritonAttention:
    """Implements `workers.attention.interface`: Attention, RotatingAttention and CapturableAttention.

    Args:
        kv_heads: the KV heads of this rank, a range of all ranks'.
        group: query heads that share a KV head.
        head_dim: numbers of a head.
        layers: what attention is in each layer.
        kv_dtype: of the pages.
        device: of everything.
        scales: float32 [layers, 2, kv heads of this rank] that quantised pages are multiplied with; None where
            they are not quantised.
        graphs: None where no step will be captured.
        tuning: of the GPU; looked up where it is not given.

    Raises:
        workers.kernels.triton.tuning.Unsupported: the GPU or the kernels do not do this.
        workers.kernels.triton.tuning.NoTuning: there is no table for this GPU, or nothing in it for this model.
    """

    def __init__(
        self,
        kv_heads: range,
        group: int,
        head_dim: int,
        layers: Sequence[Shape],
        kv_dtype: torch.dtype,
        device: torch.device,
        *,
        scales: Tensor | None = None,
        graphs: GraphLimits | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._tuning = tuning or tuning_of(device)
        _check(self._tuning, group, head_dim, kv_dtype, scales)
        self._kv_heads, self._group, self._head_dim, self._layers = kv_heads, group, head_dim, layers
        self._kv_dtype, self._device, self._scales, self._graphs = kv_dtype, device, scales, graphs
        cuda = device.type == "cuda"
        self._processors = (
            torch.cuda.get_device_properties(device).multi_processor_count if cuda else _PROCESSORS_OF_NONE
        )
        self._block_tokens = prefill.block_tokens(self._tuning.chunk_for(head_dim, kv_dtype.itemsize).rows, group)
        self._static = None if graphs is None else self._static_for(graphs)
        self._pages = torch.empty(0)
        self._page_of = self._offset_of = torch.empty(0, dtype=torch.int64)
        self._decodes: dict[int, decode.Rows] = {}
        self._partial: decode.Partial | None = None
        self._chunks: dict[Shape, _Chunks] = {}

    def plan(self, batch: Batch, pages: Tensor) -> None:
        self._aim(pages, batch.page_of, batch.offset_of)
        spans = list(itertools.pairwise(batch.row_starts))
        few = [row for row, (begin, end) in enumerate(spans) if (end - begin) * self._group <= decode.ROWS]
        many = [row for row, (begin, end) in enumerate(spans) if (end - begin) * self._group > decode.ROWS]
        self._decodes, self._partial = {}, None
        if few:
            self._plan_decodes(batch, few, spans)
        self._chunks = {}
        for shape in set(self._layers) if many else ():
            self._chunks[shape] = self._plan_chunks(batch, many, spans, shape)

    def forward(self, query: Tensor, kv: Tensor, layer: int) -> Tensor:
        rotate_and_write(kv.flatten(1, 2), len(self._kv_heads), None, self._destination(layer))
        return self._attend(query, kv, layer)

    def rotate_and_forward(
        self, qkv: Tensor, angles: tuple[Tensor, Tensor], layer: int, norms: HeadNorms | None = None
    ) -> Tensor:
        """See `workers.attention.interface.RotatingAttention`."""
        kv_heads = len(self._kv_heads)
        rotate_and_write(qkv, kv_heads, angles, self._destination(layer), norms)
        heads = qkv.shape[1] - 2 * kv_heads
        kv = qkv[:, heads:].view(len(qkv), 2, kv_heads, self._head_dim)
        return self._attend(qkv[:, :heads], kv, layer)

    def capture(self, rows: int, pages: Tensor) -> None:
        """See `workers.attention.interface.CapturableAttention`. Raises ValueError beyond the limits."""
        if self._static is None or self._graphs is None or rows > self._graphs.rows:
            raise ValueError(f"no room was kept for graphs of {rows} rows")
        self._aim(pages, self._static.page_of[:rows], self._static.offset_of[:rows])
        self._partial, self._chunks = self._static.partial, {}
        self._decodes = {window: self._static.rows(window, rows) for window in self._windows}
        for window, listed in self._decodes.items():
            decode.list_splits(listed, window)

    def replay(self, rows: int, batch: Batch) -> bool:
        """See `workers.attention.interface.CapturableAttention`."""
        static, limits = self._static, self._graphs
        count = len(batch.row_context)
        if static is None or limits is None or count > rows or batch.row_starts[-1] != count:
            return False
        tables = _tables(batch, range(count))
        if sum(batch.row_context) > limits.tokens or tables.shape[1] > limits.pages:
            return False
        contexts = np.array(batch.row_context + [1] * (rows - count), np.int32)
        static.contexts[:rows] = staged(contexts, self._device)
        static.tables[count:rows, 0] = limits.dummy
        static.tables[:count, : tables.shape[1]] = tables
        static.page_of[:count], static.offset_of[:count] = batch.page_of, batch.offset_of
        static.page_of[count:rows], static.offset_of[count:rows] = limits.dummy, 0
        return True

    @property
    def _windows(self) -> set[int]:
        return {shape.window for shape in self._layers}

    def _static_for(self, limits: GraphLimits) -> _Static:
        # A dummy has a split too, and every row's last split may be a short one.
        splits = -(-limits.tokens // decode.SPLIT) + limits.rows
        partial = decode.Partial.of(splits, len(self._kv_heads), self._group, self._head_dim, self._device)
        return _Static.of(limits, self._windows, splits, partial, self._device)

    def _aim(self, pages: Tensor, page_of: Tensor, offset_of: Tensor) -> None:
        self._pages = own_heads(pages, self._kv_heads)
        self._page_of, self._offset_of = page_of, offset_of

    def _plan_decodes(self, batch: Batch, few: list[int], spans: list[tuple[int, int]]) -> None:
        contexts = [batch.row_context[row] for row in few]
        numbers = np.array([contexts, *zip(*(spans[row] for row in few), strict=True)], np.int32)
        on_device = staged(numbers, self._device)
        tables = _tables(batch, few)
        tokens = max(end - begin for begin, end in (spans[row] for row in few))
        most = 0
        for window in self._windows:
            splits = sum(decode.most_splits(context, tokens, window) for context in contexts)
            rows = decode.Rows.of(on_device[0], on_device[1], on_device[2], tables, tokens, splits)
            decode.list_splits(rows, window)
            self._decodes[window] = rows
            most = max(most, splits)
        kept = tokens * self._group
        self._partial = decode.Partial.of(most, len(self._kv_heads), kept, self._head_dim, self._device)

    def _plan_chunks(self, batch: Batch, many: list[int], spans: list[tuple[int, int]], shape: Shape) -> _Chunks:
        def dense(row: int) -> bool:
            context, (begin, end) = batch.row_context[row], spans[row]
            windowed = 0 < shape.window < context
            return end - begin == context and not windowed and not shape.cap and self._scales is None

        paged = [row for row in many if not dense(row)]
        blocks = None
        if paged:
            counts = [spans[row][1] - spans[row][0] for row in paged]
            begins, ends = zip(*(spans[row] for row in paged), strict=True)
            numbers = np.array([[batch.row_context[row] for row in paged], begins, ends], np.int32)
            on_device = staged(numbers, self._device)
            listed = prefill.list_blocks(counts, self._block_tokens, self._device)
            tables = _tables(batch, paged)
            blocks = prefill.Blocks(*listed, on_device[0], on_device[1], on_device[2], tables)
        return _Chunks([slice(*spans[row]) for row in many if dense(row)], blocks)

    def _destination(self, layer: int) -> Destination:
        scales = None if self._scales is None else self._scales[layer]
        return Destination(self._pages[:, layer], self._page_of, self._offset_of, scales)

    def _attend(self, query: Tensor, kv: Tensor, layer: int) -> Tensor:
        shape, scales = self._layers[layer], None if self._scales is None else self._scales[layer]
        paged = Paged(self._pages[:, layer], scales)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if self._partial is not None:
            rows = self._decodes[shape.window]
            decode.decode(query, paged, rows, self._partial, shape, self._tuning, self._processors, out)
        if (chunks := self._chunks.get(shape)) is not None:
            for at in chunks.dense:
                out[at] = _dense(query[at], kv[at], shape.scale)
            if chunks.blocks is not None:
                prefill.prefill(query, paged, chunks.blocks, shape, self._tuning, out)
        return out


@dataclass(frozen=True, slots=True)
class _Static:
    """Buffers of all graphs; a graph of fewer rows has the first of them.

    Attributes:
        contexts, starts: int32 [rows], [rows + 1]. tables: int32 [rows, pages].
        lists: by window, int32 [rows + 1 + splits].
        page_of, offset_of: int64 [rows].
    """

    contexts: Tensor
    starts: Tensor
    tables: Tensor
    lists: dict[int, Tensor]
    partial: decode.Partial
    page_of: Tensor
    offset_of: Tensor

    @classmethod
    def of(
        cls, limits: GraphLimits, windows: set[int], splits: int, partial: decode.Partial, device: torch.device
    ) -> _Static:
        """All rows dummies."""
        rows = limits.rows
        return cls(
            contexts=torch.ones(rows, dtype=torch.int32, device=device),
            starts=torch.arange(rows + 1, dtype=torch.int32, device=device),
            tables=torch.full((rows, limits.pages), limits.dummy, dtype=torch.int32, device=device),
            lists={window: torch.zeros(rows + 1 + splits, dtype=torch.int32, device=device) for window in windows},
            partial=partial,
            page_of=torch.full((rows,), limits.dummy, dtype=torch.int64, device=device),
            offset_of=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def rows(self, window: int, count: int) -> decode.Rows:
        """Of a graph of `count` rows."""
        first_splits, row_of = self.lists[window][: count + 1], self.lists[window][len(self.starts) :]
        starts, ends = self.starts[:count], self.starts[1 : count + 1]
        return decode.Rows(self.contexts[:count], starts, ends, self.tables[:count], 1, first_splits, row_of)


def _check(tuning: Tuning, group: int, head_dim: int, kv_dtype: torch.dtype, scales: Tensor | None) -> None:
    if kv_dtype == torch.float8_e4m3fn and not tuning.fp8:
        raise Unsupported(f"{tuning.gpu} does not convert FP8 (e4m3): take int8 for KV there")
    if (kv_dtype in _QUANTISED) != (scales is not None):
        raise Unsupported(f"KV in {kv_dtype} and {'no ' if scales is None else ''}scales do not go together")
    if group > decode.ROWS:
        raise Unsupported(f"{group} query heads of a KV head; the kernels take up to {decode.ROWS}")
    if head_dim % 16:
        raise Unsupported(f"heads of {head_dim} numbers; the kernels take multiples of 16")
    tuning.split_for(head_dim, kv_dtype.itemsize)
    tuning.chunk_for(head_dim, kv_dtype.itemsize)


def _tables(batch: Batch, rows: Sequence[int]) -> Tensor:
    """Of some rows, int32 [rows, pages of the longest]; what is behind a row's end is never looked up."""
    if batch.table is None:
        tables = [batch.block_tables[row] for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tables, batch_first=True).to(torch.int32)
    if len(rows) == len(batch.table):
        return batch.table.to(torch.int32)
    return batch.table[staged(np.array(rows), batch.table.device)].to(torch.int32)


def _dense(query: Tensor, kv: Tensor, scale: float) -> Tensor:
    """Causal attention of a whole sequence: [tokens, heads, dim] and [tokens, 2, kv_heads, dim] to the first's."""
    keys, values = kv.permute(1, 2, 0, 3).unbind()
    found = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], is_causal=True, scale=scale, enable_gqa=True
    )
    return found[0].transpose(0, 1)
