"""Paged attention with torch operators on a CPU.

Per layer: scatter the new K and V into their pages, then for every row gather its pages into a scratch buffer and
attend to that. Decode rows of similar length share two batched matrix products, with the query heads of a KV head as
rows of one of them (torch's own grouped-query path is 1.4 times slower); a prefill chunk is one row, in blocks of
queries. Layers with a window gather only the pages that it reaches into: the step is cut into parts once for each
window that there is. Whatever the pages' dtype is, the attention itself is computed in float32; numbers of int8 are
multiplied with their scales first.

Every cell whose first token was written here holds finite numbers everywhere: what is behind a sequence's end in its
last page is read, with a weight of zero, and zero times a stray NaN of the page's former life would be NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.groups import group_rows
from workers.attention.interface import own_heads
from workers.models.interface import Batch
from workers.pages import quantised_kv, scales_of, spread, spread_block
from workers.step.windows import Folding

_SCRATCH_BYTES: Final = 64 << 20
_MASK_NUMBERS: Final = 1 << 20


class PagedAttention:
    """Implements `workers.attention.interface.Attention`.

    Args:
        kv_heads: the KV heads of this rank, a range of all ranks'.
        group: query heads that share a KV head.
        windows: tokens that each layer sees, the token itself included; 0 is all. Empty: all layers, all.
        scale: of scores; 0 is `dim ** -0.5`.
        cap: the scores' soft limit, `cap * tanh(score / cap)`; 0 is none.
    """

    def __init__(
        self, kv_heads: range, group: int, *, windows: Sequence[int] = (), scale: float = 0.0, cap: float = 0.0
    ) -> None:
        self._kv_heads, self._group, self._windows = kv_heads, group, windows
        self._scale, self._cap = scale, cap
        self._pages = torch.empty(0)
        self._page_of = self._offset_of = torch.empty(0, dtype=torch.int64)
        self._folding = Folding.of(windows)
        self._parts: dict[int, list[_Part]] = {}  # by window

    def plan(self, batch: Batch, pages: Tensor) -> None:
        self._pages = own_heads(pages, self._kv_heads)
        self._page_of, self._offset_of = batch.page_of, batch.offset_of
        self._clean(batch)
        scores = _Scores(self._scale or pages.shape[5] ** -0.5, self._cap)
        self._parts = {window: self._cut(batch, window, scores) for window in set(self._windows) or {0}}

    def _cut(self, batch: Batch, window: int, scores: _Scores) -> list[_Part]:
        """A step's parts, for layers with this window."""
        starts, page_tokens = batch.row_starts, self._pages.shape[4]
        pages = _Pages(self._pages, self._folding.layers if self._folding is not None else ())
        counts = [end - start for start, end in itertools.pairwise(starts)]
        rows = [
            _Row.of(*row, window, page_tokens)
            for row in zip(counts, batch.block_tables, batch.row_context, strict=True)
        ]
        if batch.folds and not window:
            assert self._folding is not None
            rows = [row.folded(self._folding, folds) for row, folds in zip(rows, batch.folds, strict=True)]
        parts: list[_Part] = [
            _Chunk(slice(starts[at], starts[at + 1]), row, pages, scores)
            for at, row in enumerate(rows)
            if counts[at] > 1
        ]
        decodes = [at for at, count in enumerate(counts) if count == 1]
        page_bytes = 2 * len(self._kv_heads) * page_tokens * self._pages.shape[5] * 4
        lengths = [len(rows[at].table) for at in decodes]
        for group in group_rows(lengths, _SCRATCH_BYTES // page_bytes):
            which = [decodes[index] for index in group]
            whole = which == list(range(len(counts)))  # a step of decodes in order needs no picking
            tokens = None if whole else torch.tensor([starts[at] for at in which])
            parts.append(_Decodes(tokens, [rows[at] for at in which], pages, scores))
        return parts

    def forward(self, query: Tensor, kv: Tensor, layer: int) -> Tensor:
        pages = self._pages[:, layer]
        out = torch.empty_like(query)
        if pages.dtype == torch.int8:
            kv, scales_of(pages)[self._page_of, :, :, self._offset_of] = quantised_kv(kv)
            query = spread(query) / spread_block(query.shape[2])
        pages[self._page_of, :, :, self._offset_of] = kv.to(pages.dtype)
        heads = query.shape[0], len(self._kv_heads), self._group, query.shape[2]
        for part in self._parts[self._windows[layer] if self._windows else 0]:
            part.attend(query.view(heads), layer, out.view(heads))
        return out

    def _clean(self, batch: Batch) -> None:
        """Zero the cells that this step begins and does not fill."""
        begun = batch.page_of[batch.offset_of == 0]
        filled = batch.page_of[batch.offset_of == self._pages.shape[4] - 1]
        partly = begun[~torch.isin(begun, filled)]
        if len(partly):
            self._pages[partly] = 0
            if self._pages.dtype == torch.int8:
                scales_of(self._pages)[partly] = 0


@dataclass(frozen=True, slots=True)
class _Scores:
    """From products of queries and keys to scores."""

    scale: float
    cap: float

    def capped(self, scores: Tensor) -> Tensor:
        """In place; of scores that are scaled."""
        return scores.div_(self.cap).tanh_().mul_(self.cap) if self.cap else scores


@dataclass(frozen=True, slots=True)
class _Row:
    """A row's share of a step: the last `count` tokens of its sequence, and those before that they see.

    Attributes:
        table: the cells from the first page that any of the tokens sees.
        context: tokens in them.
        window: that each token sees, itself included; at most `context`.
        begins: [pages], where in its page the block's layers begin, of blocks that are folded; -1 of others. None where
            none is.
    """

    table: Tensor
    context: int
    count: int
    window: int
    begins: Tensor | None = None

    @classmethod
    def of(cls, count: int, table: Tensor, context: int, window: int, page_tokens: int) -> _Row:
        """Given the whole table and context. window: 0 is all."""
        if not window:
            return cls(table, context, count, context)
        behind = max(0, context - count + 1 - window) // page_tokens
        context -= behind * page_tokens
        return cls(table[behind:], context, count, min(window, context))

    def folded(self, folding: Folding, folds: Tensor) -> _Row:
        """The same with its leading blocks in folds, cells [folds]."""
        if not len(folds):
            return self
        cells, begins = folding.places(folds, self.table)
        return replace(self, table=cells, begins=begins)


class _Part(Protocol):
    """Some of a step's rows."""

    def attend(self, query: Tensor, layer: int, out: Tensor) -> None:
        """Fill this part's tokens of `out`, [tokens, kv_heads, group, dim] as `query`."""
        ...


class _Pages(NamedTuple):
    """All pages.

    Attributes:
        tensor: [cells, layers, 2, kv_heads, page tokens, dim].
        whole: layers without a window, in the order that folds have them.
    """

    tensor: Tensor
    whole: tuple[int, ...]


@dataclass(slots=True)
class _Gather:
    """Collects pages of one layer into a buffer that all layers share."""

    cells: Tensor  # [pages] int64
    begins: Tensor | None  # as a row's
    pages: _Pages
    buffer: Tensor  # [2, kv_heads, pages, page tokens, dim] in the pages' dtype

    @classmethod
    def of(cls, cells: Tensor, begins: Tensor | None, pages: _Pages) -> _Gather:
        kv, heads, page_tokens, dim = pages.tensor.shape[2:]
        gathered = len(cells) if begins is None else 0
        buffer = torch.empty(kv, heads, gathered, page_tokens, dim, dtype=pages.tensor.dtype)
        return cls(cells, begins, pages, buffer)

    def __call__(self, layer: int) -> Tensor:
        """[2, kv_heads, pages * page tokens, dim] float32."""
        if self.begins is not None:
            return self._folded(self.begins, layer)
        pages = self.pages.tensor[:, layer]
        torch.index_select(pages.permute(1, 2, 0, 3, 4), 2, self.cells, out=self.buffer)
        found = self.buffer.flatten(2, 3).float()
        if pages.dtype == torch.int8:
            scales = scales_of(pages).permute(1, 2, 0, 3).index_select(2, self.cells)
            found *= scales.flatten(2, 3)[..., None]
        return found

    def _folded(self, begins: Tensor, layer: int) -> Tensor:
        pages = self.pages.tensor
        layers = torch.where(begins < 0, layer, begins + self.pages.whole.index(layer))
        found = pages[self.cells, layers].permute(1, 2, 0, 3, 4).flatten(2, 3).float().contiguous()
        if pages.dtype == torch.int8:
            found *= scales_of(pages)[self.cells, layers].permute(1, 2, 0, 3).flatten(2, 3)[..., None]
        return found


class _Decodes:
    """Rows of one token each.

    Args:
        tokens: [rows] indices into the step's tokens; None where the rows are all of them, in order.
        rows: what they see.
        pages: all of them.
        scores: how they are made.
    """

    def __init__(self, tokens: Tensor | None, rows: Sequence[_Row], pages: _Pages, scores: _Scores) -> None:
        self._tokens, self._rows, self._scores = tokens, len(rows), scores
        longest, page_tokens = max(len(row.table) for row in rows), pages.tensor.shape[4]
        folds = any(row.begins is not None for row in rows)
        begins = (
            _padded([row.begins if row.begins is not None else torch.full_like(row.table, -1) for row in rows], longest)
            if folds
            else None
        )
        self._gather = _Gather.of(_padded([row.table for row in rows], longest), begins, pages)
        self._length = rows[0].context if self._rows == 1 else longest * page_tokens
        self._mask: Tensor | None = None
        if any(row.context < self._length or row.window < row.context for row in rows):
            at = torch.arange(self._length)
            ends = torch.tensor([row.context for row in rows])[:, None]
            begins = ends - torch.tensor([row.window for row in rows])[:, None]
            unseen = (at >= ends) | (at < begins)
            self._mask = torch.zeros(self._rows, 1, self._length).masked_fill_(unseen[:, None], float("-inf"))

    def attend(self, query: Tensor, layer: int, out: Tensor) -> None:
        _, heads, group, dim = query.shape
        keys, values = self._gather(layer).view(2, heads * self._rows, -1, dim)[:, :, : self._length]
        mine = query if self._tokens is None else query[self._tokens]
        wanted = (mine.float() * self._scores.scale).transpose(0, 1).reshape(heads * self._rows, group, dim)
        scores = self._scores.capped(torch.bmm(wanted, keys.transpose(1, 2)))
        if self._mask is not None:
            scores.view(heads, self._rows, group, self._length).add_(self._mask)
        found = torch.bmm(torch.softmax(scores, -1), values)
        rows = found.view(heads, self._rows, group, dim).transpose(0, 1).to(out.dtype)
        if self._tokens is None:
            out.copy_(rows)
        else:
            out[self._tokens] = rows


def _padded(columns: Sequence[Tensor], longest: int) -> Tensor:
    """One after the other, [columns * longest]. Padding repeats the row's first page, which is sure to hold finite
    numbers."""
    return torch.cat([part for column in columns for part in (column, column[:1].expand(longest - len(column)))])


class _Chunk:
    """One row of several tokens.

    Args:
        tokens: its place among the step's tokens.
        row: what they see.
        pages: all of them.
        scores: how they are made.
    """

    def __init__(self, tokens: slice, row: _Row, pages: _Pages, scores: _Scores) -> None:
        self._tokens, self._row, self._scores = tokens, row, scores
        self._gather = _Gather.of(row.table, row.begins, pages)
        context, count = row.context, row.count
        self._before = context - count
        block = min(count, max(16, _MASK_NUMBERS // context))
        self._blocks = [(begin, min(begin + block, count)) for begin in range(0, count, block)]
        query, key = torch.arange(context - block, context)[:, None], torch.arange(context)
        unseen = (key > query) | (key <= query - row.window)
        self._mask = torch.zeros(block, context).masked_fill_(unseen, float("-inf"))

    def attend(self, query: Tensor, layer: int, out: Tensor) -> None:
        _, heads, group, dim = query.shape
        keys, values = self._gather(layer)[:, :, None].expand(2, heads, group, -1, dim)
        for begin, end in self._blocks:
            at = slice(self._tokens.start + begin, self._tokens.start + end)
            upto = self._before + end
            seen = slice(max(0, self._before + begin + 1 - self._row.window), upto)
            # The mask of the last block, of which every other block's is a part: what is seen follows from how far a
            # key is from its query.
            moved = self._row.context - upto
            found = self._attended(
                query[at].float().permute(1, 2, 0, 3),
                keys[:, :, seen],
                values[:, :, seen],
                self._mask[begin - end :, moved + seen.start :],
            )
            out[at] = found.permute(2, 0, 1, 3)

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """[kv_heads, group, tokens, dim]"""
        if not self._scores.cap:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self._scores.scale)
        scores = self._scores.capped(query * self._scores.scale @ keys.transpose(-1, -2))
        return torch.softmax(scores.add_(mask), -1) @ values
