"""FP8 weights (e4m3) with a scale for the tensor, for each row, or for each block: as vLLM's and DeepSeek's checkpoints
have them, and for compressed-tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from workers.weights.quantised.config import Quantisation
from workers.weights.quantised.matrix import Matrix, groups_of
from workers.weights.quantised.parser import Fault, Inputs, Parser

Block = tuple[int, int]


def fp8(config: Quantisation) -> Parser:
    """`weight` [rows, inputs], and `weight_scale` or, of blocks, `weight_scale_inv`: both multiply."""
    if config.activation_scheme not in ("dynamic", "static"):
        raise Fault(f"fp8's activation_scheme {config.activation_scheme!r} is not supported (dynamic and static are)")
    block = config.weight_block_size
    return parser(f"FP8, {'blocks of {}x{}'.format(*block) if block else 'per tensor or row'}",
                  "weight_scale_inv" if block else "weight_scale", block,
                  "dynamic" if config.activation_scheme == "dynamic" else "static")  # fmt: skip


def parser(name: str, scale: str, block: Block | None, inputs: Inputs) -> Parser:
    """Of weights with such a scale, and of inputs."""
    return Parser(
        name=name,
        needed=(scale, "weight"),
        ignored=("input_scale",),
        shape=lambda shapes: (shapes["weight"][0], shapes["weight"][1]),
        read=partial(_read, scale, block),
        codes=False,
        inputs=inputs,
    )


def _read(scale: str, block: Block | None, tensors: Mapping[str, Tensor]) -> Matrix:
    numbers = tensors["weight"]
    if numbers.dtype != torch.float8_e4m3fn:
        raise Fault(f"weights of type {str(numbers.dtype).removeprefix('torch.')} are not FP8 (float8_e4m3fn)")
    rows, inputs = numbers.shape
    scales = tensors[scale].float()
    if block is not None:
        expected = (-(-rows // block[0]), -(-inputs // block[1]))
        if scales.shape != expected:
            raise Fault(f"{list(scales.shape)} scales of blocks, expected {list(expected)}")
        return Matrix(numbers, scales.repeat_interleave(block[0], 0)[:rows], 0, 0, groups_of(inputs, block[1]))
    return Matrix(numbers, per_row(scales, rows), 0, 0)


def per_row(scales: Tensor, rows: int) -> Tensor:
    """[rows, 1], of a scale for the tensor or for each row."""
    if scales.numel() not in (1, rows):
        raise Fault(f"{scales.numel()} scales for {rows} rows")
    return scales.reshape(-1, 1).expand(rows, 1)
