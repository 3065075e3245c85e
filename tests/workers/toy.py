"""A model that can be checked by hand: its logits are a function of every token before, read back through the pages.

A token's hidden state is a hash of its sequence up to itself, so a wrong page, offset, position or block table gives
other tokens. `expected` is the same without pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from workers.models.interface import Batch

VOCABULARY = 97
PAGE_TOKENS = 4


def _hash(tokens: Sequence[int]) -> int:
    value = 17
    for token in tokens:
        value = (value * 31 + int(token) + 1) % 1_000_003
    return value


def _logits(hashes: Tensor) -> Tensor:
    return torch.sin(hashes.to(torch.float32).unsqueeze(-1) * torch.arange(1, VOCABULARY + 1)) * 4


def expected_logits(tokens: Sequence[int]) -> Tensor:
    """float32 [vocabulary] after these tokens."""
    return _logits(torch.tensor([_hash(tokens)]))[0]


def expected_greedy(tokens: Sequence[int], count: int) -> list[int]:
    """What greedy decoding draws after these tokens."""
    sequence = list(tokens)
    for _ in range(count):
        sequence.append(int(expected_logits(sequence).argmax()))
    return sequence[len(tokens) :]


class Toy:
    """Implements `workers.models.interface.Model`. `poison` makes the logits after that token not finite."""

    def __init__(self, poison: int = -1) -> None:
        self.architecture: Any = SimpleNamespace(vocabulary=VOCABULARY, windows=())
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.poison = poison
        self.batches: list[Batch] = []

    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        self.batches.append(batch)
        pages[batch.page_of, 0, 0, 0, batch.offset_of, 0] = ids.to(pages.dtype)
        hidden = torch.zeros(len(ids), 2)
        for row, table in enumerate(batch.block_tables):
            context = batch.row_context[row]
            assert len(table) == -(-context // PAGE_TOKENS)
            tokens = pages[table, 0, 0, 0, :, 0].flatten()[:context].tolist()
            for index in range(batch.row_starts[row], batch.row_starts[row + 1]):
                upto = tokens[: int(batch.positions[index]) + 1]
                hidden[index] = torch.tensor([_hash([int(token) for token in upto]), upto[-1]])
        return hidden

    def logits(self, hidden: Tensor, adapters: object = ()) -> Tensor:  # noqa: ARG002
        logits = _logits(hidden[:, 0])
        logits[hidden[:, 1] == self.poison, 3] = torch.nan
        return logits

    def spent_ns(self) -> dict[str, int]:
        return {"forward": 1000 * len(self.batches)}


def toy_pages(cells: int) -> Tensor:
    """Memory for the toy's pages, full of rubbish."""
    return torch.full((cells, 1, 2, 1, PAGE_TOKENS, 1), -7.0)
