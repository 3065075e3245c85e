"""From logits to tokens on the device: nothing here waits for the host, or tells it anything.

The same draws as `workers.sampling` makes on a CPU: noise of Philox keyed by (seed, position, token), the same order
of tokens (larger logit, then smaller id), the same candidates of min-p, top-k and top-p. Logits are float32, changed
in place.

| kernel      | programs          | does                                                                        |
|-------------|-------------------|-----------------------------------------------------------------------------|
| `_edit`     | a row each        | adds what few tokens of a row get: bias, and ruling out                     |
| `_scan`     | (row, block) each | penalties; of its block the best token, the best with noise, the sum of exp |
| `_finish`   | a row each        | the token of rows that are greedy or draw from everything; log of the sum   |
| `_truncate` | a row each        | the token of the other rows: thresholds by bisection, no sort               |
| `_best`     | a row each        | the row's best tokens, for log probabilities                                |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.kernels.triton.launch import launch
from workers.kernels.triton.numerics import log1p_minus
from workers.kernels.triton.tuning import Tuning

# Added to a logit, rules its token out; no penalty makes it infinite, which logits of a broken model are.
RULED_OUT: Final = -1e38
_BROKEN = tl.constexpr(-1)
_OUT = tl.constexpr(-1e37)


@dataclass(frozen=True, slots=True)
class Edits:
    """What is added to some logits of each row.

    Attributes:
        ids: int32 [rows, n], each id once in a row; -1 for none.
        values: float32 [rows, n]; RULED_OUT for tokens that must not be drawn.
    """

    ids: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """Penalties of each row.

    Attributes:
        history: int32 [requests, vocabulary]: how often a token is in the output; the sign bit
            is set where it is in the prompt.
        request: int32 [rows], which of them; -1 for rows without penalties.
        repetition, frequency, presence: float32 [rows].
    """

    history: Tensor
    request: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of each row, on the device.

    Attributes:
        temperature: float32 [rows]; 0 is greedy.
        top_k: int32 [rows], 0 is off. top_p: float64 [rows]. min_p: float32 [rows].
        seeds: int64 [rows], the bits of the unsigned seed.
        positions: int32 [rows], index of the token to be drawn.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor


class Sampled(NamedTuple):
    """What was drawn.

    Attributes:
        tokens: int32 [rows]; -1 where a row has nothing to draw: not a number, infinite, or every token ruled out.
        logprobs: float32 [rows], of the drawn tokens.
        best: int32 [rows, n], the row's best tokens, and best_logprobs: float32 [rows, n], theirs.
    """

    tokens: Tensor
    logprobs: Tensor
    best: Tensor
    best_logprobs: Tensor


def sample(
    logits: Tensor,
    parameters: Parameters,
    tuning: Tuning,
    *,
    edits: Edits | None = None,
    penalties: Penalties | None = None,
    truncated: bool = True,
    best: int = 0,
) -> Sampled:
    """Draw one token per row. A row's result depends on that row alone.

    Args:
        logits: float32 [rows, vocabulary], contiguous; changed by edits and penalties.
        parameters: of the rows.
        tuning: of the GPU.
        edits, penalties: None where no row has any.
        truncated: whether any row may have top-k, top-p or min-p.
        best: alternatives with log probabilities, of every row.
    """
    rows, vocabulary = logits.shape
    device, block, warps = logits.device, tuning.sample.block, tuning.sample.warps
    if edits is not None:
        launch(
            _edit,
            (rows,),
            warps=1,
            logits=logits,
            ids=edits.ids,
            values=edits.values,
            vocabulary=vocabulary,
            width=edits.ids.shape[1],
            BLOCK=triton.next_power_of_2(edits.ids.shape[1]),
        )
    blocks = triton.cdiv(vocabulary, block)
    floats = torch.empty(5, rows, blocks, dtype=torch.float32, device=device)
    ids = torch.empty(2, rows, blocks, dtype=torch.int32, device=device)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=device)
    statistics = torch.empty(2, rows, dtype=torch.float32, device=device)
    of_blocks: dict[str, Any] = {"highest": floats[0], "noisiest": floats[1], "totals": floats[2], "broken": floats[3]}
    of_blocks |= {"highest_id": ids[0], "noisiest_id": ids[1]}
    of_rows: dict[str, Any] = {
        "temperature": parameters.temperature,
        "top_k": parameters.top_k,
        "top_p": parameters.top_p,
        "min_p": parameters.min_p,
    }
    keys: dict[str, Any] = {"seeds": parameters.seeds, "positions": parameters.positions}
    launch(
        _scan,
        (rows, blocks),
        warps=warps,
        logits=logits,
        history=None if penalties is None else penalties.history,
        request=None if penalties is None else penalties.request,
        repetition=None if penalties is None else penalties.repetition,
        frequency=None if penalties is None else penalties.frequency,
        presence=None if penalties is None else penalties.presence,
        temperature=parameters.temperature,
        vocabulary=vocabulary,
        BLOCK=block,
        **keys,
        **of_blocks,
    )
    launch(
        _finish,
        (rows,),
        warps=4,
        logits=logits,
        tokens=tokens,
        logprobs=logprobs,
        peaks=statistics[0],
        logs=statistics[1],
        temperature=parameters.temperature,
        vocabulary=vocabulary,
        blocks=blocks,
        BLOCK=triton.next_power_of_2(blocks),
        **of_blocks,
    )
    if truncated:
        launch(
            _truncate,
            (rows,),
            warps=tuning.sample.row_warps,
            stages=1,
            logits=logits,
            tokens=tokens,
            logprobs=logprobs,
            peaks=statistics[0],
            logs=statistics[1],
            vocabulary=vocabulary,
            BLOCK=tuning.sample.row_block,
            **of_rows,
            **keys,
        )
    best_ids = torch.empty(rows, best, dtype=torch.int32, device=device)
    best_logprobs = torch.empty(rows, best, dtype=torch.float32, device=device)
    launch(
        _best,
        (rows,) if best else (0,),
        warps=tuning.sample.row_warps,
        stages=1,
        logits=logits,
        logs=statistics[1],
        best=best_ids,
        best_logprobs=best_logprobs,
        count=best,
        vocabulary=vocabulary,
        BLOCK=tuning.sample.row_block,
    )
    return Sampled(tokens, logprobs, best_ids, best_logprobs)


def remember(history: Tensor, request: Tensor, tokens: Tensor) -> None:
    """Count drawn tokens in `Penalties.history`, in place. request: int32 [rows], -1 for none; tokens: int32 [rows]."""
    launch(
        _remember,
        (len(tokens),),
        warps=1,
        history=history,
        request=request,
        tokens=tokens,
        vocabulary=history.shape[1],
    )


@triton.jit
def _noise(seed, position, token):
    """Gumbel noise of tokens, as `workers.sampling.philox` makes it: a block of four tokens shares a counter."""
    zero = token * 0
    c0, c1, c2, c3 = tl.philox(seed, token >> 2, position + zero, zero, zero)
    word = token & 3
    bits = tl.where(word < 2, tl.where(word == 0, c0, c1), tl.where(word == 2, c2, c3))
    v = tl.minimum((bits.to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1.0 - 1.0 / 16777216.0)
    return -tl.log(log1p_minus(v))


@triton.jit(do_not_specialize=["width"])
def _edit(logits, ids, values, vocabulary, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    token = tl.load(ids + row * width + at, mask=at < width, other=-1)
    value = tl.load(values + row * width + at, mask=at < width, other=0.0)
    named = (token >= 0) & (token < vocabulary)
    there = logits + row * vocabulary + token
    logit = tl.load(there, mask=named, other=0.0)
    tl.store(there, logit + value, mask=named)


@triton.jit
def _scan(
    logits, history, request, repetition, frequency, presence, temperature, seeds, positions,
    highest, highest_id, noisiest, noisiest_id, totals, broken, vocabulary, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    there = logits + row * vocabulary + token
    logit = tl.load(there, mask=inside, other=-1e38)
    finite = (tl.abs(logit) < float("inf")) | ~inside
    out = (logit < _OUT) & finite
    if history is not None:
        which = tl.load(request + row)
        if which >= 0:
            count = tl.load(history + which.to(tl.int64) * vocabulary + token, mask=inside, other=0)
            drawn = (count & 0x7FFFFFFF).to(tl.float32)
            factor = tl.load(repetition + row)
            factor = tl.where(logit > 0, tl.div_rn(1.0, factor), factor)
            logit = tl.where(count != 0, logit * factor, logit)
            logit -= drawn * tl.load(frequency + row)
            logit -= tl.minimum(drawn, 1.0) * tl.load(presence + row)
    logit = tl.where(out, float("-inf"), logit)
    tl.store(there, logit, mask=inside)
    at = row * tl.num_programs(1) + tl.program_id(1)
    peak, peak_at = tl.max(logit, 0, return_indices=True)
    tl.store(highest + at, peak)
    tl.store(highest_id + at, tl.program_id(1) * BLOCK + peak_at)
    tl.store(totals + at, tl.sum(tl.exp(logit - tl.where(peak == float("-inf"), 0.0, peak)), 0))
    tl.store(broken + at, tl.sum(tl.where(finite, 0.0, 1.0), 0))
    heat = tl.load(temperature + row)
    if heat > 0:
        noisy = tl.div_rn(logit, heat) + _noise(tl.load(seeds + row), tl.load(positions + row), token)
        best, best_at = tl.max(noisy, 0, return_indices=True)
        tl.store(noisiest + at, best)
        tl.store(noisiest_id + at, tl.program_id(1) * BLOCK + best_at)


@triton.jit
def _finish(
    logits, tokens, logprobs, peaks, logs, temperature, highest, highest_id, noisiest, noisiest_id, totals, broken,
    vocabulary, blocks, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCK)
    at = row * blocks + block
    inside = block < blocks
    high = tl.load(highest + at, mask=inside, other=float("-inf"))
    peak, best = tl.max(high, 0, return_indices=True)
    token = tl.load(highest_id + row * blocks + best)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.sum(tl.load(totals + at, mask=inside, other=0.0) * tl.exp(high - base), 0)
    log = base + tl.log(total)
    if tl.load(temperature + row) > 0:
        noisy = tl.load(noisiest + at, mask=inside, other=float("-inf"))
        _, noisiest_best = tl.max(noisy, 0, return_indices=True)
        token = tl.load(noisiest_id + row * blocks + noisiest_best)
    wrong = tl.sum(tl.load(broken + at, mask=inside, other=0.0), 0) > 0
    wrong = wrong | ~(tl.abs(peak) < float("inf"))
    token = tl.where(wrong, _BROKEN, token)
    tl.store(tokens + row, token)
    tl.store(peaks + row, peak)
    tl.store(logs + row, log)
    logit = tl.load(logits + row * vocabulary + token, mask=token >= 0, other=float("nan"))
    tl.store(logprobs + row, logit - log)


@triton.jit
def _key(value):
    """Integers in the order of floats: int32, larger for larger. -0.0 and 0.0 are one."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _tally(row, heat, peak, lowest, above, vocabulary, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """Of tokens whose key is more than `above`, among those from `lowest` up: how many, and with MASS their mass."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, vocabulary, BLOCK):
        token = begin + tl.arange(0, BLOCK)
        value = tl.div_rn(tl.load(row + token, mask=token < vocabulary, other=float("-inf")), heat)
        key = _key(value)
        taken = (key > above) & (key >= lowest)
        count += taken.to(tl.int32)
        if MASS:
            mass += tl.where(taken, tl.exp(value - peak), 0.0).to(tl.float64)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _truncate(
    logits, tokens, logprobs, peaks, logs, temperature, top_k, top_p, min_p, seeds, positions,
    vocabulary, BLOCK: tl.constexpr,
):  # fmt: skip
    """Candidates are the keys above a threshold, and of those that equal it the first few ids."""
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    least = tl.load(min_p + row)
    known = tl.load(tokens + row)
    if (heat > 0) & (known >= 0) & ((k > 0) | (p < 1) | (least > 0)):
        mine = logits + row * vocabulary
        peak = tl.div_rn(tl.load(peaks + row), heat)
        top = _key(peak)
        bottom: tl.constexpr = -0x7F800001  # the key of minus infinity is 0x807FFFFF
        lowest = tl.where(least > 0, _key(peak + tl.log(tl.where(least > 0, least, 1.0))), bottom)
        lowest = tl.minimum(lowest, top)  # the best token always stays
        survivors, _mass = _tally(mine, heat, peak, lowest, lowest - 1, vocabulary, False, BLOCK)
        limit = tl.where(k > 0, tl.minimum(survivors, k), survivors)

        # The key of the last that top-k leaves: the least threshold with fewer than `limit` keys above it.
        low, high = lowest, tl.where(k > 0, top, lowest)
        while low < high:
            middle = low + ((high.to(tl.int64) - low.to(tl.int64)) // 2).to(tl.int32)
            count, _mass = _tally(mine, heat, peak, lowest, middle, vocabulary, False, BLOCK)
            enough = count < limit
            high = tl.where(enough, middle, high)
            low = tl.where(enough, low, middle + 1)
        above, mass_above = _tally(mine, heat, peak, lowest, low, vocabulary, True, BLOCK)
        threshold = low
        equals = limit - above
        one = tl.exp(_value(threshold) - peak).to(tl.float64)

        if p < 1:
            wanted = p * (mass_above + equals.to(tl.float64) * one)
            high = top
            while low < high:
                middle = low + ((high.to(tl.int64) - low.to(tl.int64)) // 2).to(tl.int32)
                _count, mass = _tally(mine, heat, peak, lowest, middle, vocabulary, True, BLOCK)
                within = mass < wanted
                high = tl.where(within, middle, high)
                low = tl.where(within, low, middle + 1)
            _count, mass_p = _tally(mine, heat, peak, lowest, low, vocabulary, True, BLOCK)
            one_p = tl.exp(_value(low) - peak).to(tl.float64)
            # Equals stay while the mass before them is less than wanted: the ceiling of the quotient, at least one.
            quotient = (wanted - mass_p) / one_p
            whole = quotient.to(tl.int32)
            room = tl.maximum(whole + (whole.to(tl.float64) < quotient).to(tl.int32), 1)
            equals = tl.where(low == threshold, tl.minimum(equals, room), room)
            threshold = low

        # One more walk, in the order of ids: those above, the first of the equals, and the noise decides.
        best = float("-inf")
        chosen = -1
        met = 0
        for begin in range(0, vocabulary, BLOCK):
            token = begin + tl.arange(0, BLOCK)
            value = tl.div_rn(tl.load(mine + token, mask=token < vocabulary, other=float("-inf")), heat)
            key = _key(value)
            equal = (key == threshold) & (token < vocabulary)
            rank = met + tl.cumsum(equal.to(tl.int32), 0)
            kept = (key > threshold) | (equal & (rank <= equals))
            met += tl.sum(equal.to(tl.int32), 0)
            if tl.max(kept.to(tl.int32), 0) > 0:
                noisy = value + _noise(tl.load(seeds + row), tl.load(positions + row), token)
                noisy = tl.where(kept, noisy, float("-inf"))
                here, here_at = tl.max(noisy, 0, return_indices=True)
                chosen = tl.where(here > best, begin + here_at, chosen)
                best = tl.maximum(best, here)
        tl.store(tokens + row, chosen)
        tl.store(logprobs + row, tl.load(mine + chosen) - tl.load(logs + row))


@triton.jit
def _value(key):
    """The float that a key belongs to."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["count"])
def _best(logits, logs, best, best_logprobs, count, vocabulary, BLOCK: tl.constexpr):
    """Again and again the best of what comes after the last one."""
    row = tl.program_id(0).to(tl.int64)
    mine = logits + row * vocabulary
    log = tl.load(logs + row)
    last = float("inf")
    last_id = -1
    for place in range(count):
        found = float("-inf")
        found_id = vocabulary
        for begin in range(0, vocabulary, BLOCK):
            token = begin + tl.arange(0, BLOCK)
            value = tl.load(mine + token, mask=token < vocabulary, other=float("-inf"))
            after = (value < last) | ((value == last) & (token > last_id))
            after = after & (token < vocabulary)
            here = tl.max(tl.where(after, value, float("-inf")), 0)
            here_id = tl.min(tl.where(after & (value == here), token, vocabulary), 0)
            better = (here > found) | ((found_id == vocabulary) & (here_id < vocabulary))
            found_id = tl.where(better, here_id, found_id)
            found = tl.where(better, here, found)
        tl.store(best + row * count + place, found_id)
        tl.store(best_logprobs + row * count + place, found - log)
        last = found
        last_id = found_id


@triton.jit
def _remember(history, request, tokens, vocabulary):
    """One program per row; a request has one row in a step."""
    row = tl.program_id(0)
    which = tl.load(request + row)
    token = tl.load(tokens + row)
    if (which >= 0) & (token >= 0):
        there = history + which.to(tl.int64) * vocabulary + token
        tl.store(there, tl.load(there) + 1)
