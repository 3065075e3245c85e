"""The formats, by the name that config.json gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from workers.weights.quantised.compressed import compressed_tensors
from workers.weights.quantised.config import Quantisation
from workers.weights.quantised.float8 import fp8
from workers.weights.quantised.packed_int4 import awq, gptq
from workers.weights.quantised.parser import Fault, Parser
from workers.weights.source import WeightsError

FORMATS: Final[Mapping[str, Callable[[Quantisation], Parser]]] = {
    "awq": awq,
    "compressed-tensors": compressed_tensors,
    "fp8": fp8,
    "gptq": gptq,
}


def parser_of(config: Quantisation, path: Path) -> Parser:
    """What reads a checkpoint that is quantised so.

    Raises:
        WeightsError: nothing does. The message names the format, or what of it is not supported.
    """
    method = config.quant_method
    if method not in FORMATS:
        raise WeightsError(path, f"quantisation {method!r} is not supported ({', '.join(FORMATS)} are)")
    try:
        return FORMATS[method](config)
    except Fault as fault:
        raise WeightsError(path, str(fault)) from None
