"""A quantised matrix as a GPU's kernels multiply with it, and how it is made of a format's or of floats. Pure.

| numbers                       | scales for                          | of                                          |
|-------------------------------|-------------------------------------|---------------------------------------------|
| FP8 (e4m3)                    | rows; blocks of inputs              | FP8 checkpoints; `quantize = "fp8"`         |
| int8                          | rows; groups of inputs              | INT8 checkpoints, Q8_0; `quantize = "int8"` |
| two codes of 4 bits in a byte | groups of inputs, perhaps with mins | AWQ, GPTQ, Q4; `quantize = "int4"`          |

Matrices of one input (q, k and v; gate and up) are joined by their rows, so a scale for a tensor is one for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.weights.codes import Codes
    from workers.weights.quantised.matrix import Matrix

Online = Literal["fp8", "int8", "int4"]
FP8: Final = torch.float8_e4m3fn
LAYOUT: Final = 1  # of what is here; another one is another file in the store
_FP8_MAX: Final = 448.0
_INT8_MAX: Final = 127.0
LEAST_SPAN: Final = 32  # inputs whose codes lie together: half of them are the least that tensor cores take
_MOST_SPAN: Final = 128
_MIDDLE: Final = {4: 8, 8: 128}  # of codes that are symmetric


class Unfit(ValueError):
    """No kernel multiplies with such a matrix: it is served as floats. The message says what it has."""


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """`numbers * scales + mins`.

    Attributes:
        numbers: [rows, inputs] float8_e4m3fn or int8; of 4 bits [rows, inputs / 2] uint8, see `packed`: -8 to 7, or
            with mins 0 to 15.
        scales: [rows / n, groups], float16 or float32. n is 1, or the rows of a block.
        group: inputs that share a scale; the last group may be shorter where numbers are FP8.
        mins: [rows, groups], float16 or float32, or None.
        input_scale: how inputs are rounded to the dtype of numbers: float32 [1], for all of them; [0], by what they
            are, for each row and, where there are groups, group; None, they stay floats.
    """

    numbers: Tensor
    scales: Tensor
    group: int
    mins: Tensor | None = None
    input_scale: Tensor | None = None

    @property
    def rows(self) -> int:
        """Outputs."""
        return len(self.numbers)

    @property
    def inputs(self) -> int:
        """Of a row."""
        return self.numbers.shape[1] * (2 if self.four_bits else 1)

    @property
    def four_bits(self) -> bool:
        """Whether two codes are in a byte."""
        return self.numbers.dtype == torch.uint8

    @property
    def name(self) -> str:
        """For people: of the numbers, and of the inputs where they are rounded too."""
        kind = {FP8: "FP8", torch.int8: "INT8", torch.uint8: "INT4"}[self.numbers.dtype]
        return kind if self.input_scale is None else f"{kind} with inputs rounded"

    def weight_only(self) -> QuantisedWeight:
        """The same with inputs that stay floats."""
        return replace(self, input_scale=None)

    def weights(self) -> Tensor:
        """[rows, inputs] float32: the reference."""
        codes = unpacked(self.numbers, self.group, signed=self.mins is None) if self.four_bits else self.numbers
        numbers = codes.float()
        spread = -(-self.rows // len(self.scales))
        scales = self.scales.float().repeat_interleave(spread, 0)[: self.rows]
        found = numbers * _per_input(scales, self.group, self.inputs)
        return found if self.mins is None else found + _per_input(self.mins.float(), self.group, self.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file. `of_tensors` is the way back."""
        group = torch.tensor([self.group], dtype=torch.int32)
        found = dict(zip(PARTS, (self.numbers, self.scales, group, self.mins, self.input_scale), strict=True))
        return {name: tensor for name, tensor in found.items() if tensor is not None}


PARTS: Final = ("numbers", "scales", "group", "mins", "input_scale")


def of_tensors(tensors: Mapping[str, Tensor]) -> QuantisedWeight:
    """Of what `QuantisedWeight.tensors` gave. The group is read, so it should lie on the host."""
    return QuantisedWeight(
        tensors["numbers"], tensors["scales"], int(tensors["group"][0]), tensors.get("mins"), tensors.get("input_scale")
    )


def joined(weights: Sequence[QuantisedWeight]) -> QuantisedWeight:
    """One below the other.

    Raises:
        Unfit: they are of different kinds.
    """
    if len(weights) == 1:
        return weights[0]
    first = weights[0]
    kinds = {(each.numbers.dtype, each.group, each.mins is None, each.input_scale is None) for each in weights}
    if len(kinds) > 1 or len({each.inputs for each in weights}) > 1:
        raise Unfit("parts of one product that are quantised in different ways")
    if len({-(-each.rows // len(each.scales)) for each in weights}) > 1:
        weights = [_scale_per_row(each) for each in weights]
    input_scale = first.input_scale
    if input_scale is not None and len(input_scale):
        # All parts read the same inputs; the widest range loses none.
        input_scale = torch.stack([each.input_scale for each in weights if each.input_scale is not None]).amax(0)
    mins = [each.mins for each in weights if each.mins is not None]
    return QuantisedWeight(
        torch.cat([each.numbers.view(torch.uint8) for each in weights]).view(first.numbers.dtype),
        _alike([each.scales for each in weights]),
        first.group,
        _alike(mins) if mins else None,
        input_scale,
    )


def _alike(parts: Sequence[Tensor]) -> Tensor:
    dtype = torch.float16 if all(part.dtype == torch.float16 for part in parts) else torch.float32
    return torch.cat([part.to(dtype) for part in parts])


def of_matrix(matrix: Matrix, input_scale: Tensor | None) -> QuantisedWeight:
    """Of a format's.

    Args:
        input_scale: see `QuantisedWeight`.

    Raises:
        Unfit: it has what the kernels do not take.
    """
    if matrix.bits == 0:
        return _of_fp8(matrix, input_scale)
    if matrix.group_of is not None:
        raise Unfit("groups in an order of their own (desc_act)")
    group = matrix.numbers.shape[1] // matrix.scales.shape[1]
    zeros, middle = matrix.zeros, _MIDDLE[matrix.bits]
    if isinstance(zeros, Tensor) and bool((zeros == middle).all()):
        zeros = middle
    mins: Tensor | None = None
    if not isinstance(zeros, int) or zeros != middle:
        middle = middle if matrix.bits == 8 else 0
        mins = (middle - zeros) * matrix.scales
    signed = (matrix.numbers.to(torch.int16) - middle).to(torch.int8)
    rounds = input_scale is not None and matrix.bits == 8 and matrix.scales.shape[1] == 1 and mins is None
    return _of_signed(signed, matrix.scales, mins, group, matrix.bits, input_scale if rounds else None)


def of_codes(codes: Codes) -> QuantisedWeight:
    """Of a GGUF file's, whose 5 and 6 bits become 8.

    Raises:
        Unfit: its groups are too small.
    """
    signed = torch.from_numpy(codes.codes).to(torch.int16).sub(codes.offset).to(torch.int8)
    mins = None if codes.mins is None else torch.from_numpy(codes.mins).float()
    scales = torch.from_numpy(codes.scales).float()
    return _of_signed(signed, scales, mins, codes.group, codes.bits, None)


def of_floats(weight: Tensor, kind: Online) -> QuantisedWeight:
    """Rounded at load: FP8 and INT8 with a scale for each row, 4 bits with a scale and a min for each 32 inputs.

    Raises:
        Unfit: its inputs are no groups of 32.
    """
    weight = weight.float()
    if kind == "int4":
        if weight.shape[1] % LEAST_SPAN:
            raise Unfit(f"{weight.shape[1]} inputs, which are no groups of {LEAST_SPAN}")
        from workers.weights.codes import from_floats  # slow to import, and not needed where weights are mapped

        return of_codes(from_floats(weight.numpy(), 4))
    most = _FP8_MAX if kind == "fp8" else _INT8_MAX
    peaks = weight.abs().amax(1, keepdim=True)
    scales = torch.where(peaks > 0, peaks / most, 1.0)
    scaled = weight / scales
    numbers = scaled.clamp(-most, most).to(FP8) if kind == "fp8" else scaled.round().to(torch.int8)
    return QuantisedWeight(numbers, scales, weight.shape[1], None, torch.empty(0))


def span_of(group: int) -> int:
    """Inputs whose codes of 4 bits lie together, of a group: a power of two from 32 to 128 that divides it.

    Raises:
        Unfit: there is none.
    """
    span = _MOST_SPAN
    while group % span:
        span //= 2
    if span < LEAST_SPAN:
        raise Unfit(f"groups of {group} inputs (multiples of {LEAST_SPAN} fit)")
    return span


def packed(codes: Tensor, group: int) -> Tensor:
    """[rows, inputs] of -8 to 7, or 0 to 15, to [rows, inputs / 2] uint8.

    Of each span of inputs the first half is in the low nibbles and the second in the high ones, so what one shift gives
    multiplies inputs that lie together too.
    """
    span = span_of(group)
    halves = (codes & 15).to(torch.uint8).view(len(codes), -1, 2, span // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(len(codes), -1)


def unpacked(numbers: Tensor, group: int, *, signed: bool) -> Tensor:
    """The way back, int8."""
    span = span_of(group)
    halves = numbers.view(len(numbers), -1, span // 2)
    both = torch.stack((halves & 15, halves >> 4), 2).to(torch.int8).reshape(len(numbers), -1)
    return torch.where(both > 7, both - 16, both) if signed else both


def _of_fp8(matrix: Matrix, input_scale: Tensor | None) -> QuantisedWeight:
    scales, inputs = matrix.scales, matrix.numbers.shape[1]
    if bool(((matrix.numbers.view(torch.uint8) & 0x7F) == 0x7F).any()):
        raise Unfit("FP8 numbers that are not numbers")
    group = inputs
    if scales.shape[1] > 1:
        group = int((matrix.group_of == 0).sum()) if matrix.group_of is not None else inputs // scales.shape[1]
        if group % LEAST_SPAN:
            raise Unfit(f"blocks of {group} inputs (multiples of {LEAST_SPAN} fit)")
        if input_scale is not None and len(input_scale):
            raise Unfit("scales for blocks, and one for all inputs")
        scales = _by_blocks(scales)
    return QuantisedWeight(matrix.numbers, scales.contiguous(), group, None, input_scale)


def _by_blocks(scales: Tensor) -> Tensor:
    """Without what is there many times over: rows of a block have one scale."""
    rows = len(scales)
    if rows % _MOST_SPAN == 0:
        blocks = scales.view(rows // _MOST_SPAN, _MOST_SPAN, -1)
        if bool((blocks == blocks[:, :1]).all()):
            return blocks[:, 0]
    return scales


def _of_signed(
    signed: Tensor, scales: Tensor, mins: Tensor | None, group: int, bits: int, input_scale: Tensor | None
) -> QuantisedWeight:
    if bits == 4 or group % LEAST_SPAN:
        span_of(group)  # refuses
    numbers = packed(signed, group) if bits == 4 else signed
    return QuantisedWeight(numbers, _narrowed(scales), group, None if mins is None else _narrowed(mins), input_scale)


def _narrowed(values: Tensor) -> Tensor:
    """As float16 where that loses nothing: formats have it so, and it is half of the bytes."""
    half = values.half()
    return half.contiguous() if torch.equal(half.float(), values) else values.float().contiguous()


def _scale_per_row(weight: QuantisedWeight) -> QuantisedWeight:
    spread = -(-weight.rows // len(weight.scales))
    return replace(weight, scales=weight.scales.repeat_interleave(spread, 0)[: weight.rows])


def _per_input(values: Tensor, group: int, inputs: int) -> Tensor:
    return values.repeat_interleave(group, 1)[:, :inputs]
