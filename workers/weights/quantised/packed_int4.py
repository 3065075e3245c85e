"""GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978): codes in int32 words, transposed, with zeros in words too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from workers.weights.quantised.config import Quantisation
from workers.weights.quantised.matrix import Matrix, unpacked
from workers.weights.quantised.parser import Fault, Parser, Shapes

# Nibble i of a word of AWQ holds column _AWQ_ORDER[i] of its eight.
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def gptq(config: Quantisation) -> Parser:
    """`qweight` [inputs / codes a word, rows], `qzeros` [groups, rows / codes a word], `scales` [groups, rows], and
    `g_idx` [inputs], the group of each input, whose order may be any (`desc_act`)."""
    if config.bits not in (4, 8):
        raise Fault(f"gptq of {config.bits} bits is not supported (4 and 8 are)")
    if config.checkpoint_format not in ("gptq", "gptq_v2"):
        raise Fault(f"gptq's checkpoint_format {config.checkpoint_format!r} is not supported (gptq and gptq_v2 are)")
    a_word, less = 32 // config.bits, 1 if config.checkpoint_format == "gptq" else 0
    return Parser(
        name=f"GPTQ, {config.bits} bits",
        needed=("qweight", "qzeros", "scales"),
        optional=("g_idx",),
        shape=lambda shapes: (shapes["qweight"][1], shapes["qweight"][0] * a_word),
        read=partial(_gptq, config.bits, less),
    )


def awq(config: Quantisation) -> Parser:
    """`qweight` [inputs, rows / 8], `qzeros` [groups, rows / 8], `scales` [groups, rows]."""
    if config.bits != 4:
        raise Fault(f"awq of {config.bits} bits is not supported (4 are)")
    if config.version.lower() != "gemm":
        raise Fault(f"awq's version {config.version!r} is not supported (gemm is)")
    return Parser(
        name="AWQ, 4 bits",
        needed=("qweight", "qzeros", "scales"),
        shape=_awq_shape,
        read=_awq,
    )


def _gptq(bits: int, less: int, tensors: Mapping[str, Tensor]) -> Matrix:
    numbers = unpacked(tensors["qweight"].T.contiguous(), bits)
    # The first format has them less by one, and wraps: 0 is written as 15.
    zeros = (unpacked(tensors["qzeros"], bits).T + less & (1 << bits) - 1).float()
    scales, inputs = tensors["scales"].T.float(), numbers.shape[1]
    group_of = tensors["g_idx"].long() if "g_idx" in tensors else None
    if group_of is not None and int(group_of.max()) >= scales.shape[1]:
        raise Fault(f"g_idx names group {int(group_of.max())} of {scales.shape[1]}")
    if inputs % scales.shape[1]:
        if group_of is None:
            raise Fault(f"{scales.shape[1]} groups do not divide {inputs} inputs, and there is no g_idx")
    elif group_of is not None and torch.equal(group_of, torch.arange(inputs) // (inputs // scales.shape[1])):
        group_of = None
    return Matrix(numbers, scales, zeros, bits, group_of)


def _awq_shape(shapes: Shapes) -> tuple[int, int]:
    inputs, words = shapes["qweight"]
    return words * len(_AWQ_ORDER), inputs


def _awq(tensors: Mapping[str, Tensor]) -> Matrix:
    numbers, zeros = (_awq_columns(tensors[name]) for name in ("qweight", "qzeros"))
    return Matrix(numbers.T.contiguous(), tensors["scales"].T.float(), zeros.T.float(), 4)


def _awq_columns(words: Tensor) -> Tensor:
    """[any, words] to [any, columns]."""
    nibbles = unpacked(words, 4).view(len(words), -1, len(_AWQ_ORDER))
    columns = torch.empty_like(nibbles)
    columns[..., list(_AWQ_ORDER)] = nibbles
    return columns.flatten(1)
