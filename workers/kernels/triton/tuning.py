"""Tuned configurations: a table per GPU, in the repository (`tuned/*.toml`). Nothing is searched for at start.

An entry is for everything up to the sizes that it names, and the first that is large enough is taken. What is in an
entry changes speed only. What would change results with it, the length of a split, is a constant of the kernel.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final, Literal, TypeVar

import msgspec
import torch

INTERPRETER: Final = "interpreter"

# GPUs that take another's table: same instructions, and at least its shared memory.
_LIKE: Final = {"sm_87": "sm_86", "sm_89": "sm_86", "sm_103": "sm_100", "sm_120": "sm_86", "sm_121": "sm_86"}

# Shared memory of a program, bytes (CUDA C++ Programming Guide, table of compute capabilities). Kernels are compiled
# ahead of time for these.
SHARED_BYTES: Final = {
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
}


class NoTuning(ValueError):
    """There is no table for a GPU, or no entry for a size."""


class Unsupported(ValueError):
    """A model, or a form of KV, that the kernels or the GPU do not have."""


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`decode.split`: keys per tile; programs per multiprocessor that share out the work."""

    head_dim: int
    kv_bytes: int
    tile: int
    warps: int
    stages: int
    programs: int


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`prefill`: rows (query tokens times heads of a group) and keys of a tile."""

    head_dim: int
    kv_bytes: int
    rows: int
    tile: int
    warps: int
    stages: int


class Rowwise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kernels with one program per row of `width` numbers."""

    width: int
    warps: int


class Elementwise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kernels that change numbers one by one: numbers of a program."""

    block: int
    warps: int


class Grouped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Products of experts: up to `tokens` rows of each on average; rows, columns and inner numbers of a tile."""

    tokens: int
    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a product with quantised weights, in steps of up to `up_to` rows: rows and outputs of a program."""

    up_to: int
    rows: int
    columns: int
    warps: int
    stages: int


ProductKind = Literal["fp8", "int8", "weight8", "weight4"]


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Products with quantised weights of one kind.

    Attributes:
        kind: "fp8" and "int8", inputs are rounded as weights are; "weight8" and "weight4", they stay in 16 bits.
        inner: inputs of a step of the loop; changes results, as `programs` does.
        programs: that a layer's product is split into at least, where it has few outputs.
        sum_block: outputs of a program that adds splits.
        torch_rows: rows from which torch multiplies, where it can; 0 is never. A row's last bits are others there.
        tiles: by rows.
    """

    kind: ProductKind
    inner: int
    programs: int
    sum_block: int
    torch_rows: int
    tiles: tuple[Tile, ...]


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Drawing: logits of a program that has a piece of a row, and of a step of one that walks a whole row."""

    block: int
    warps: int
    row_block: int
    row_warps: int


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU's table.

    Attributes:
        gpu: of which.
        measured: how it was found, in words.
        split, chunk: attention.
        rowwise: norms.
        grouped: mixtures of experts.
        product: quantised weights.
        elementwise: activations, embedding, assembling logits.
        sample: drawing.
    """

    gpu: str
    measured: str
    split: tuple[Split, ...]
    chunk: tuple[Chunk, ...]
    rowwise: tuple[Rowwise, ...]
    grouped: tuple[Grouped, ...]
    product: tuple[Product, ...]
    elementwise: Elementwise
    sample: Sample

    @property
    def fp8(self) -> bool:
        """Whether the GPU converts FP8 (e4m3): since Ada."""
        return self.gpu == INTERPRETER or int(self.gpu.removeprefix("sm_")) >= 89

    def split_for(self, head_dim: int, kv_bytes: int) -> Split:
        """Raises NoTuning where nothing in the table is large enough."""
        return self._first(self.split, "decode attention", head_dim=head_dim, kv_bytes=kv_bytes)

    def chunk_for(self, head_dim: int, kv_bytes: int) -> Chunk:
        """Raises NoTuning where nothing in the table is large enough."""
        return self._first(self.chunk, "prefill attention", head_dim=head_dim, kv_bytes=kv_bytes)

    def rowwise_for(self, width: int) -> Rowwise:
        """Raises NoTuning where nothing in the table is large enough."""
        return self._first(self.rowwise, "rows", width=width)

    def grouped_for(self, tokens: int) -> Grouped:
        """Raises NoTuning where nothing in the table is large enough."""
        return self._first(self.grouped, "rows of an expert", tokens=tokens)

    def product_for(self, kind: ProductKind) -> Product:
        """Raises NoTuning where the table has nothing for it: the GPU does not multiply so."""
        for entry in self.product:
            if entry.kind == kind:
                return entry
        raise NoTuning(f"{self.gpu}: nothing for products of kind {kind!r}")

    def _first(self, entries: tuple[_Entry, ...], what: str, **sizes: int) -> _Entry:
        for entry in entries:
            if all(getattr(entry, name) >= size for name, size in sizes.items()):
                return entry
        wanted = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise NoTuning(f"{self.gpu}: nothing for {what} with {wanted}")


_Entry = TypeVar("_Entry", Split, Chunk, Rowwise, Grouped)


@functools.cache
def tuning(gpu: str) -> Tuning:
    """The table of a GPU: "sm_90", or `INTERPRETER`.

    Raises:
        NoTuning: there is none.
    """
    file = resources.files(__package__) / "tuned" / f"{_LIKE.get(gpu, gpu)}.toml"
    if not file.is_file():
        known = sorted(each.name.removesuffix(".toml") for each in (resources.files(__package__) / "tuned").iterdir())
        raise NoTuning(f"no tuned configurations for {gpu}; there are {', '.join([*known, *_LIKE])}")
    return msgspec.structs.replace(msgspec.toml.decode(file.read_bytes(), type=Tuning), gpu=gpu)


def tuning_of(device: torch.device) -> Tuning:
    """The table for a device that kernels run on.

    Raises:
        NoTuning: there is none.
    """
    if device.type != "cuda":
        return tuning(INTERPRETER)
    major, minor = torch.cuda.get_device_capability(device)
    return tuning(f"sm_{major}{minor}")
