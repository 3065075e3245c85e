"""Which part of a model each tensor-parallel rank holds. Pure.

Heads are cut between groups of query heads that share a KV head, so a rank's attention needs nobody else's K and V.
No number has to divide by the ranks: SmolLM2 has three KV heads, and two ranks hold two of them and one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workers.models.architecture import Architecture


GROUP: Final = 32  # inputs that share a scale in quantised weights


def split(total: int, ranks: int) -> tuple[range, ...]:
    """`total` things over `ranks`, in order, sizes differing by at most one, the larger first."""
    size, larger = divmod(total, ranks)
    ends = [size * rank + min(rank, larger) for rank in range(ranks + 1)]
    return tuple(range(begin, end) for begin, end in itertools.pairwise(ends))


def split_groups(total: int, ranks: int) -> tuple[range, ...]:
    """Like `split`, cut between groups of 32 where `total` is made of them: quantised weights share a scale in each."""
    unit = GROUP if total % GROUP == 0 and total // GROUP >= ranks else 1
    return tuple(range(part.start * unit, part.stop * unit) for part in split(total // unit, ranks))


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part.

    Attributes:
        heads, kv_heads: query and KV heads.
        intermediate: columns of the MLP.
        experts: of every layer that has some; whole ones, so a token's experts are computed where they are.
        vocabulary: token ids whose embedding and logits it holds.
        vocabulary_sizes: of all ranks, in order.
    """

    rank: int
    ranks: int
    heads: range
    kv_heads: range
    intermediate: range
    vocabulary: range
    vocabulary_sizes: tuple[int, ...]
    experts: range


class TooManyRanks(ValueError):
    """A rank would hold no KV head."""


def shard_of(architecture: Architecture, rank: int, ranks: int) -> Shard:
    """The part of rank `rank` of `ranks`.

    Raises:
        TooManyRanks: more ranks than KV heads.
    """
    if ranks > architecture.kv_heads:
        raise TooManyRanks(f"{architecture.kv_heads} KV heads cannot be shared by {ranks} ranks")
    kv_heads = split(architecture.kv_heads, ranks)[rank]
    group = architecture.heads // architecture.kv_heads
    vocabulary = split(architecture.vocabulary, ranks)
    return Shard(
        rank=rank,
        ranks=ranks,
        heads=range(kv_heads.start * group, kv_heads.stop * group),
        kv_heads=kv_heads,
        intermediate=split_groups(architecture.intermediate, ranks)[rank],
        vocabulary=vocabulary[rank],
        vocabulary_sizes=tuple(map(len, vocabulary)),
        experts=split(architecture.experts.count if architecture.experts else 0, ranks)[rank],
    )
