"""What the configured models take on this host, read from their files without loading them.

    python -m workers.capacity [headrace.toml]      # a JSON array of `bus.shapes.ModelShape`

`headrace capacity` runs it. Nothing is computed here that a worker does not compute in the same way when it starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from bus.catalogue import ModelMissing, locate
from bus.config import Config, ConfigError, ModelConfig, load_config
from bus.encoders import kind_of
from bus.names import worker_name
from bus.shapes import ModelShape
from workers.encoding.architecture import read_architecture as read_encoder
from workers.encoding.loading import dtype_of
from workers.engine import Engine, choose, require_kv, without_kernels
from workers.forms import form_of
from workers.host import Unsuitable, assign
from workers.loading import store_key
from workers.models.architecture import kv_shape
from workers.models.config import read_architecture
from workers.models.packed import misfit
from workers.step.slots import slot_bytes
from workers.weights.digest import weights_digest
from workers.weights.safetensors_dir import file_bytes
from workers.weights.sharding import TooManyRanks, shard_of
from workers.weights.source import WeightsError
from workers.weights.store import directory


def shape(model: ModelConfig, config: Config) -> ModelShape:
    """Of one model; with `problem` where its files cannot be used."""
    try:
        assignment = assign(worker_name(model.name, 0, 0), config)
        path = locate(model.source)
        if kind_of(path) != "generate":
            return _encoder(model, path)
        engine = choose(model, assignment.device, assignment.threads, path)
        architecture = read_architecture(path)
        if engine.kernels and (problem := misfit(architecture, shard_of(architecture, 0, model.tensor_parallel))):
            engine = without_kernels(model, assignment.device, f"the CPU kernels do not take {problem}")
        require_kv(model, engine, architecture)
    except (ModelMissing, TooManyRanks, Unsuitable, WeightsError, OSError) as error:
        return ModelShape(model.name, problem=str(error))
    context = model.context_tokens or architecture.context
    laid_out = _laid_out(path, engine, model)
    return ModelShape(
        model.name,
        kv_shape(architecture, assignment.page_tokens, engine.kv),
        context,
        architecture.vocabulary,
        laid_out or file_bytes(path),
        bool(laid_out),
        slot_bytes(model.slots, context, assignment.page_tokens),
        model.slots * architecture.vocabulary * 4,
        engine.name,
    )


def _encoder(model: ModelConfig, path: Path) -> ModelShape:
    """It keeps no KV: `kv` is None, and there is no problem."""
    architecture, dtype = read_encoder(path), dtype_of(model)
    return ModelShape(
        model.name,
        None,
        model.context_tokens or architecture.context,
        architecture.vocabulary,
        architecture.parameters * dtype.itemsize,
        computed_in=str(dtype).removeprefix("torch."),
    )


def _laid_out(path: Path, engine: Engine, model: ModelConfig) -> int:
    """Bytes of the weights that are ready to be mapped; 0 where not all of them are."""
    digest, ranks, form = weights_digest(path), model.tensor_parallel, form_of(model, engine.device, path)
    files = [directory() / store_key(digest, engine, rank, ranks, form).file for rank in range(ranks)]
    return sum(file.stat().st_size for file in files) if all(file.is_file() for file in files) else 0


def main() -> int:
    """Print the shapes of all models of a configuration."""
    try:
        config = load_config(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 78
    print(msgspec.json.encode([shape(model, config) for model in config.model]).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
