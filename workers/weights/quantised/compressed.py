"""compressed-tensors, as llm-compressor writes it: int8 and FP8 weights as they are, 4 and 8 bits in int32 words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from workers.weights.quantised import float8
from workers.weights.quantised.config import Arguments, Quantisation
from workers.weights.quantised.float8 import per_row
from workers.weights.quantised.matrix import Matrix, unpacked
from workers.weights.quantised.parser import Fault, Inputs, Parser, Shapes

_FORMATS: Final = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


def compressed_tensors(config: Quantisation) -> Parser:
    """One scheme for all quantised layers."""
    if config.kv_cache_scheme is not None and bytes(config.kv_cache_scheme) != b"null":
        raise Fault("compressed-tensors with a kv_cache_scheme is not supported")
    inputs = _inputs(config)
    schemes = [group.weights for group in config.config_groups.values() if group.weights is not None]
    if not schemes or any(scheme != schemes[0] for scheme in schemes):
        raise Fault(f"compressed-tensors with {len(schemes)} different config_groups is not supported (with one it is)")
    weights = schemes[0]
    match (config.format, weights.type, weights.num_bits, weights.strategy):
        case ("pack-quantized", "int", 4 | 8 as bits, "group" | "channel" | "tensor"):
            return _packed(bits)
        case ("int-quantized" | "naive-quantized", "int", 8, "channel" | "tensor"):
            return _int8(inputs)
        case ("float-quantized" | "naive-quantized", "float", 8, "channel" | "tensor"):
            return float8.parser("compressed-tensors, FP8 per tensor or row", "weight_scale", None, inputs)
        case ("float-quantized" | "naive-quantized", "float", 8, "block") if weights.block_structure:
            name = "compressed-tensors, FP8 blocks of {}x{}".format(*weights.block_structure)
            return float8.parser(name, "weight_scale", weights.block_structure, inputs)
    raise Fault(f"compressed-tensors of {_described(config, weights)} is not supported")


def _inputs(config: Quantisation) -> Inputs:
    """Floats where layers differ in it, and where inputs are rounded in a way that no kernel has."""
    found = {
        "floats" if (given := group.input_activations) is None or group.weights is None or not given.symmetric
        or (given.num_bits, given.type) != (8, group.weights.type)
        else "dynamic" if given.dynamic else "static"
        for group in config.config_groups.values()
    }  # fmt: skip
    (each, *others) = found or {"floats"}
    return each if not others else "floats"  # type: ignore[return-value]


def _described(config: Quantisation, weights: Arguments) -> str:
    return f"format {config.format!r} with weights of {weights.num_bits}-bit {weights.type} by {weights.strategy}"


def _packed(bits: int) -> Parser:
    """`weight_packed` [rows, inputs / codes a word], `weight_scale` [rows, groups], `weight_shape` [2], and perhaps
    `weight_zero_point` [rows / codes a word, groups] and `weight_g_idx` [inputs]."""
    a_word = 32 // bits

    def shape(shapes: Shapes) -> tuple[int, int]:
        rows, words = shapes["weight_packed"]
        return rows, words * a_word

    return Parser(
        name=f"compressed-tensors, {bits} bits",
        needed=("weight_packed", "weight_scale", "weight_shape"),
        optional=("weight_zero_point", "weight_g_idx"),
        shape=shape,
        read=partial(_read_packed, bits),
    )


def _read_packed(bits: int, tensors: Mapping[str, Tensor]) -> Matrix:
    numbers = unpacked(tensors["weight_packed"], bits)
    if (given := tuple(tensors["weight_shape"].tolist())) != tuple(numbers.shape):
        raise Fault(f"weight_shape is {list(given)}, packed is {list(numbers.shape)}")
    rows, inputs = numbers.shape
    scales = tensors["weight_scale"].float()
    scales = scales if scales.ndim == 2 and len(scales) == rows else per_row(scales, rows)
    zeros: Tensor | int = 1 << bits - 1
    if "weight_zero_point" in tensors:
        words = tensors["weight_zero_point"]
        zeros = unpacked(words.T.contiguous(), bits).T[:rows].float()
        if zeros.shape != scales.shape:
            raise Fault(f"zeros of shape {list(zeros.shape)} for scales of {list(scales.shape)}")
    group_of = tensors["weight_g_idx"].long() if "weight_g_idx" in tensors else None
    if group_of is not None and int(group_of.min()) < 0:
        group_of = None  # written where there is no order
    if inputs % scales.shape[1] and group_of is None:
        raise Fault(f"{scales.shape[1]} groups do not divide {inputs} inputs")
    return Matrix(numbers, scales, zeros, bits, group_of)


def _int8(inputs: Inputs) -> Parser:
    """`weight` [rows, inputs] int8, `weight_scale` [rows, 1] or [1], perhaps `weight_zero_point` of the same."""
    return Parser(
        name="compressed-tensors, int8",
        needed=("weight_scale", "weight"),
        optional=("weight_zero_point",),
        ignored=("input_scale", "input_zero_point"),
        shape=lambda shapes: (shapes["weight"][0], shapes["weight"][1]),
        read=_read_int8,
        inputs=inputs,
    )


def _read_int8(tensors: Mapping[str, Tensor]) -> Matrix:
    signed = tensors["weight"]
    if signed.dtype != torch.int8:
        raise Fault(f"weights of type {str(signed.dtype).removeprefix('torch.')} are not int8")
    numbers = (signed.to(torch.int16) + 128).to(torch.uint8)
    zeros: Tensor | int = 128
    if "weight_zero_point" in tensors:
        zeros = per_row(tensors["weight_zero_point"].float() + 128, len(signed))
    return Matrix(numbers, per_row(tensors["weight_scale"].float(), len(signed)), zeros, 8)
