"""What a format's parser is: a reader of one layer's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from workers.weights.quantised.matrix import Matrix

Inputs = Literal["floats", "dynamic", "static"]
Read = Callable[[Mapping[str, Tensor]], Matrix]
Shapes = Mapping[str, tuple[int, ...]]


class Fault(ValueError):
    """A checkpoint that the parser cannot read, and why; without the file's name, which the caller knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """One format, as one checkpoint has it.

    Attributes:
        name: for people.
        needed, optional: tensors of a layer, by their last name. A layer that has the first of `needed` is quantised.
        ignored: tensors that say what does not matter here.
        inputs: what a GPU that multiplies numbers of 8 bits rounds inputs by: nothing, they stay floats; what they are;
            or a scale that each layer has, `input_scale`, which is not read where they stay floats.
        shape: rows and inputs, from the tensors' shapes.
        read: from the tensors. Raises Fault.
        codes: whether matrices are codes, so that kernels may carry them.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    shape: Callable[[Shapes], tuple[int, int]]
    read: Read
    codes: bool = True
    inputs: Inputs = "floats"
