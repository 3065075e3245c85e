"""The ranks of one tensor-parallel replica: what they compute together, and how they notice that one is missing.

A group lives as short as its shortest-lived rank. Collectives have no way to take a rank out or to resynchronise, so
when a rank dies, falls behind or disagrees about the plan, every other rank leaves (`GroupBroken`, and its process
ends with an error), the supervisor starts all of them again, and they meet in a new group (`rendezvous.py`). Nothing
waits for a dead rank for longer than `timeout_s`; usually the closed connection says it at once.

| group       | tensors of steps                            | `agree`                                           |
|-------------|---------------------------------------------|---------------------------------------------------|
| `GlooGroup` | gloo, in ordinary memory: a call waits      | the same                                          |
| `NcclGroup` | NCCL: a call is launched, also from a graph | gloo beside it: an answer that the host waits for |

A collective on a GPU that waits for a dead rank is a kernel that does not end, and no exception. The others know by
the dead one's pidfd (`process.py`), or, where it lives and hangs, by NCCL's watchdog after `timeout_s`, which ends the
process. Either way the process ends, and the group with it.
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

    def agree(self, epoch: int, step: int, failures: int) -> bool:
        """Whether every rank is about to launch this plan of this scheduler incarnation, with slots as open as mine.

        Args:
            failures: steps that have closed all slots here since they were last in order.

        Returns:
            False where some rank has seen a step fail that others have in flight. Nobody may launch the plan: those
            would wait in its collectives for one that refuses it.

        Raises:
            GroupBroken: ranks are at different plans. A scheduler that died between sending a plan to one rank and to
                the next leaves them so; their collectives would meet, and mix two steps.
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

    def agree(self, epoch: int, step: int, failures: int) -> bool:  # noqa: ARG002
        return True


class _Ranks:
    """Ranks on one host. One group per process.

    Args:
        backend: of torch.distributed.
        store: a file that only this group ever uses; the ranks find each other's ports in it.
        rank, ranks: this process's place, and how many there are.
        timeout_s: longest wait for another rank, here and in every collective.
        device: whose tensors the backend takes; None for ordinary memory.

    Raises:
        GroupBroken: the others did not come in time.
    """

    def __init__(
        self, backend: str, store: Path, rank: int, ranks: int, timeout_s: float, device: torch.device | None
    ) -> None:
        self.rank, self.ranks = rank, ranks
        # Gloo would look up the host's own name, which need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self._timeout = timedelta(seconds=timeout_s)
        self._agreeing: dist.ProcessGroup | None = None  # of `agree`; the group's own if not another
        with _broken_if_it_fails("meeting"):
            dist.init_process_group(
                backend,
                init_method=f"file://{store}",
                rank=rank,
                world_size=ranks,
                timeout=self._timeout,
                device_id=device,
            )

    def close(self) -> None:
        """Leave; the others' next collective fails."""
        dist.destroy_process_group()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with _broken_if_it_fails("all_reduce"):
            dist.all_reduce(tensor)
        return tensor

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        # Equal shapes are gathered: narrower shards are padded and cut again.
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

    def agree(self, epoch: int, step: int, failures: int) -> bool:
        mine = torch.tensor([epoch, step, failures], dtype=torch.int64)
        theirs = [torch.empty_like(mine) for _ in range(self.ranks)]
        with _broken_if_it_fails("agree"):
            dist.all_gather(theirs, mine, group=self._agreeing)
        if any(not torch.equal(mine[:2], other[:2]) for other in theirs):
            at = [other.tolist() for other in theirs]
            raise GroupBroken(f"ranks are at different plans (epoch, step, failures): {at}")
        return all(torch.equal(mine, other) for other in theirs)


class GlooGroup(_Ranks):
    """Over gloo on the loopback interface, in ordinary memory. See `_Ranks`."""

    def __init__(self, store: Path, rank: int, ranks: int, timeout_s: float) -> None:
        super().__init__("gloo", store, rank, ranks, timeout_s, None)


class NcclGroup(_Ranks):
    """Over NCCL, each rank on a GPU of its own. See `_Ranks`.

    Its collectives are launched on the stream that computes, and nobody waits for them, so a CUDA graph may have them.
    For that the communicator has to be there before anything is recorded: it is made here, with `device_id`, and not by
    the first collective. Every rank records the same graphs, since what a graph has bound of the others' memory is
    theirs at that time too (`graphs`).

    Args:
        device: this rank's.
        backend: another one stands in for NCCL where there is no GPU, in tests.
    """

    def __init__(
        self, store: Path, rank: int, ranks: int, timeout_s: float, device: torch.device, backend: str = "nccl"
    ) -> None:
        # A hung collective ends the process (3: without a wait for what hangs). Said, since the group relies on it.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
        super().__init__(backend, store, rank, ranks, timeout_s, device if device.type == "cuda" else None)
        with _broken_if_it_fails("meeting"):
            self._agreeing = dist.new_group(backend="gloo", timeout=self._timeout)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Group`. In the order of ranks: NCCL's own order is another one at each place of what is summed, so that
        from three ranks on a row's bits would depend on how many rows there are."""
        if self.ranks == 2:
            return super().all_reduce(tensor)
        gathered = tensor.new_empty((self.ranks * len(tensor), *tensor.shape[1:]))
        with _broken_if_it_fails("all_reduce"):
            dist.all_gather_into_tensor(gathered, tensor.contiguous())
        first, *others = gathered.chunk(self.ranks)
        total = first.float()
        for other in others:
            total += other
        return total.to(tensor.dtype)


@contextmanager
def _broken_if_it_fails(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise GroupBroken(f"{what} with the other ranks failed: {error}") from error
