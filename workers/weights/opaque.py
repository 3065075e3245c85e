"""oneDNN's blocked tensors as bytes, and back over memory that is there already.

torch hides the layout of such a tensor, but gives out its description (a oneDNN memory descriptor) and makes a tensor
over given memory from one: that is how its ahead-of-time compiled models carry packed weights. The way back is part of
torch's C interface (`aoti_torch_create_tensor_from_blob_v2`), which is kept stable, and not of its Python one.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


def describe(tensor: Tensor) -> bytes:
    """What `over` must know of the layout."""
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(tensor).tolist())


def content(tensor: Tensor) -> memoryview:
    """The bytes of a blocked tensor; valid while the tensor lives."""
    size, address = torch.ops.mkldnn._nbytes(tensor), torch.ops.mkldnn.data_ptr(tensor)
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def over(memory: Tensor, description: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A blocked tensor whose content is `memory` (uint8, 64-byte aligned), without a copy. It keeps the memory alive.

    Raises:
        RuntimeError: torch does not take the description.
    """
    torch_c = _library()
    handle = ctypes.c_void_p()
    numbers = ctypes.c_int64 * len(shape)
    failed = torch_c.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(memory.data_ptr()),
        ctypes.c_int64(len(shape)),
        numbers(*shape),
        numbers(*torch.empty(shape, device="meta").stride()),
        ctypes.c_int64(0),
        ctypes.c_int32(getattr(torch_c, f"aoti_torch_dtype_{str(dtype).removeprefix('torch.')}")()),
        ctypes.c_int32(torch_c.aoti_torch_device_type_cpu()),
        ctypes.c_int32(0),
        ctypes.byref(handle),
        ctypes.c_int32(torch_c.aoti_torch_layout__mkldnn()),
        description,
        ctypes.c_int64(len(description)),
    )
    if failed:
        raise RuntimeError("torch cannot make a tensor of this description")
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    tensor: Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(capsule(handle, None, None))
    tensor.memory = memory  # type: ignore[attr-defined]  # torch knows an address and no owner
    return tensor


@cache
def supported() -> bool:
    """Whether this torch can do it."""
    try:
        return hasattr(_library(), "aoti_torch_create_tensor_from_blob_v2") and hasattr(
            torch._C._aoti, "alloc_tensor_by_stealing_from_void_ptr"
        )
    except (OSError, AttributeError):
        return False


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
