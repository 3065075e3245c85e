"""Floats rounded to 4 bits by what they are multiplied with: `packed`'s weights, with a text sent through them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from workers.kernels.pack import Kernels, Packed, pack_codes
from workers.weights.calibration import Passage, activated, by_bfloat16
from workers.weights.codes import from_floats
from workers.weights.packed import PackedWeights, prepare_packed
from workers.weights.parts import Part, Parts
from workers.weights.prepared import ROUNDED
from workers.weights.rounding import fitted, moments


class _Rounded(NamedTuple):
    matrix: Packed
    outputs: Tensor  # [samples, rows], of the rounded matrix


class CalibratedWeights(PackedWeights):
    """The weights of a whole model of floats in 4 bits, the embedding and the output head in 8. Ask for each part once,
    and for layers in order.

    Args:
        parts: of one rank that has everything; no matrix is quantised.
        kernels: what computes, in "int4".
        sequences: the text's ids, [sequences, tokens].
    """

    def __init__(self, parts: Parts, kernels: Kernels, sequences: Tensor) -> None:
        super().__init__(parts, kernels)
        self._sequences = sequences
        self._passage: Passage | None = None
        self._digest = hashlib.blake2b(digest_size=16)

    def tensors(self) -> dict[str, Tensor]:
        """All of them, and a digest of what was rounded: the text's sums, and so some codes, are a processor's own."""
        return {**prepare_packed(self), ROUNDED: torch.tensor(list(self._digest.digest()), dtype=torch.uint8)}

    def embedding(self) -> Packed:
        """[vocabulary, hidden]."""
        codes = from_floats(self._floats(self._parts.embedding()).numpy(), 8)
        ids, places = self._sequences.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        rows = torch.from_numpy(codes.take(rows=ids.numpy()).weights())
        self._passage = Passage(rows[places], self.architecture, self.rope_factors())
        return pack_codes(codes)

    @torch.no_grad()
    def matrices(self, layer: int, norms: Mapping[str, Tensor]) -> tuple[Packed, ...]:
        """See `PackedWeights.matrices`."""
        passage, parts = self._passage, self._parts
        assert passage is not None, "the embedding comes first"
        with by_bfloat16():
            inputs = passage.normed(norms["attention_norm"])
            qkv = self._fit(inputs, ((part.weight, part.bias) for part in parts.qkv(layer)))
            (out,) = self._fit(passage.attended(*(each.outputs for each in qkv)), ((parts.attention_out(layer), None),))
            passage.add(out.outputs)
            inputs = passage.normed(norms["mlp_norm"])
            gate, up = self._fit(inputs, ((part, None) for part in parts.gate_up(layer)))
            (down,) = self._fit(activated(gate.outputs, up.outputs), ((parts.down(layer), None),))
            passage.add(down.outputs)
        return tuple(each.matrix for each in (*qkv, out, gate, up, down))

    def _fit(self, inputs: Tensor, matrices: Iterable[tuple[Part, Part | None]]) -> list[_Rounded]:
        """Matrices that are multiplied with the same inputs, [samples, inputs], with their biases."""
        seen = moments(inputs)
        found: list[_Rounded] = []
        for weight, added in matrices:
            codes = fitted(self._floats(weight), self._rounder, seen)
            bias = None if added is None else self._floats(added)
            self._digest.update(codes.codes.data)
            outputs = torch.nn.functional.linear(inputs, torch.from_numpy(codes.weights()), bias)
            found.append(_Rounded(pack_codes(codes, bias), outputs))
        return found
