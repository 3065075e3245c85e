"""First steps before the first step: what a process does only once is done before anybody waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.host import Assignment
from workers.models.architecture import kv_shape
from workers.models.interface import SINGLE, Batch
from workers.models.load import build
from workers.pages import new_pages
from workers.weights.prepared import Prepared

# Rows of a decode step, then one of prefill: shapes for which kernels are generated and threads started.
_DECODES = (1, 2, 4, 8)
_PREFILL = 32


def warm_up(weights: Prepared, assignment: Assignment, dtype: torch.dtype) -> None:
    """Run small steps on pages of their own, of `dtype`. The results mean nothing: with more ranks they are partial."""
    torch.set_num_threads(assignment.threads)
    model = build(weights, SINGLE, assignment.device)
    shape = kv_shape(weights.architecture, assignment.page_tokens, dtype)
    cells = max(*_DECODES, -(-_PREFILL // shape.page_tokens))
    pages = new_pages(shape, cells)
    for rows, tokens in [(1, _PREFILL), *((rows, 1) for rows in _DECODES)]:
        ids, batch = step_of(rows, tokens, shape.page_tokens, assignment.device)
        hidden = model.forward(ids, batch, pages)
        model.logits(hidden[:rows])


def step_of(rows: int, tokens: int, page_tokens: int, device: torch.device) -> tuple[Tensor, Batch]:
    """Ids and batch of a step of so many new sequences, each with so many tokens; cells are given out in order."""
    positions = torch.arange(tokens, device=device).repeat(rows)
    own = -(-tokens // page_tokens)
    cells = torch.arange(rows * own, device=device)
    batch = Batch(
        positions=positions,
        page_of=cells[::own].repeat_interleave(tokens) + positions // page_tokens,
        offset_of=positions % page_tokens,
        row_starts=[row * tokens for row in range(rows + 1)],
        row_context=[tokens] * rows,
        block_tables=list(cells.view(rows, own)),
    )
    return torch.zeros(rows * tokens, dtype=torch.int64, device=device), batch
