"""An encoder's tensors, ready to compute with. Query, key and value are one matrix.

| tensor                                  | shape                                          |
|-----------------------------------------|------------------------------------------------|
| `words`, `positions`, `segments`        | [rows, hidden]                                 |
| `norm`, `n.attention_norm`, `n.norm`    | [2, hidden], weight and bias                   |
| `n.qkv`, `n.attention`, `n.up`, `n.down`| [outputs, inputs], as `workers.layers.linear` lays it out |
| `bias`                                  | [buckets, heads]                               |
| `head.dense`, `head.out`                | [outputs, inputs], plain                       |

The bias of a product is named `….bias`. Layer norms and biases are in the dtype of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor

from workers.encoding.architecture import EncoderArchitecture, read_architecture
from workers.encoding.names import NAMES, OLD_NORMS
from workers.layers.linear import pack
from workers.weights.room import require_room
from workers.weights.safetensors_dir import SafetensorsDirectory
from workers.weights.source import WeightsError

Make = Callable[[], Mapping[str, Tensor]]
Keep = Callable[[Make], Mapping[str, Tensor]]

LAYOUT: Final = "encoder 1"
_ARCHITECTURE: Final = "architecture"


class EncoderWeights(msgspec.Struct, frozen=True):
    """What `Encoder` computes with."""

    tensors: Mapping[str, Tensor]
    architecture: EncoderArchitecture
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for name, tensor in self.tensors.items() if name != _ARCHITECTURE)


def load_weights(
    path: Path, dtype: torch.dtype, keep: Keep = lambda make: make(), progress: Callable[[float], None] = lambda _: None
) -> EncoderWeights:
    """Of a checkpoint directory.

    Args:
        keep: where ready tensors are found or made.
        progress: is told the fraction that is loaded; not where `keep` has the tensors already.

    Raises:
        WeightsError: files that are missing, broken, or of a model that is not supported; or there is no room.
    """

    def make() -> Mapping[str, Tensor]:
        architecture = read_architecture(path)
        source = SafetensorsDirectory(path)
        require_room(source, 1, dtype, None)
        described = torch.frombuffer(bytearray(msgspec.json.encode(architecture)), dtype=torch.uint8)
        return {_ARCHITECTURE: described, **_Reading(source, architecture, dtype).all(progress)}

    tensors = keep(make)
    architecture = msgspec.json.decode(bytes(tensors[_ARCHITECTURE].tolist()), type=EncoderArchitecture)
    return EncoderWeights(tensors, architecture, dtype)


class _Reading:
    """One checkpoint while it is read."""

    def __init__(self, source: SafetensorsDirectory, architecture: EncoderArchitecture, dtype: torch.dtype) -> None:
        self._source, self._architecture, self._dtype = source, architecture, dtype
        self._names = NAMES[architecture.name]
        known = source.names()
        self._known = known
        self._prefix = self._names.prefix if any(name.startswith(self._names.prefix) for name in known) else ""

    def all(self, progress: Callable[[float], None]) -> dict[str, Tensor]:
        a, names = self._architecture, self._names
        found = {
            "words": self._table("embeddings.word_embeddings", a.vocabulary),
            "positions": self._table("embeddings.position_embeddings", a.positions),
            "norm": self._norm("embeddings.LayerNorm"),
        }
        if a.segments:
            found["segments"] = self._table(names.segments, a.segments)
        if a.buckets:
            found["bias"] = self._get(f"{self._prefix}{names.bias}.weight", (a.buckets, a.heads))
        for n in range(a.layers):
            found |= {f"{n}.{name}": tensor for name, tensor in self._layer(names.layer.format(n=n)).items()}
            progress((n + 1) / a.layers)
        if a.kind == "rerank":
            found["head.dense"], found["head.dense.bias"] = self._product(names.dense, a.hidden, a.hidden)
            found["head.out"], found["head.out.bias"] = self._product(names.out, 1, a.hidden)
        return found

    def _layer(self, at: str) -> dict[str, Tensor]:
        names, hidden, width = self._names, self._architecture.hidden, self._architecture.intermediate
        at = self._prefix + at
        parts = [self._product(at + part, hidden, hidden) for part in (names.query, names.key, names.value)]
        found = {
            "qkv": pack(torch.cat([weight for weight, _ in parts])),
            "qkv.bias": torch.cat([bias for _, bias in parts]),
            "attention_norm": self._norm(at[len(self._prefix) :] + names.attention_norm),
            "norm": self._norm(at[len(self._prefix) :] + names.norm),
        }
        for name, stem, outputs, inputs in (
            ("attention", names.attention, hidden, hidden),
            ("up", names.up, width, hidden),
            ("down", names.down, hidden, width),
        ):
            weight, found[f"{name}.bias"] = self._product(at + stem, outputs, inputs)
            found[name] = pack(weight)
        return found

    def _table(self, stem: str, rows: int) -> Tensor:
        return self._get(f"{self._prefix}{stem}.weight", (rows, self._architecture.hidden))

    def _product(self, stem: str, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        return self._get(f"{stem}.weight", (outputs, inputs)), self._get(f"{stem}.bias", (outputs,))

    def _norm(self, stem: str) -> Tensor:
        stem = self._prefix + stem
        parts = []
        for part, old in OLD_NORMS.items():
            name = f"{stem}.{part}"
            name = f"{stem}.{old}" if name not in self._known and f"{stem}.{old}" in self._known else name
            parts.append(self._get(name, (self._architecture.hidden,)))
        return torch.stack(parts)

    def _get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = self._source.shape(name)
        if found != shape:
            raise WeightsError(self._source.path, f"has shape {list(found)}, {list(shape)} was expected", name)
        return self._source.load(name, self._dtype)
