"""The shared-memory arena as a tensor: page bytes are read and written in place, commit words after each step.

No second copy of KV exists, and the mapping outlives kv: only attaching needs it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bus.identity import Identity
from bus.messages.pages import OpenPool, PoolOpened
from bus.messages.steps import KvShape
from kv.client import ArenaMap, attach_blocking, call
from workers.pages import page_tensor
from workers.step.rows import Written


class ArenaPages:
    """The pages of one pool.

    Args:
        arena: the mapping.
        pool: geometry of the pool.
        shape: of a page.
        rank: whose commit words are written.

    Attributes:
        tensor: [cells, layers, 2, kv heads, page tokens, head dim], on the arena's own memory.
        cells: page numbers are below it.
    """

    def __init__(self, arena: ArenaMap, pool: PoolOpened, shape: KvShape, rank: int) -> None:
        self._arena, self._pool, self._rank = arena, pool, rank
        self.cells = pool.cells
        self.tensor: Tensor = page_tensor(torch.from_numpy(arena.page_grid(pool, shape.page_bytes)), shape)

    def launched(self, written: Written) -> None:
        """Nothing to do: they are written in place."""

    def abandon(self) -> None:
        """Nothing to do: nobody reads what was not committed."""

    def commit(self, written: Written) -> None:
        """Say in the pages' headers how many tokens are valid."""
        pages, generations, valid_tokens = (values.astype(np.uint32) for values in written)
        self._arena.commit(self._pool, pages, generations, valid_tokens, self._rank)


def map_pages(life: Identity, owner: str, root: bytes, shape: KvShape, rank: int) -> ArenaPages:
    """Map the arena and find the pool of this model's pages. Waits for kv's answers, a few milliseconds.

    Args:
        life: the worker's process.
        owner: name of the scheduler whose leases it writes.
        root: unsalted root of the model's digest chain.

    Raises:
        OSError: kv is not there.
        kv.client.PagesDenied: it refuses.
    """
    client, arena = attach_blocking(life, "worker", owner)
    try:
        assert arena is not None, "kv gives workers the arena"
        return ArenaPages(arena, call(client, OpenPool(2, root, shape), PoolOpened), shape, rank)
    finally:
        client.close()
