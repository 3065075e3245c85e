"""Counter-based random numbers: Philox4x32-10, and Gumbel noise made of it. Stateless.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), as in Random123. The noise of
a token depends on (seed, position, token id) alone, so a request that is resumed elsewhere, in another batch, or on
another device draws the same token. Written in int64 torch arithmetic on 32-bit words; a GPU kernel that uses the
same counters gets the same words.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_WORD: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10

# Words of so many counters stay in the cache; a whole batch at once takes half as long again on a CPU.
_BLOCKS_AT_ONCE: Final = 1 << 15


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors of 32-bit words that broadcast against each other.
        key: two int64 tensors of 32-bit words that broadcast against the counter.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # Products wrap into the sign bit. Only c0 and c2 are multiplied, so only they must be clean 32-bit words.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) ^ c1 ^ k0) & _WORD
        c2 = ((product0 >> 32) ^ c3 ^ k1) & _WORD
        c1, c3 = product1, product0
        k0 = (k0 + _WEYL[0]) & _WORD
        k1 = (k1 + _WEYL[1]) & _WORD
    return c0, c1 & _WORD, c2, c3 & _WORD


def _words(seeds: Tensor, positions: Tensor, blocks: Tensor) -> tuple[Tensor, ...]:
    """Four words for each block of four tokens. seeds, positions: int64 [rows]; blocks: int64 [n] or [rows, n]."""
    zero = torch.zeros((), dtype=torch.int64, device=seeds.device)
    seeds, positions = seeds.unsqueeze(-1), positions.unsqueeze(-1)
    return philox4x32((blocks, positions, zero, zero), (seeds & _WORD, (seeds >> 32) & _WORD))


def _gumbel(words: Tensor) -> Tensor:
    """float32 Gumbel noise of 32-bit words.

    -log(-log1p(-v)) keeps its resolution where v is small, which is where the noise is large and decides; v never
    becomes 1, where the noise would be minus infinity.
    """
    v = words.to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    return v.neg_().log1p_().neg_().log_().neg_()


def noise_everywhere(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Gumbel noise of every token: float32 [rows, vocabulary]. seeds, positions: int64 [rows]."""
    blocks = torch.arange((vocabulary + 3) // 4, device=seeds.device)
    at_once = max(1, _BLOCKS_AT_ONCE // len(blocks))
    return torch.cat(
        [
            _gumbel(torch.stack(_words(some_seeds, some_positions, blocks), dim=-1).flatten(1)[:, :vocabulary])
            for some_seeds, some_positions in zip(
                torch.split(seeds, at_once), torch.split(positions, at_once), strict=True
            )
        ]
    )


def noise_of(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Gumbel noise of some tokens: float32 [rows, n], equal to `noise_everywhere` there. tokens: int64 [rows, n]."""
    words = torch.stack(_words(seeds, positions, tokens >> 2), dim=-1)
    return _gumbel(words.gather(-1, (tokens & 3).unsqueeze(-1)).squeeze(-1))
