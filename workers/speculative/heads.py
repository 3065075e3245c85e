"""Checkpoints of heads that draft from a model's own hidden states: one block, fed with where the model is.

| layout  | published with                                 | computes                                                 |
|---------|------------------------------------------------|----------------------------------------------------------|
| "eagle" | EAGLE (https://arxiv.org/abs/2401.15077)       | `block(fc([embedding, hidden]))`, no norm before         |
|         |                                                | attention                                                |
| "mtp"   | MiMo (https://arxiv.org/abs/2505.07608), after | `norm(block(proj([norm(hidden), norm(embedding)])))`     |
|         | DeepSeek-V3 (https://arxiv.org/abs/2412.19437) |                                                          |

`hidden` is the model's after its last norm, at position t; the embedding is of the token at t + 1; what comes out
stands for `hidden` at t + 1, and the model's own output head makes logits of it. A directory has `config.json`, as the
model's own, and `model.safetensors`; which layout it is, its tensors say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.paged import PagedAttention
from workers.layers.attention import SelfAttention
from workers.layers.linear import Linear
from workers.layers.mlp import GatedMlp
from workers.layers.norm import RmsNorm
from workers.models.architecture import Architecture
from workers.models.config import read_architecture
from workers.models.decoder import Block
from workers.models.interface import Batch
from workers.models.rope import inverse_frequencies
from workers.operators.interface import AddNorm, Angles
from workers.operators.plain import PlainOperators
from workers.weights.safetensors_dir import SafetensorsDirectory

# The prefix of a layout's tensors, and one that no other layout has.
_LAYOUTS: Final = {"eagle": ("", "fc.weight"), "mtp": ("model.mtp_layers.0.", "model.mtp_layers.0.input_proj.weight")}


class UnusableHead(ValueError):
    """A head that cannot draft for this model. The message says why."""


@dataclass(frozen=True)
class Head:
    """A head, ready to run, in float32.

    Attributes:
        architecture: of one layer.
    """

    architecture: Architecture
    embedding: Tensor
    join: Callable[[Tensor, Tensor], Tensor]
    block: Block
    norm: AddNorm
    operators: PlainOperators

    @torch.inference_mode()
    def forward(self, hidden: Tensor, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        """What stands for the next hidden states.

        Args:
            hidden: [tokens, hidden], of the model or of this head.
            ids: [tokens] int64, the token after each.
            batch: `positions` are those of `hidden`.
            pages: of one layer, as `workers.models.interface.Model.forward` has them.
        """
        self.operators.plan(batch, pages)
        residual = self.join(F.embedding(ids, self.embedding), hidden.float())
        return self.norm(self.block(None, residual), residual)


def load_head(path: Path, model: Architecture) -> Head:
    """Read a head for a model.

    Raises:
        UnusableHead: it is none, or for another model.
        WeightsError, OSError: the files cannot be read.
    """
    source, a = SafetensorsDirectory(path), read_architecture(path)
    layout = next((layout for layout, (_, mark) in _LAYOUTS.items() if mark in source.names()), None)
    if layout is None:
        marks = " or ".join(mark for _, mark in _LAYOUTS.values())
        raise UnusableHead(f"{path.name} is no head that is known: there is no {marks}")
    if (a.hidden, a.vocabulary) != (model.hidden, model.vocabulary):
        raise UnusableHead(
            f"the head {path.name} is for another model: {a.hidden} wide with {a.vocabulary} tokens, and not "
            f"{model.hidden} with {model.vocabulary}"
        )
    return _Reader(source, a, _LAYOUTS[layout][0]).head(eagle=layout == "eagle")


class _Reader:
    """Makes layers of tensors."""

    def __init__(self, source: SafetensorsDirectory, architecture: Architecture, prefix: str) -> None:
        self._source, self._a, self._prefix = source, architecture, prefix

    def head(self, *, eagle: bool) -> Head:
        a = self._a
        operators = PlainOperators(PagedAttention(range(a.kv_heads), a.heads // a.kv_heads), a.kv_heads)
        angles = Angles(inverse_frequencies(a.rope, a.head_dim), a.rope.magnitude)
        at = "layers.0." if eagle else ""
        attention = SelfAttention(
            Linear(*self._joined(at + "self_attn.", ("q_proj", "k_proj", "v_proj"))),
            Linear(self._tensor(at + "self_attn.o_proj.weight")),
            operators.attend(0, angles, None),
            head_dim=a.head_dim,
        )
        gate_up, _ = self._joined(at + "mlp.", ("gate_proj", "up_proj"))
        down = Linear(self._tensor(at + "mlp.down_proj.weight"))

        def norm(name: str) -> AddNorm:
            return operators.add_norm(self._tensor(f"{name}.weight"), a.rms_eps)

        block = Block(
            attention_norm=_sum if eagle else norm("input_layernorm"),
            attention=attention,
            mlp_norm=norm(at + "post_attention_layernorm"),
            mlp=GatedMlp(Linear(gate_up), down, operators.activate(a.activation)),
        )
        embedding = "embed_tokens.weight" if eagle else "model.embed_tokens.weight"
        return Head(
            architecture=a,
            embedding=self._source.load(embedding, torch.float32),
            join=self._eagle() if eagle else self._mtp(),
            block=block,
            norm=_sum if eagle else norm("final_layernorm"),
            operators=operators,
        )

    def _eagle(self) -> Callable[[Tensor, Tensor], Tensor]:
        fc = Linear(self._tensor("fc.weight"), self._bias("fc.bias"))
        return lambda embedded, hidden: fc(torch.cat((embedded, hidden), -1))

    def _mtp(self) -> Callable[[Tensor, Tensor], Tensor]:
        project = Linear(self._tensor("input_proj.weight"))
        of_token, of_hidden = self._norm("token_layernorm"), self._norm("hidden_layernorm")
        return lambda embedded, hidden: project(torch.cat((of_hidden(hidden), of_token(embedded)), -1))

    def _joined(self, at: str, parts: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
        """Weights of several products of the same inputs as one, and their biases."""
        biases = [bias for part in parts if (bias := self._bias(f"{at}{part}.bias")) is not None]
        return torch.cat([self._tensor(f"{at}{part}.weight") for part in parts]), torch.cat(biases) if biases else None

    def _tensor(self, name: str) -> Tensor:
        return self._source.load(self._prefix + name, torch.float32)

    def _bias(self, name: str) -> Tensor | None:
        return self._tensor(name) if self._prefix + name in self._source.names() else None

    def _norm(self, name: str) -> RmsNorm:
        return RmsNorm(self._tensor(name + ".weight"), self._a.rms_eps)


def _sum(x: Tensor | None, residual: Tensor) -> Tensor:
    """Where a layout has no norm."""
    return residual if x is None else residual.add_(x)
