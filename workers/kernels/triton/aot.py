"""Kernels compiled ahead of time for a GPU that is not there, and what came out: registers, spills, instructions.

What is compiled is what the wrappers launch, kept by `launch.launches`: the same dtypes, the same numbers fixed, the
same hints of alignment that Triton's launcher takes from arguments. Triton brings the assembler and `cuobjdump`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workers.kernels.triton.launch import Launch

_POINTERS: Final = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
_ALIGNED: Final = 16
_USAGE: Final = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of a launch.

    Attributes:
        registers: of a thread.
        spilled_bytes: of a thread: what did not fit and lies in memory.
        shared_bytes: of a program.
        ptx: the code, as Triton hands it to the assembler.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    ptx: str

    def count(self, instruction: str) -> int:
        """How often the instruction stands in the code: "cp.async.cg", "wgmma.mma_async", "mma.sync", "tcgen05.mma"."""
        return len(re.findall(rf"\b{re.escape(instruction)}\b", self.ptx))


def signature_of(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Types, what is fixed at compilation, and hints, as Triton's launcher finds them from arguments.

    Tensors without memory count as aligned: torch aligns what it allocates.
    """
    types: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    hints: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and special):
            types[name], fixed[name] = "constexpr", value
            continue
        types[name] = _type_of(value)
        if special and not parameter.do_not_specialize_on_alignment and _is_aligned(value):
            hints[(index,)] = [["tt.divisibility", _ALIGNED]]
    return types, fixed, hints


def _is_aligned(value: object) -> bool:
    match value:
        case Tensor():
            return value.is_meta or value.data_ptr() % _ALIGNED == 0
        case int():
            return value % _ALIGNED == 0
    return False


def _type_of(value: object) -> str:
    match value:
        case Tensor():
            return _POINTERS[value.dtype]
        case int():
            return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
        case float():
            return "fp32"
    raise TypeError(f"no kernel takes {type(value).__name__}")


def compile_for(gpu: str, launch: Launch) -> Compiled:
    """Compile a launch for "sm_90" and the like.

    Raises:
        triton.compiler.errors.CompilationError, RuntimeError: it does not compile.
    """
    types, fixed, hints = signature_of(launch)
    source = ASTSource(fn=launch.kernel, signature=types, constexprs=fixed, attrs=hints)
    target = GPUTarget("cuda", int(gpu.removeprefix("sm_")), 32)
    made = triton.compile(source, target=target, options={"num_warps": launch.warps, "num_stages": launch.stages})
    usage = _USAGE.search(_resource_usage(made.asm["cubin"]))
    assert usage is not None, "cuobjdump tells no usage"
    registers, stack, _, local = map(int, usage.groups())
    return Compiled(registers, stack + local, made.metadata.shared, made.asm["ptx"])


def _resource_usage(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
