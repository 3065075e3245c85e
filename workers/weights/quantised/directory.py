"""A quantised checkpoint as if it were not: every quantised layer has a `weight`, as floats or as codes."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from workers.weights.codes import Codes
from workers.weights.quantised.config import Quantisation
from workers.weights.quantised.matrix import CutGroup, Matrix
from workers.weights.quantised.parser import Fault, Parser
from workers.weights.quantised.registry import parser_of
from workers.weights.quantised.weight import QuantisedWeight, of_matrix
from workers.weights.safetensors_dir import SafetensorsDirectory
from workers.weights.source import WeightsError

log = logging.getLogger(__name__)


class QuantisedDirectory:
    """A `TensorSource` over a directory.

    Args:
        path: of it.
        config: how it is quantised.

    Raises:
        WeightsError: files are missing or broken, or of a format that is not supported.
    """

    def __init__(self, path: Path, config: Quantisation) -> None:
        self.path, self._files = path, SafetensorsDirectory(path)
        self.parser: Parser = parser_of(config, path)
        self._layers = self._found()
        if not self._layers:
            raise WeightsError(path, f"no layer is quantised, though config.json says {config.quant_method!r}")
        parts = (*self.parser.needed, *self.parser.optional, *self.parser.ignored)
        taken = {f"{stem}.{part}" for stem in self._layers.values() for part in parts}
        self._names = [*(name for name in self._files.names() if name not in taken), *self._layers]
        self._told = False

    def names(self) -> Collection[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._layers:
            return self._files.shape(name)
        stem = self._layers[name]
        return self.parser.shape({part: self._files.shape(f"{stem}.{part}") for part in self.parser.needed})

    def load(
        self,
        name: str,
        dtype: torch.dtype,
        rows: slice | None = None,
        columns: slice | None = None,
        at: int | None = None,
    ) -> Tensor:
        if name not in self._layers:
            return self._files.load(name, dtype, rows, columns, at)
        if not self._told:
            self._told = True
            kind = str(dtype).removeprefix("torch.")
            log.info("%s: %s, dequantised to %s at load", self.path.name, self.parser.name, kind)
        weights = self._matrix(name).weights()
        return weights[rows or slice(None), columns or slice(None)].to(dtype).contiguous()

    def codes(self, name: str, rows: slice | None = None) -> Codes | None:
        if name not in self._layers:
            return None
        codes = self._matrix(name).codes()
        return None if codes is None else codes.take(rows)

    def quantised(
        self, name: str, rows: slice | Tensor | None = None, columns: slice | None = None, at: int | None = None
    ) -> QuantisedWeight | None:
        if name not in self._layers or at is not None:
            return None
        matrix, inputs = self._matrix(name), self.parser.inputs
        scale = None if inputs == "floats" else torch.empty(0)
        if inputs == "static" and matrix.bits == 0:  # integers are rounded by what they are: no worse, and one kernel
            scale = self._files.raw(f"{self._layers[name]}.input_scale").float().reshape(-1)
            if len(scale) != 1:
                raise WeightsError(self.path, f"{len(scale)} scales of inputs", f"{self._layers[name]}.input_scale")
        try:
            return of_matrix(matrix.take(rows, columns), scale)
        except CutGroup as problem:
            raise WeightsError(self.path, str(problem), name) from None

    def _found(self) -> dict[str, str]:
        """Layers by the name of the weight that they stand for."""
        first = f".{self.parser.needed[0]}"
        stems = [name.removesuffix(first) for name in self._files.names() if name.endswith(first)]
        return {f"{stem}.weight": stem for stem in stems}

    def _matrix(self, name: str) -> Matrix:
        stem, there = self._layers[name], self._files.names()
        parts = [*self.parser.needed, *(part for part in self.parser.optional if f"{stem}.{part}" in there)]
        try:
            matrix = self.parser.read({part: self._files.raw(f"{stem}.{part}") for part in parts})
        except Fault as fault:
            raise WeightsError(self.path, str(fault), stem) from None
        if tuple(matrix.numbers.shape) != self.shape(name) or len(matrix.scales) != len(matrix.numbers):
            raise WeightsError(
                self.path, f"numbers {list(matrix.numbers.shape)} and scales {list(matrix.scales.shape)} differ", stem
            )
        return matrix
