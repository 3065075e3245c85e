"""The parts of a rank's model as the kernels read them: quantised tensors stay quantised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from workers.kernels.pack import MATRICES, Kernels, Packed, pack_codes, pack_floats
from workers.kernels.round import Rounder
from workers.weights.codes import Codes, divisible, from_floats
from workers.weights.loader import read, unpermuted
from workers.weights.parts import Part, Parts, Qkv
from workers.weights.rounding import fitted
from workers.weights.source import WeightsError

NORMS: Final = ("attention_norm", "mlp_norm")  # of a layer


def prepare_packed(weights: PackedWeights) -> dict[str, Tensor]:
    """Every tensor that `workers.models.packed` needs, by name.

    Raises:
        WeightsError: a tensor is missing, misshapen, or has no place in the model.
    """
    tensors = {"final_norm": weights.final_norm(), **weights.embedding().tensors("embedding")}
    if (head := weights.head()) is not None:
        tensors |= head.tensors("head")
    if (factors := weights.rope_factors()) is not None:
        tensors["rope_factors"] = factors
    for layer in range(weights.architecture.layers):
        norms = {name: weights.norm(name, layer) for name in NORMS}
        tensors |= {f"{layer}.{name}": norm for name, norm in norms.items()}
        for name, matrix in zip(MATRICES, weights.matrices(layer, norms), strict=True):
            tensors |= matrix.tensors(f"{layer}.{name}")
    weights.finish()
    return tensors


class PackedWeights:
    """One rank's weights, packed on demand. Ask for each part once.

    Args:
        parts: which there are.
        kernels: what computes. Its scheme "file" keeps codes and floats as the file has them; "floats" makes floats of
            both; "int8" and "int4" round floats per row and 32 inputs, to 8 bits where "int4" would cost most: in
            embedding and output head. What they are multiplied with is not looked at; `calibrated` does.
    """

    def __init__(self, parts: Parts, kernels: Kernels) -> None:
        self.architecture, self.shard = parts.architecture, parts.shard
        self._parts, self._scheme = parts, kernels.scheme
        self._rounder = Rounder(kernels.library, kernels.threads)

    def embedding(self) -> Packed:
        """[vocabulary of this rank, hidden]."""
        return self._matrix(self._parts.embedding(), bits=8)

    def head(self) -> Packed | None:
        """[vocabulary of this rank, hidden]; None where it is the embedding."""
        head = self._parts.head()
        return None if head is None else self._matrix(head, bits=8)

    def final_norm(self) -> Tensor:
        """[hidden] float32."""
        return self._floats(self._parts.final_norm())

    def norm(self, part: str, layer: int) -> Tensor:
        """[hidden] float32; `part` is "attention_norm" or "mlp_norm"."""
        return self._floats(self._parts.norm(part, layer))

    def matrices(self, layer: int, norms: Mapping[str, Tensor]) -> tuple[Packed, ...]:
        """Of a layer, in the order of `MATRICES`; q, k and v with their biases.

        Args:
            norms: the layer's, by name.
        """
        del norms  # who looks at what the matrices are multiplied with needs them
        parts = self._parts
        return (
            *(self._biased(part) for part in parts.qkv(layer)),
            self._matrix(parts.attention_out(layer)),
            *(self._matrix(part) for part in parts.gate_up(layer)),
            self._matrix(parts.down(layer)),
        )

    def rope_factors(self) -> Tensor | None:
        """[head_dim / 2] float32, of models whose file carries them."""
        part = self._parts.rope_factors()
        return None if part is None else self._floats(part)

    def finish(self) -> None:
        """Check that nothing is left over; see `Parts.finish`."""
        self._parts.finish()

    def _biased(self, part: Qkv) -> Packed:
        return self._matrix(part.weight, None if part.bias is None else self._floats(part.bias))

    def _matrix(self, part: Part, bias: Tensor | None = None, bits: int = 0) -> Packed:
        source = self._parts.source
        if not divisible(part.columns, part.shape[1]):
            raise WeightsError(
                source.path,
                f"columns {part.columns} cannot be cut without cutting a group of 32; use fewer ranks, or "
                'dtype = "float32"',
                part.name,
            )
        codes = None if self._scheme == "floats" else source.codes(part.name, part.rows)
        if codes is not None:
            self._parts.use(part)
            if part.permuted:
                codes = codes.take(rows=unpermuted(len(codes.codes), self.architecture.head_dim).numpy())
            return pack_codes(codes.take(columns=part.columns), bias)
        weight = self._floats(part)
        if self._scheme in ("int8", "int4"):
            return pack_codes(self._rounded(weight, bits), bias)
        exact = bool((weight.bfloat16().float() == weight).all())
        return pack_floats(weight.bfloat16() if exact else weight, bias)

    def _rounded(self, weight: Tensor, bits: int) -> Codes:
        if bits == 8 or self._scheme == "int8":
            return from_floats(weight.numpy(), 8)
        return fitted(weight, self._rounder)

    def _floats(self, part: Part) -> Tensor:
        return read(self._parts, part, torch.float32)
