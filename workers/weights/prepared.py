"""A rank's weights as named tensors in the layout that they are computed with: what the store keeps.

`prepare` reads everything once, through the loader's rules, and lays it out. `Prepared` gives the parts out again under
the loader's names, whether the tensors were just made or lie in a mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from workers.weights.loader import Weight, Weights
from workers.weights.quantised.weight import PARTS, QuantisedWeight, of_tensors
from workers.weights.sharding import Shard

if TYPE_CHECKING:
    from workers.kernels.pack import Kernels
    from workers.models.architecture import Architecture

Pack = Callable[[Tensor], Tensor]
ROUNDED: Final = "rounded"  # a digest of matrices whose rounding depends on sums that processors order differently


def prepare(weights: Weights, pack: Pack) -> dict[str, Tensor]:
    """Every tensor that a decoder needs, by name.

    Args:
        weights: all of it is read.
        pack: from a matrix [outputs, inputs] to what `workers.layers.linear.Linear` multiplies with.

    Raises:
        WeightsError: a tensor is missing, misshapen, or has no place in the model.
    """
    embedding = weights.embedding()
    tensors = {
        "embedding": embedding,
        "head": pack(weights.head(embedding)),
        "final_norm": weights.final_norm(),
    }
    if (factors := weights.rope_factors()) is not None:
        tensors["rope_factors"] = factors
    for layer in range(weights.architecture.layers):
        tensors |= {f"{layer}.{name}": tensor for name, tensor in _layer(weights, layer, pack).items()}
    weights.finish()
    return tensors


def _layer(weights: Weights, layer: int, pack: Pack) -> dict[str, Tensor]:
    a = weights.architecture
    qkv, bias = weights.qkv(layer)
    tensors = {name: weights.norm(name, layer) for name in ("attention_norm", "mlp_norm")}
    if a.post_norms:
        tensors |= {name: weights.norm(name, layer) for name in ("post_attention_norm", "post_mlp_norm")}
    if a.qk_norm:
        tensors["q_norm"], tensors["k_norm"] = weights.qk_norms(layer)
    tensors |= _laid("qkv", qkv, pack)
    if bias is not None:
        tensors["qkv_bias"] = bias
    tensors |= _laid("attention_out", weights.attention_out(layer), pack)
    experts = a.experts_of(layer)
    if experts is None:
        return tensors | _laid("gate_up", weights.gate_up(layer), pack) | _laid("down", weights.down(layer), pack)
    tensors["router"] = weights.router(layer)
    for expert in range(experts.count):
        if (mine := weights.expert(layer, expert)) is not None:
            tensors |= _laid(f"{expert}.gate_up", mine[0], pack) | _laid(f"{expert}.down", mine[1], pack)
    return tensors


def _laid(name: str, weight: Weight, pack: Pack) -> dict[str, Tensor]:
    """A matrix under its name; a quantised one is several tensors, whose names begin with it."""
    if isinstance(weight, QuantisedWeight):
        return {f"{name}.{part}": tensor for part, tensor in weight.tensors().items()}
    return {name: pack(weight)}


class Prepared:
    """The parts of a decoder, read-only: they may lie in a file that other processes have mapped too.

    Args:
        tensors: of `prepare`, for the same architecture and shard.
        dtype: that torch computes with.
        kernels: what computes instead, on tensors of `workers.weights.packed`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        architecture: Architecture,
        shard: Shard,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self.architecture, self.shard, self.dtype, self.kernels = architecture, shard, dtype, kernels
        self.tensors = tensors

    def on(self, device: torch.device) -> Prepared:
        """The same in a device's memory. What lies in one place lies in one place there too; experts of a layer lie one
        behind the other (`stacked`)."""
        moved: dict[tuple[int, int], Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            at = _memory(tensor)
            if at not in moved:
                moved[at] = tensor.to(device, copy=True)
            return moved[at].view(tensor.shape)

        tensors: dict[str, Tensor] = {}
        for layer in range(self.architecture.layers):
            for part in ("gate_up", "down") if self.architecture.experts_of(layer) else ():
                for end in ("", *(f".{each}" for each in PARTS if each != "group")):
                    names = [f"{layer}.{expert}.{part}{end}" for expert in self.shard.experts]
                    if not names or names[0] not in self.tensors:
                        continue
                    first = self.tensors[names[0]]
                    # Filled one by one: all of a layer's experts twice might not fit.
                    room = torch.empty(len(names), *first.shape, dtype=first.dtype, device=device)
                    for at, name in enumerate(names):
                        tensors[name] = room[at].copy_(self.tensors[name])
        rest = {name: tensor for name, tensor in self.tensors.items() if name not in tensors}
        # The host reads what groups are of, and no kernel does.
        tensors |= {name: tensor if name.endswith(".group") else move(tensor) for name, tensor in rest.items()}
        return Prepared(tensors, self.architecture, self.shard, self.dtype, self.kernels)

    @property
    def bytes(self) -> int:
        """Of all tensors; those that lie in the same memory count once."""
        return sum(dict(map(_memory, self.tensors.values())).values())

    @property
    def bits(self) -> tuple[int, ...]:
        """Of a weight, in the matrices that the kernels multiply with; empty where torch does."""
        return tuple(sorted({int(tensor[0]) for name, tensor in self.tensors.items() if name.endswith(".form")}))

    @property
    def rounded(self) -> str:
        """Tells apart weights of the same file that another host may have rounded otherwise; empty where none can."""
        found = self.tensors.get(ROUNDED)
        return "" if found is None else bytes(found.tolist()).hex()

    @property
    def quantised(self) -> tuple[str, ...]:
        """What matrices of a GPU are, beside floats: see `QuantisedWeight.name`."""
        names = (name.removesuffix(".numbers") for name in self.tensors if name.endswith(".numbers"))
        found = (self._matrix(name) for name in names)
        return tuple(sorted({each.name for each in found if isinstance(each, QuantisedWeight)}))

    def embedding(self) -> Tensor:
        """[vocabulary of this rank, hidden]."""
        return self.tensors["embedding"]

    def head(self) -> Tensor:
        """Packed."""
        return self.tensors["head"]

    def final_norm(self) -> Tensor:
        """[hidden]."""
        return self.tensors["final_norm"]

    def rope_factors(self) -> Tensor | None:
        """[head_dim / 2] float32, of models whose file carries them."""
        return self.tensors.get("rope_factors")

    def norm(self, part: str, layer: int) -> Tensor:
        """[hidden], or [head_dim] of "q_norm" and "k_norm"; `part` as in `Parts.norm`."""
        return self.tensors[f"{layer}.{part}"]

    def qkv(self, layer: int) -> tuple[Weight, Tensor | None]:
        """Packed weight and, where the model has one, bias; outputs are q, k, v."""
        return self._matrix(f"{layer}.qkv"), self.tensors.get(f"{layer}.qkv_bias")

    def attention_out(self, layer: int) -> Weight:
        """Packed."""
        return self._matrix(f"{layer}.attention_out")

    def gate_up(self, layer: int) -> Weight:
        """Packed; outputs are gate, then up."""
        return self._matrix(f"{layer}.gate_up")

    def down(self, layer: int) -> Weight:
        """Packed."""
        return self._matrix(f"{layer}.down")

    def router(self, layer: int) -> Tensor:
        """[experts, hidden]."""
        return self.tensors[f"{layer}.router"]

    def expert(self, layer: int, expert: int) -> tuple[Weight, Weight]:
        """Packed; `gate_up` and `down` of an expert of this rank."""
        return self._matrix(f"{layer}.{expert}.gate_up"), self._matrix(f"{layer}.{expert}.down")

    def _matrix(self, name: str) -> Weight:
        if name in self.tensors:
            return self.tensors[name]
        return of_tensors({part: self.tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in self.tensors})


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Address and bytes."""
    if tensor.is_mkldnn:
        return torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    return tensor.data_ptr(), tensor.nbytes


def stacked_weight(weights: Sequence[Weight]) -> Weight:
    """`stacked`, of quantised ones each of their tensors."""
    plain = [weight for weight in weights if isinstance(weight, Tensor)]
    if plain:
        return stacked(plain)
    first, *_ = quantised = [weight for weight in weights if isinstance(weight, QuantisedWeight)]
    mins = [weight.mins for weight in quantised if weight.mins is not None]
    return QuantisedWeight(
        stacked([weight.numbers for weight in quantised]),
        stacked([weight.scales for weight in quantised]),
        first.group,
        stacked(mins) if mins else None,
    )


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one, [n, ...]; without a copy where they lie one behind the other."""
    first = tensors[0]
    step = first.numel() * first.element_size()
    if all(each.is_contiguous() and each.data_ptr() == first.data_ptr() + at * step for at, each in enumerate(tensors)):
        strides = (first.numel(), *first.stride())
        return first.as_strided((len(tensors), *first.shape), strides)
    return torch.stack(list(tensors))
