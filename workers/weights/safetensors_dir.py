"""Tensors of a Hugging Face directory: `model.safetensors`, or shards with an index. Memory-mapped."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.weights.source import WeightsError

SINGLE_FILE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The files that hold the weights, in order of name.

    Raises:
        WeightsError: there are none, or one that the index names is not there.
    """
    return tuple(
        sorted({directory / file for file in _files_by_tensor(directory).values()} or {directory / SINGLE_FILE})
    )


def file_bytes(path: Path) -> int:
    """Of a weight file, or of all in a directory."""
    return sum(file.stat().st_size for file in (weight_files(path) if path.is_dir() else (path,)))


def _files_by_tensor(directory: Path) -> dict[str, str]:
    """The index; empty where all tensors are in one file."""
    index = directory / INDEX
    if not index.is_file():
        if not (directory / SINGLE_FILE).is_file():
            raise WeightsError(directory, f"neither {SINGLE_FILE} nor {INDEX} is there")
        return {}
    try:
        found = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsError(index, f"not a safetensors index: {error}") from None
    for file in sorted(set(found.values())):
        # An index is data from elsewhere: it may name files beside it and no others.
        if Path(file).name != file:
            raise WeightsError(index, f"names a file outside its directory: {file!r}")
        if not (directory / file).is_file():
            raise WeightsError(index, f"names {file}, which is not there")
    return found


class SafetensorsDirectory:
    """A `TensorSource` over a directory.

    Raises:
        WeightsError: files are missing or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slices: dict[str, Any] = {}
        indexed = _files_by_tensor(path)
        for file in weight_files(path):
            try:
                opened = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(file, f"not a readable safetensors file: {error}") from None
            for name in opened.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118  (not a mapping)
                self._slices[name] = opened.get_slice(name)  # type: ignore[no-untyped-call]
        for name, part in indexed.items():
            if name not in self._slices:
                raise WeightsError(path / part, "missing, though the index has it", name)

    def names(self) -> Collection[str]:
        return self._slices.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def load(
        self,
        name: str,
        dtype: torch.dtype,
        rows: slice | None = None,
        columns: slice | None = None,
        at: int | None = None,
    ) -> Tensor:
        part = self._slice(name)
        kind = part.get_dtype()
        if kind not in _FLOATS:
            raise WeightsError(self.path, f"type {kind} cannot be read (these can: {', '.join(sorted(_FLOATS))})", name)
        which = (*(() if at is None else (at,)), rows or slice(None), *(() if columns is None else (columns,)))
        tensor: Tensor = part[which]
        # Always a copy: a view would keep the file mapped, and die with it when somebody truncates it.
        return tensor.to(dtype, copy=True).contiguous()

    def quantised(
        self, name: str, rows: slice | Tensor | None = None, columns: slice | None = None, at: int | None = None
    ) -> None:
        """Everything is floats here."""

    def codes(self, name: str, rows: slice | None = None) -> None:
        """Everything is floats here."""

    def raw(self, name: str) -> Tensor:
        """A whole tensor in the file's own type.

        Raises:
            WeightsError: no such tensor.
        """
        tensor: Tensor = self._slice(name)[...]
        return tensor.clone()

    def _slice(self, name: str) -> Any:
        try:
            return self._slices[name]
        except KeyError:
            raise WeightsError(self.path, "missing", name) from None
