"""The operations of a decoder beside its matrix products, as fused as the fastest device has them.

| protocol     | between which products                                            |
|--------------|-------------------------------------------------------------------|
| `AddNorm`    | what a block brought and the next one: residual and norm          |
| `Attend`     | QKV and output: norms of heads, rotation, KV write, attention     |
| `Activate`   | gate and up, and down                                             |
| `Mixture`    | all products of the experts that tokens have chosen               |
| `Operators`  | all of it: made once a model, planned once a step                 |
| `Graphable`  | steps that a CUDA graph plays back                                |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from workers.attention.interface import HeadNorms
from workers.layers.linear import Product
from workers.models.architecture import Activation, Architecture
from workers.models.interface import Batch
from workers.weights.loader import Weight
from workers.weights.sharding import Shard

Layer = Callable[[Tensor], Tensor]
Activate = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor], Tensor]


class Angles(NamedTuple):
    """Of rotary positions.

    Attributes:
        frequencies: float32 [rotated / 2], radians a token; what is behind the first `rotated` numbers of a head stays.
        magnitude: multiplies what is rotated.
    """

    frequencies: Tensor
    magnitude: float = 1.0


class AddNorm(Protocol):
    """RMSNorm with the residual before it."""

    def __call__(self, x: Tensor | None, residual: Tensor) -> Tensor:
        """`norm(residual + scale * x)`; the sum is the new residual, in place. Without x, the norm of the residual.

        Args:
            x: [tokens, hidden], what a block brought.
            residual: [tokens, hidden], overwritten.
        """
        ...


class Experts(NamedTuple):
    """The experts of this rank, in order.

    Attributes:
        numbers: of all ranks' experts, those that are here.
        gate_up, down: of each, [2 width, hidden] and [hidden, width].
    """

    numbers: range
    gate_up: Sequence[Weight]
    down: Sequence[Weight]


class Mixture(Protocol):
    """What experts compute."""

    def __call__(self, x: Tensor, choices: Tensor) -> Tensor:
        """Of each token what each expert that it has chosen makes of it, and zeros for experts of other ranks.

        Args:
            x: [tokens, hidden].
            choices: int64 [tokens, chosen], numbers of experts.

        Returns:
            [tokens * chosen, hidden].
        """
        ...


class Operators(Protocol):
    """A rank's operations on one kind of device. Layers made of it share what `plan` prepares."""

    def linear(self, weight: Weight, bias: Tensor | None = None) -> Product:
        """`x @ weight.T + bias`: [tokens, inputs] to [tokens, outputs]."""
        ...

    def norm(self, weight: Tensor, eps: float) -> Layer:
        """RMSNorm of [tokens, hidden], without a residual. Of the weight's dtype see `workers.layers.norm.RmsNorm`."""
        ...

    def add_norm(self, weight: Tensor, eps: float, scale: float = 1.0) -> AddNorm:
        """See `AddNorm`."""
        ...

    def activate(self, activation: Activation) -> Activate:
        """`activation(gate) * up`: [tokens, 2 n], gate first, to [tokens, n]; the argument may be overwritten."""
        ...

    def mixture(self, experts: Experts, activation: Activation) -> Mixture:
        """See `Mixture`."""
        ...

    def attend(self, layer: int, angles: Angles, norms: HeadNorms | None) -> Attend:
        """Of one layer: [tokens, heads + 2 kv_heads, head_dim], queries first and overwritten, to [tokens, heads,
        head_dim]. K and V are written into the step's pages."""
        ...

    def plan(self, batch: Batch, pages: Tensor) -> None:
        """Prepare a step. See `workers.models.interface.Model.forward`."""
        ...


class MakeOperators(Protocol):
    """Makes the operations for one rank's share of a model."""

    def __call__(self, architecture: Architecture, shard: Shard) -> Operators: ...


class Graphable(Operators, Protocol):
    """Operations that a CUDA graph can play back. See `workers.attention.interface.CapturableAttention`."""

    def capture(self, rows: int, positions: Tensor, pages: Tensor) -> None:
        """Prepare a step of `rows` rows of one token each, for a graph that is being recorded. positions: int64 [rows],
        read whenever the graph is played."""
        ...

    def replay(self, rows: int, batch: Batch) -> bool:
        """Fill the buffers of the graph of `rows` rows, before it is played. False where it cannot serve the step."""
        ...
