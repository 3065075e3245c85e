"""From a directory that PEFT wrote to an `Adapter`.

Nothing but `adapter_config.json` and `adapter_model.safetensors` is opened, each is read once, and what is computed
with is what was hashed.
"""

from __future__ import annotations

import mmap
import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from workers.lora.adapter import Adapter, Delta, lows
from workers.lora.config import BadConfig, PeftConfig, parse_config
from workers.lora.fit import HEAD_MODULE, Key, Module, modules
from workers.lora.tensors import BadTensors, Data, tensors_of
from workers.models.architecture import Architecture
from workers.weights.prepared import Prepared

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
DIGEST_BYTES: Final = 16
_MAX_CONFIG: Final = 1 << 20
_PREFIX: Final = "base_model.model."
_SUFFIXES: Final = (".lora_A.weight", ".lora_B.weight")
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PICKLED: Final = (b"\x80", b"PK\x03\x04")  # how pickles and torch's archives of them begin
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
# PEFT saves them beside an adapter of the head, as they are in the base.
_COPIES: Final = (f"{HEAD_MODULE}.base_layer.weight", f"{HEAD_MODULE}.weight", "model.embed_tokens.weight")


class BadAdapter(ValueError):
    """An adapter that cannot be served with this model. The message names the file, and what is wrong with it."""


class Bounds(NamedTuple):
    """What an adapter may be.

    Attributes:
        rank: the largest.
        bytes: of its weight file.
    """

    rank: int
    bytes: int


def read_adapter(path: Path, name: str, base: Prepared, bounds: Bounds) -> Adapter:
    """Read, check against the base, and cut for its rank.

    Args:
        name: for messages.
        base: the model that it is for.

    Raises:
        BadAdapter: it cannot be served.
    """
    if not path.is_dir():
        raise BadAdapter(f"{path} is no directory of an adapter")
    if pickles := sorted(file.name for file in path.glob("adapter_model*") if file.suffix in _PICKLES):
        raise BadAdapter(f"{path / pickles[0]} is a pickle, which can run anything: save it as {WEIGHTS} and remove it")
    config_bytes = bytes(_read(path / CONFIG, _MAX_CONFIG))
    try:
        config = parse_config(config_bytes, bounds.rank)
    except BadConfig as bad:
        raise BadAdapter(f"{path / CONFIG}: {bad}") from None
    data = _read(path / WEIGHTS, bounds.bytes)
    deltas = _deltas(path / WEIGHTS, data, config, base)
    digest = _digest(config_bytes, data)
    if isinstance(data, mmap.mmap):
        data.close()
    if base.kernels is not None:
        return Adapter(name, digest, lows=lows(deltas, base.architecture.layers))
    dtype = base.dtype
    cast = {key: Delta(delta.a.to(dtype), delta.b.to(dtype), delta.scale) for key, delta in deltas.items()}
    return Adapter(name, digest, cast)


def _read(path: Path, most: int) -> Data:
    """A regular file of bounded size.

    Into memory that the kernel fills as it is read, and that is given back by `close`: a bytearray of 300 MB is zeroed
    and freed with the interpreter held, 0.2 s in which no step is planned.
    """
    try:
        # Not to hang on a pipe that somebody calls an adapter.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadAdapter(f"{path}: {error.strerror}") from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise BadAdapter(f"{path} is no regular file")
    with open(descriptor, "rb") as file:
        if about.st_size > most:
            raise BadAdapter(f"{path} has {about.st_size} bytes; at most {most} are served ([model.lora] max_size)")
        data = mmap.mmap(-1, about.st_size) if about.st_size else bytearray()
        if file.readinto(data) != len(data):
            raise BadAdapter(f"{path} became shorter as it was read")
    return data


def _digest(*parts: bytes | Data) -> bytes:
    digest = blake2b(digest_size=DIGEST_BYTES, person=b"headrace adapter")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _deltas(path: Path, data: Data, config: PeftConfig, base: Prepared) -> dict[Key, Delta]:
    """What this rank adds, in float32."""
    tensors = _tensors(path, data)
    known = modules(base.architecture, base.shard)
    found: dict[Key, Delta] = {}
    for name in _modules_in(path, tensors, known, base.architecture):
        a, b = (_half(path, tensors, name, suffix) for suffix in _SUFFIXES)
        module, rank = known[name], config.rank(name)
        if a.shape != (rank, module.inputs) or b.shape != (module.outputs, rank):
            raise BadAdapter(
                f"{path}: {name}: A is {list(a.shape)} and B {list(b.shape)}; of rank {rank} this model has "
                f"{[rank, module.inputs]} and {[module.outputs, rank]}"
            )
        for key, rows, columns in module.pieces:
            # Copies: of what is read, nothing but these stays.
            mine = a[:, columns].to(torch.float32, copy=True), b[rows].to(torch.float32, copy=True)
            found[key] = Delta(*mine, config.scale(name))
    if not found:
        raise BadAdapter(f"{path}: there is no module in it")
    return found


def _tensors(path: Path, data: Data) -> dict[str, Tensor]:
    try:
        tensors = tensors_of(data)
    except BadTensors as error:
        pickled = " (it is a pickle)" if data[:8].startswith(_PICKLED) else ""
        raise BadAdapter(f"{path} cannot be read as safetensors{pickled}: {error}") from None
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _modules_in(path: Path, tensors: dict[str, Tensor], known: dict[str, Module], base: Architecture) -> list[str]:
    """Names of the modules that have matrices, every tensor being one of them."""
    found: set[str] = set()
    for name, tensor in tensors.items():
        module = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), "")
        if not module and name in _COPIES:
            if tensor.shape[:1] != (base.vocabulary,):
                raise BadAdapter(f"{path}: {name}: {list(tensor.shape)}: the base's vocabulary was changed for it")
            continue
        if ".lora_embedding_" in name or module.endswith("embed_tokens"):
            raise BadAdapter(f"{path}: {name}: adapters of the embedding are not served")
        if not module:
            raise BadAdapter(f"{path}: {name} is no matrix of a LoRA adapter")
        if ".experts." in module or module.endswith((".experts", ".gate", ".router")):
            raise BadAdapter(f"{path}: {module}: adapters of experts and of what chooses them are not served")
        if module not in known:
            raise BadAdapter(f"{path}: {module} is no module of this {base.name} that can be adapted")
        if tensor.dtype not in _FLOATS:
            raise BadAdapter(f"{path}: {name}: {tensor.dtype} is not served; float32, bfloat16 and float16 are")
        if not bool(torch.isfinite(tensor).all()):
            raise BadAdapter(f"{path}: {name}: there are numbers in it that are not finite")
        found.add(module)
    return sorted(found)


def _half(path: Path, tensors: dict[str, Tensor], module: str, suffix: str) -> Tensor:
    tensor = tensors.get(module + suffix)
    if tensor is None:
        raise BadAdapter(f"{path}: {module}{suffix} is missing")
    return tensor
