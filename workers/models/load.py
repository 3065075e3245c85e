"""From files to a model that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor

from workers.kernels.pack import Kernels
from workers.layers.linear import pack
from workers.models.architecture import Architecture, Experts
from workers.models.config import read_architecture
from workers.models.families import FAMILIES
from workers.models.interface import SINGLE, Collectives, Model
from workers.models.packed import Misfit, PackedDecoder, misfit
from workers.models.rope import Rope
from workers.models.wiring import wire
from workers.operators.interface import MakeOperators
from workers.operators.plain import plain
from workers.weights.loader import Form, Weights
from workers.weights.names import Layout, layout
from workers.weights.parts import Parts
from workers.weights.prepared import Pack, Prepared, prepare
from workers.weights.quantised.config import quantisation_of
from workers.weights.room import require_room
from workers.weights.safetensors_dir import SafetensorsDirectory
from workers.weights.sharding import shard_of
from workers.weights.source import TensorSource

Make = Callable[[], Mapping[str, Tensor]]
Keep = Callable[[Make], Mapping[str, Tensor]]


def _made(make: Make) -> Mapping[str, Tensor]:
    return make()


_ARCHITECTURE: Final = "architecture"


def load_weights(
    path: Path,
    *,
    dtype: torch.dtype,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[float], None] | None = None,
    keep: Keep = _made,
    kernels: Kernels | None = None,
    context: int = 0,
    lay_out: Pack = pack,
    form: Form | None = None,
) -> Prepared:
    """One rank's share of a model's weights, ready to compute with.

    Args:
        path: a GGUF file or a Hugging Face directory.
        dtype: that it is kept in and computed with.
        rank, ranks: this rank's place in its tensor-parallel group.
        progress: is told the fraction that is loaded; not where `keep` has the tensors already.
        keep: where ready tensors are found or made; in memory if not given.
        kernels: what computes; torch's operators where there are none.
        context: most tokens of a sequence that is served; 0 is what the model has.
        lay_out: matrices for what multiplies them, where the kernels do not.
        form: of matrices for a GPU's kernels; None for floats.

    Raises:
        Misfit: the kernels cannot compute this model.
        WeightsError: files that are missing, broken, or of a model that is not supported; or there is no room.
        TooManyRanks: more ranks than KV heads.
    """

    def make() -> Mapping[str, Tensor]:
        architecture = read_architecture(path)
        shard = shard_of(architecture, rank, ranks)
        if kernels is not None and (problem := misfit(architecture, shard)):
            raise Misfit(problem)
        source = _source(path)
        require_room(source, ranks, dtype, kernels, form)
        parts = Parts(source, architecture, shard, _layout(architecture), progress)
        made = _packed(parts, kernels, path) if kernels is not None else prepare(Weights(parts, dtype, form), lay_out)
        return {_ARCHITECTURE: _as_tensor(architecture), **made}

    tensors = keep(make)
    architecture = msgspec.json.decode(bytes(tensors[_ARCHITECTURE].tolist()), type=Architecture).serving(context)
    return Prepared(tensors, architecture, shard_of(architecture, rank, ranks), dtype, kernels)


def _packed(parts: Parts, kernels: Kernels, path: Path) -> Mapping[str, Tensor]:
    from workers.weights.packed import PackedWeights, prepare_packed  # not needed where weights are mapped

    if kernels.scheme == "int4" and parts.shard.ranks == 1 and isinstance(parts.source, SafetensorsDirectory):
        from workers.weights.calibrated import CalibratedWeights
        from workers.weights.calibration import sequences_for

        if (sequences := sequences_for(path, parts.architecture.vocabulary)) is not None:
            return CalibratedWeights(parts, kernels, sequences).tensors()
    return prepare_packed(PackedWeights(parts, kernels))


def contents() -> str:
    """Names what is kept beside the packed matrices: another name, other contents."""
    return " ".join(each.name for each in (*fields(Architecture), *fields(Experts), *fields(Rope)))


def _layout(architecture: Architecture) -> Layout:
    family = FAMILIES[architecture.name]
    return layout(architecture.format, family.names.get(architecture.format, {}), permuted=family.permuted)


def _source(path: Path) -> TensorSource:
    if path.is_dir():
        if (config := quantisation_of(path)) is None:
            return SafetensorsDirectory(path)
        from workers.weights.quantised.directory import QuantisedDirectory

        return QuantisedDirectory(path, config)
    from workers.weights.gguf_file import GgufFile  # slow to import, and not needed where weights are mapped

    return GgufFile(path)


def _as_tensor(architecture: Architecture) -> Tensor:
    """It is kept with the weights, so that whoever maps them reads no other file."""
    return torch.frombuffer(bytearray(msgspec.json.encode(architecture)), dtype=torch.uint8)


def build(
    weights: Prepared, collectives: Collectives, device: torch.device, make_operators: MakeOperators = plain
) -> Model:
    """Wire a model. Takes milliseconds: no weight is touched.

    Args:
        weights: on the device.
        collectives: the group of the rank that the weights are of.
        device: where.
        make_operators: what computes between the products, where the CPU kernels do not compute all of it.
    """
    if weights.kernels is not None:
        return PackedDecoder(weights.tensors, weights.architecture, weights.shard, collectives, weights.kernels)
    return wire(weights, collectives, device, make_operators)


def load_model(
    path: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    collectives: Collectives = SINGLE,
    keep: Keep = _made,
    kernels: Kernels | None = None,
    context: int = 0,
    make_operators: MakeOperators = plain,
    lay_out: Pack = pack,
    form: Form | None = None,
) -> Model:
    """`load_weights`, then `build`."""
    weights = load_weights(
        path, dtype=dtype, rank=rank, ranks=ranks, keep=keep, kernels=kernels, context=context, lay_out=lay_out,
        form=form,
    )  # fmt: skip
    return build(weights, collectives, device, make_operators)
