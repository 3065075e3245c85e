"""`quantization_config` of a config.json, typed: the keys of all formats together, each of which reads its own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from workers.weights.source import WeightsError


class Arguments(msgspec.Struct):
    """How weights or activations are quantised, in compressed-tensors."""

    num_bits: int = 8
    type: str = "int"
    strategy: str | None = None
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    symmetric: bool = True
    dynamic: bool | str = False  # of activations


class Group(msgspec.Struct):
    """Layers that are quantised alike, in compressed-tensors."""

    weights: Arguments | None = None
    input_activations: Arguments | None = None


class Quantisation(msgspec.Struct):
    """Defaults are those of the formats' own readers."""

    quant_method: str
    bits: int = 4  # of GPTQ and AWQ
    group_size: int = 128
    version: str = "gemm"
    checkpoint_format: str = "gptq"
    activation_scheme: str = "dynamic"  # of FP8
    weight_block_size: tuple[int, int] | None = None
    format: str = ""  # of compressed-tensors
    config_groups: dict[str, Group] = {}
    kv_cache_scheme: msgspec.Raw | None = None


class _Config(msgspec.Struct):
    quantization_config: Quantisation | None = None
    compression_config: Quantisation | None = None  # compressed-tensors, before it had that name


def quantisation_of(directory: Path) -> Quantisation | None:
    """How a checkpoint is quantised; None where it is not.

    Raises:
        WeightsError: config.json is missing, not JSON, or says it in another way.
    """
    path = directory / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise WeightsError(path, str(error)) from None
    return config.quantization_config or config.compression_config
