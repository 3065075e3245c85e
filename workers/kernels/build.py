"""The kernels as a shared library for this machine's processor: found ready, or compiled once and kept.

    python -m workers.kernels.build         # compile now, so that the first start need not
    python -m workers.kernels.build DIR     # for every processor, into a package

The library's name is a digest of sources and flags, so whatever changes makes a new one, and any number of processes
may build it at once. It is looked for beside this file (where packaging puts it), then in the state directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bus.names import state_directory

log = logging.getLogger(__name__)

NATIVE: Final = Path(__file__).parent / "native"
READY: Final = Path(__file__).parent / "lib"
_COMMON: Final = (
    "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread",
    "-Wno-psabi",
)  # fmt: skip
_AVX512: Final = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "fma", "f16c"})
_AVX512_FLAGS: Final = ("-march=x86-64-v4", "-mavx512vnni")
# By what the processor must have, best first. Without any of these, torch's own operators are faster.
_VARIANTS: Final[tuple[tuple[frozenset[str], tuple[str, ...]], ...]] = (
    (
        _AVX512 | {"amx_tile", "amx_int8", "amx_bf16", "avx512_bf16"},
        (*_AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    ),
    # sse4a is AMD's: Intel's vdpbf16ps takes twice as long as the fused multiply-adds that it stands for.
    (_AVX512 | {"avx512_bf16", "sse4a"}, (*_AVX512_FLAGS, "-mavx512bf16")),
    (_AVX512, _AVX512_FLAGS),
    (frozenset({"avx2", "fma", "f16c", "bmi2"}), ("-march=x86-64-v3",)),
)


class NoKernels(RuntimeError):
    """The kernels cannot be had on this machine. The message says why and what to do."""


def flags_for(processor: frozenset[str]) -> tuple[str, ...]:
    """Compiler flags for a processor with these features, by the kernel's names.

    Raises:
        NoKernels: it has too few.
    """
    for needed, flags in _VARIANTS:
        if needed <= processor:
            return flags
    raise NoKernels(f"the CPU kernels need x86-64 with AVX2, FMA and F16C; this is {platform.machine()} without them")


def library(processor: frozenset[str]) -> Path:
    """The shared library, compiled if need be: some ten seconds, once.

    Raises:
        NoKernels: the processor is too old, or there is no compiler, or it fails.
    """
    flags = flags_for(processor)
    name = f"headrace-{_digest(flags)}.so"
    kept = state_directory() / "kernels"
    for place in (READY / name, kept / name):
        if place.is_file():
            return place
    return _compile(_compiler(), flags, kept / name)


def for_packaging(place: Path) -> list[Path]:
    """The libraries for all processors, in a directory that a package will have as `lib/`.

    Raises:
        NoKernels: they cannot be compiled.
    """
    compiler = _compiler()
    wanted = [(place / f"headrace-{_digest(flags)}.so", flags) for _, flags in _VARIANTS]
    return [path if path.is_file() else _compile(compiler, flags, path) for path, flags in wanted]


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoKernels("there is no C++ compiler for the CPU kernels (apt install g++); torch's operators are used")
    return compiler


def _compile(compiler: str, flags: tuple[str, ...], to: Path) -> Path:
    log.info("compiling the CPU kernels, once (%s)", " ".join(flags))
    try:
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
            made = Path(scratch) / to.name
            command = [compiler, *_COMMON, *flags, "-o", str(made), str(NATIVE / "decoder.cpp")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NoKernels(f"{compiler} cannot compile the CPU kernels: {done.stderr.strip()[-500:]}")
            made.replace(to)
    except OSError as error:
        raise NoKernels(f"the CPU kernels cannot be compiled into {to.parent}: {error.strerror}") from None
    return to


def _digest(flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(" ".join((*_COMMON, *flags)).encode())
    for source in sorted(NATIVE.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    from workers.host import cpu_flags

    try:
        if len(sys.argv) > 1:
            print(*for_packaging(Path(sys.argv[1])), sep="\n")
        else:
            print(library(cpu_flags()))
    except NoKernels as problem:
        sys.exit(str(problem))
