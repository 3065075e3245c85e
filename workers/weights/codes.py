"""Quantised weights as codes: small integers with a scale for each row and group of inputs.

Here only: reading the block formats of GGUF as codes, and rounding floats to them. How codes are packed for kernels is
`workers.kernels.pack`.

Every format of ggml's is `scale * (code - offset)` or `scale * code + min`; nothing of a file's information is lost but
the rounding of products of two scales to float16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType as Kind

from workers.weights.sharding import GROUP

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix of codes.

    Attributes:
        bits: of a code: 4, 5, 6 or 8.
        group: inputs that share a scale: 32, or 16 for 6 bits.
        offset: subtracted from each code; 0 where there are mins.
        codes: [rows, inputs].
        scales: [rows, inputs / group].
        mins: the same, or None.
    """

    bits: int
    group: int
    offset: int
    codes: Bytes
    scales: Floats
    mins: Floats | None

    def take(self, rows: slice | npt.NDArray[np.intp] | None = None, columns: slice | None = None) -> Codes:
        """Some rows, or some columns, whose ends are multiples of the group."""
        rows = slice(None) if rows is None else rows
        begin, end, _ = (columns or slice(None)).indices(self.codes.shape[1])
        groups = slice(begin // self.group, end // self.group)
        return Codes(
            self.bits, self.group, self.offset, self.codes[rows, begin:end], self.scales[rows, groups],
            None if self.mins is None else self.mins[rows, groups],
        )  # fmt: skip

    def weights(self) -> Floats:
        """[rows, inputs]: what the codes stand for."""
        scales = self.scales.repeat(self.group, 1)
        if self.mins is not None:
            return scales * self.codes + self.mins.repeat(self.group, 1)
        return scales * (self.codes.astype(np.float32) - self.offset)


def divisible(columns: slice | None, inputs: int) -> bool:
    """Whether a matrix of so many inputs can be cut there without cutting a group."""
    begin, end, _ = (columns or slice(None)).indices(inputs)
    return begin % GROUP == 0 and end % GROUP == 0


def from_floats(weights: Floats, bits: int) -> Codes:
    """Round [rows, inputs] to 8 bits (symmetric) or 4 (with a min), per row and 32 inputs, to the nearest."""
    grouped = weights.reshape(len(weights), -1, GROUP)
    if bits == 8:
        scales = _half(np.abs(grouped).max(-1) / 127)
        codes = np.rint(grouped * _inverse(scales)[..., None]).clip(-127, 127) + 128
        return Codes(8, GROUP, 128, codes.astype(np.uint8).reshape(weights.shape), scales, None)
    least = grouped.min(-1)
    scales, mins = _half((grouped.max(-1) - least) / 15), _half(least)
    codes = np.rint((grouped - mins[..., None]) * _inverse(scales)[..., None]).clip(0, 15)
    return Codes(4, GROUP, 0, codes.astype(np.uint8).reshape(weights.shape), scales, mins)


def from_gguf(kind: Kind, raw: Bytes) -> Codes:
    """Rows of a GGUF tensor, [rows, bytes of a row], of a kind in `READABLE`."""
    block = _BLOCK_BYTES[kind]
    bits, group, offset, read = _READERS[kind]
    codes, scales, mins = read(raw.reshape(len(raw), -1, block))
    rows = len(raw)
    return Codes(
        bits, group, offset, codes.reshape(rows, -1), scales.reshape(rows, -1),
        None if mins is None else mins.reshape(rows, -1),
    )  # fmt: skip


Read = tuple[Bytes, Floats, Floats | None]

_BLOCK_BYTES: Final = {
    Kind.Q4_0: 18, Kind.Q4_1: 20, Kind.Q5_0: 22, Kind.Q5_1: 24, Kind.Q8_0: 34, Kind.Q4_K: 144, Kind.Q5_K: 176,
    Kind.Q6_K: 210,
}  # fmt: skip


def _half(values: npt.NDArray[np.floating]) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def _inverse(scales: Floats) -> Floats:
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)


def _f16(part: Bytes) -> Floats:
    """[..., 2 n] bytes to [..., n]."""
    return np.ascontiguousarray(part).view(np.float16).astype(np.float32)


def _nibbles(part: Bytes) -> Bytes:
    """[..., n] bytes to [..., 2 n]: all low nibbles, then all high ones."""
    return np.concatenate((part & 15, part >> 4), -1)


def _bits(part: Bytes) -> Bytes:
    """[..., n] bytes to [..., 8 n] bits, lowest first."""
    return np.unpackbits(part, axis=-1, bitorder="little")


def _join(low: Bytes, high: Bytes) -> Bytes:
    """Codes of their low four bits and the rest."""
    return low | high << np.uint8(4)


def _q4_0(b: Bytes) -> Read:
    return _nibbles(b[..., 2:]), _f16(b[..., :2]), None


def _q4_1(b: Bytes) -> Read:
    return _nibbles(b[..., 4:]), _f16(b[..., :2]), _f16(b[..., 2:4])


def _q5_0(b: Bytes) -> Read:
    return _join(_nibbles(b[..., 6:]), _bits(b[..., 2:6])), _f16(b[..., :2]), None


def _q5_1(b: Bytes) -> Read:
    return _join(_nibbles(b[..., 8:]), _bits(b[..., 4:8])), _f16(b[..., :2]), _f16(b[..., 2:4])


def _q8_0(b: Bytes) -> Read:
    return b[..., 2:] ^ np.uint8(0x80), _f16(b[..., :2]), None  # two's complement plus 128


def _k_scales(b: Bytes) -> tuple[Floats, Floats]:
    """Scales and mins of the eight groups of a Q4_K or Q5_K block, [..., 8] each."""
    packed = b[..., 4:16]
    low, high, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate((low & 63, (rest & 15) | (low >> 6) << 4), -1)
    mins = np.concatenate((high & 63, (rest >> 4) | (high >> 6) << 4), -1)
    return _half(_f16(b[..., :2]) * scales), _half(-_f16(b[..., 2:4]) * mins)


def _k_nibbles(part: Bytes) -> Bytes:
    """[..., 128] bytes to [..., 256] codes: 32 bytes hold two groups of 32."""
    pairs = part.reshape(*part.shape[:-1], 4, 1, 32)
    return np.concatenate((pairs & 15, pairs >> 4), -2).reshape(*part.shape[:-1], 256)


def _q4_k(b: Bytes) -> Read:
    return (_k_nibbles(b[..., 16:]), *_k_scales(b))


def _q5_k(b: Bytes) -> Read:
    high = b[..., 16:48, None] >> np.arange(8, dtype=np.uint8) & np.uint8(1)  # bit g of byte i is of group g, input i
    high = np.moveaxis(high, -1, -2).reshape(*b.shape[:-1], 256)
    return (_join(_k_nibbles(b[..., 48:]), high), *_k_scales(b))


def _q6_k(b: Bytes) -> Read:
    low = b[..., :128].reshape(*b.shape[:-1], 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), -2).reshape(*b.shape[:-1], 2, 4, 32)
    high = b[..., 128:192].reshape(*b.shape[:-1], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    scales = np.ascontiguousarray(b[..., 192:208]).view(np.int8).astype(np.float32)
    return _join(low, high).reshape(*b.shape[:-1], 256), _half(scales * _f16(b[..., 208:210])), None


# kind: bits, group, offset, how to read its blocks
_READERS: Final[dict[Kind, tuple[int, int, int, Callable[[Bytes], Read]]]] = {
    Kind.Q4_0: (4, 32, 8, _q4_0),
    Kind.Q4_1: (4, 32, 0, _q4_1),
    Kind.Q5_0: (5, 32, 16, _q5_0),
    Kind.Q5_1: (5, 32, 0, _q5_1),
    Kind.Q8_0: (8, 32, 128, _q8_0),
    Kind.Q4_K: (4, 32, 0, _q4_k),
    Kind.Q5_K: (5, 32, 0, _q5_k),
    Kind.Q6_K: (6, 16, 32, _q6_k),
}
READABLE: Final = frozenset(_READERS)
