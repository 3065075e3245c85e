"""The ranks of one tensor-parallel replica: what they compute together, and how they notice that one is missing.

A group lives as short as its shortest-lived rank. Collectives have no way to take a rank out or to resynchronise, so
when a rank dies, falls behind or disagrees about the plan, every other rank leaves (`GroupBroken`, and its process
ends with an error), the supervisor starts all of them again, and they meet in a new group (`rendezvous.py`). Nothing
waits for a dead rank for longer than `timeout_s`; usually the closed connection says it at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


class GroupBroken(RuntimeError):
    """A rank is gone or out of step. The group cannot be used again; the process should end."""


class Group(Protocol):
    """What the ranks do together; every rank calls the same in the same order. Extends the model's `Collectives`."""

    @property
    def rank(self) -> int:
        """This process's place."""
        ...

    @property
    def ranks(self) -> int:
        """How many there are."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        ...

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        """`tensor` of all ranks in rank order along the last dimension; rank r brings `sizes[r]` columns."""
        ...

    def share(self, tensor: Tensor) -> Tensor:
        """Rank 0's `tensor`, on every rank; the others bring one of the same shape and dtype."""
        ...

    def agree(self, epoch: int, step: int) -> None:
        """Whether every rank is about to run this plan of this scheduler incarnation.

        Raises:
            GroupBroken: not so. A scheduler that died between sending a plan to one rank and to the next leaves its
                ranks at different plans; their collectives would meet, and mix two steps.
        """
        ...


class Alone:
    """A group of one."""

    rank = 0
    ranks = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:  # noqa: ARG002
        return tensor

    def share(self, tensor: Tensor) -> Tensor:
        return tensor

    def agree(self, epoch: int, step: int) -> None:
        """Always."""


class GlooGroup:
    """Ranks on one host, over gloo on the loopback interface. One per process.

    Args:
        store: a file that only this group ever uses; the ranks find each other's ports in it.
        rank, ranks: this process's place, and how many there are.
        timeout_s: longest wait for another rank, here and in every collective.

    Raises:
        GroupBroken: the others did not come in time.
    """

    def __init__(self, store: Path, rank: int, ranks: int, timeout_s: float) -> None:
        self.rank, self.ranks = rank, ranks
        # Gloo would look up the host's own name, which need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with _broken_if_it_fails("meeting"):
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=ranks,
                timeout=timedelta(seconds=timeout_s),
            )

    def close(self) -> None:
        """Leave; the others' next collective fails."""
        dist.destroy_process_group()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with _broken_if_it_fails("all_reduce"):
            dist.all_reduce(tensor)
        return tensor

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        # Gloo gathers equal shapes: narrower shards are padded and cut again.
        width = max(sizes)
        padded = tensor.new_zeros((*tensor.shape[:-1], width))
        padded[..., : tensor.shape[-1]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.ranks)]
        with _broken_if_it_fails("all_gather"):
            dist.all_gather(parts, padded)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    def share(self, tensor: Tensor) -> Tensor:
        with _broken_if_it_fails("broadcast"):
            dist.broadcast(tensor, src=0)
        return tensor

    def agree(self, epoch: int, step: int) -> None:
        mine = torch.tensor([epoch, step], dtype=torch.int64)
        theirs = [torch.empty_like(mine) for _ in range(self.ranks)]
        with _broken_if_it_fails("agree"):
            dist.all_gather(theirs, mine)
        if any(not torch.equal(mine, other) for other in theirs):
            raise GroupBroken(f"ranks are at different plans (epoch, step): {[other.tolist() for other in theirs]}")


@contextmanager
def _broken_if_it_fails(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise GroupBroken(f"{what} with the other ranks failed: {error}") from error
