"""From files to a model that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from workers.models import llama, qwen2
from workers.models.config import gguf_architecture, read_architecture
from workers.models.interface import SINGLE, Collectives, Model
from workers.weights.gguf_file import GgufFile
from workers.weights.loader import Weights
from workers.weights.safetensors_dir import SafetensorsDirectory
from workers.weights.sharding import shard_of
from workers.weights.source import TensorSource, WeightsError

BUILDERS: Final = {"llama": llama.build, "qwen2": qwen2.build}


def load_model(
    path: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    collectives: Collectives = SINGLE,
    progress: Callable[[float], None] | None = None,
) -> Model:
    """Load one rank's share of a model.

    Args:
        path: a GGUF file or a Hugging Face directory.
        dtype: that it is kept in and computed with.
        device: where; only the CPU so far.
        rank, ranks: this rank's place in its tensor-parallel group.
        collectives: the group.
        progress: is told the fraction that is loaded.

    Raises:
        WeightsError: files that are missing, broken, or of a model that is not supported.
        TooManyRanks: more ranks than KV heads.
    """
    if device.type != "cpu":
        raise WeightsError(path, f"device {device} is not supported (cpu is)")
    source: TensorSource
    if path.is_dir():
        architecture, source = read_architecture(path), SafetensorsDirectory(path)
    else:
        source = GgufFile(path)
        architecture = gguf_architecture(source)
    weights = Weights(source, architecture, shard_of(architecture, rank, ranks), dtype, progress)
    model = BUILDERS[architecture.name](weights, collectives, device)
    weights.finish()
    return model
