"""One token per row from its logits: greedy, or by the Gumbel-max trick with counter-based noise.

argmax(logit / temperature + gumbel noise) is a draw from the softmax (Gumbel 1954; Maddison et al. 2014). It needs
no normalisation and no cumulative sum, so rounding in another order does not move a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bus.messages.requests import TokenLogprobs
from workers.sampling.adjust import Adjustment
from workers.sampling.banned import Banned
from workers.sampling.logprobs import token_logprobs
from workers.sampling.philox import noise_everywhere, noise_of
from workers.sampling.truncate import Truncation, candidates

_FEW: Final = 2048  # tokens


class BrokenLogits(ArithmeticError):
    """Rows without a token to draw: not a number, infinite, or every token ruled out.

    Attributes:
        rows: indices of the rows.
    """

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__(f"logits of rows {list(rows)} are not finite")
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Rows:
    """Sampling parameters of the rows of one draw; arrays are [rows].

    Attributes:
        temperature: float32; 0 is greedy.
        top_k: int64, 0 is off. top_p: float64. min_p: float32.
        seeds: int64 (the bits of the unsigned seed).
        positions: int64, index in its sequence of the token to be drawn.
        logprobs: alternatives wanted; -1 for no log probabilities at all.
        adjustments: per row, None where the logits stay as they are.
        banned: by row, what its grammar rules out, never everything.
        forced: by row, the token that comes whatever is drawn; its log probability is the model's.
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float64]
    min_p: npt.NDArray[np.float32]
    seeds: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.int64]
    adjustments: Sequence[Adjustment | None]
    banned: Mapping[int, Banned] = field(default_factory=dict)
    forced: Mapping[int, int] = field(default_factory=dict)


RowLogprobs = tuple[tuple[int, TokenLogprobs], ...]


class Later(NamedTuple):
    """Log probabilities that are on the device.

    Attributes:
        values: int32 [rows, n], of which `read` makes them, once they are on the host.
    """

    values: Tensor
    read: Callable[[npt.NDArray[np.int32]], RowLogprobs]


class Drawn(NamedTuple):
    """What a draw brought.

    Attributes:
        tokens: int64 [rows].
        logprobs: (row, value) for rows that asked, as far as they are on the host.
        later: those that are not.
    """

    tokens: Tensor
    logprobs: RowLogprobs
    later: Later | None = None

    def all_logprobs(self) -> RowLogprobs:
        """Of all rows that asked; waits for the device."""
        return self.logprobs if self.later is None else self.later.read(self.later.values.cpu().numpy())


def draw(logits: Tensor, rows: Rows) -> Drawn:
    """Draw one token per row. The result of a row depends on that row alone.

    Args:
        logits: float32 [rows, vocabulary]; may be overwritten.
        rows: their parameters.

    Raises:
        BrokenLogits: some rows have nothing to draw.
    """
    _require_finite(logits)
    adjusted = [(row, adjustment) for row, adjustment in enumerate(rows.adjustments) if adjustment is not None]
    for row, adjustment in adjusted:
        adjustment.apply(logits[row], rows.banned.get(row))
    for row, banned in rows.banned.items():
        if rows.adjustments[row] is None:
            banned.apply(logits[row])
    if adjusted:
        _require_finite(logits.amax(dim=-1, keepdim=True))
    tokens = _argmax(logits)
    sampled = np.flatnonzero(rows.temperature > 0)
    if len(sampled):
        tokens[torch.from_numpy(sampled).to(logits.device)] = _sample(logits, rows, sampled)
    for row, token in rows.forced.items():
        tokens[row] = token
    return Drawn(tokens, _logprobs(logits, tokens, rows))


def _require_finite(values: Tensor) -> None:
    """Raise for rows that hold a NaN or an infinity: such a value makes the sum one. values: [rows, n]."""
    finite = values.sum(dim=-1).isfinite()
    if not bool(finite.all()):
        raise BrokenLogits(tuple(torch.nonzero(~finite).squeeze(-1).tolist()))


def _argmax(values: Tensor) -> Tensor:
    """The first of the largest, int64 [rows]. On a CPU numpy finds it ten times as fast as torch."""
    if values.device.type != "cpu":
        return values.argmax(dim=-1)
    return torch.from_numpy(values.numpy().argmax(axis=-1))


def _sample(logits: Tensor, rows: Rows, which: npt.NDArray[np.intp]) -> Tensor:
    """Tokens of the rows that are not greedy, int64 [len(which)]."""
    device = logits.device

    def of(values: npt.NDArray[np.generic], index: npt.NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(values[index]).to(device)

    tokens = torch.empty(len(which), dtype=torch.int64, device=device)
    truncated = (rows.top_k[which] > 0) | (rows.top_p[which] < 1) | (rows.min_p[which] > 0)
    few = np.array([_few(rows.banned.get(row)) for row in which.tolist()]) & ~truncated
    for at in np.flatnonzero(few).tolist():
        tokens[at] = _among(logits, rows, int(which[at]))
    for narrow in (False, True):
        chosen = np.flatnonzero((truncated == narrow) & ~few)
        if not len(chosen):
            continue
        index = which[chosen]
        scaled = logits[torch.from_numpy(index).to(device)] / of(rows.temperature, index).unsqueeze(-1)
        seeds, positions = of(rows.seeds, index), of(rows.positions, index)
        if narrow:
            found = candidates(scaled, Truncation(of(rows.top_k, index), of(rows.top_p, index), of(rows.min_p, index)))
            best = (found.logits + noise_of(seeds, positions, found.ids)).argmax(-1, keepdim=True)
            drawn = found.ids.gather(-1, best).squeeze(-1)
        else:
            drawn = _argmax(scaled + noise_everywhere(seeds, positions, scaled.shape[-1]))
        tokens[torch.from_numpy(chosen).to(device)] = drawn
    return tokens


def _few(banned: Banned | None) -> bool:
    """Whether so little is left that noise for all else would be the most of a draw's work."""
    return banned is not None and banned.left and len(banned.ids) <= _FEW


def _among(logits: Tensor, rows: Rows, row: int) -> Tensor:
    """The token of a row of which a grammar has left a few: the same as of all with the rest ruled out."""
    ids = rows.banned[row].ids
    own = (rows.seeds, rows.positions, rows.temperature)
    seed, position, temperature = (torch.from_numpy(values[row : row + 1]).to(ids.device) for values in own)
    return ids[(logits[row, ids] / temperature + noise_of(seed, position, ids.unsqueeze(0)).squeeze(0)).argmax()]


def _logprobs(logits: Tensor, tokens: Tensor, rows: Rows) -> RowLogprobs:
    asked = np.flatnonzero(rows.logprobs >= 0)
    if not len(asked):
        return ()
    index = torch.from_numpy(asked).to(logits.device)
    values = token_logprobs(logits[index], tokens[index], rows.logprobs[asked].tolist())
    return tuple(zip(asked.tolist(), values, strict=True))
