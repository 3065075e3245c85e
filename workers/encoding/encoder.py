"""The forward pass of an encoder, over a flat list of tokens: no row is filled up but for attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.encoding.attention import Attention, distance_buckets
from workers.encoding.pooling import normalise, pool
from workers.encoding.weights import EncoderWeights
from workers.layers.linear import Linear

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


class _Layer:
    """Attention and MLP of one layer; each is added to what came in, and normed after that."""

    def __init__(self, weights: EncoderWeights, n: int) -> None:
        tensors = weights.tensors
        self._hidden, self._eps = weights.architecture.hidden, weights.architecture.eps
        self._activation = _ACTIVATIONS[weights.architecture.activation]
        self._qkv, self._attention, self._up, self._down = (
            Linear(tensors[f"{n}.{name}"], tensors[f"{n}.{name}.bias"]) for name in ("qkv", "attention", "up", "down")
        )
        self._attention_norm, self._norm = tensors[f"{n}.attention_norm"], tensors[f"{n}.norm"]

    def __call__(self, x: Tensor, attention: Attention) -> Tensor:
        x = self._normed(self._attention(attention(self._qkv(x))) + x, self._attention_norm)
        return self._normed(self._down(self._activation(self._up(x))) + x, self._norm)

    def _normed(self, x: Tensor, norm: Tensor) -> Tensor:
        return F.layer_norm(x, (self._hidden,), norm[0], norm[1], self._eps)


class Encoder:
    """An encoder that is ready to run. Takes milliseconds to make: no weight is touched."""

    def __init__(self, weights: EncoderWeights) -> None:
        self.architecture = a = weights.architecture
        self._tensors = weights.tensors
        self._layers = [_Layer(weights, n) for n in range(a.layers)]

    def __call__(self, ids: Tensor, segments: Tensor, lengths: Sequence[int]) -> Tensor:
        """What is wanted of each row: its embedding, or its score.

        Args:
            ids: [tokens] int64, rows one after the other.
            segments: [tokens] int64, 0 or 1; which text each token is of.
            lengths: of the rows, in descending order; each at most the context.

        Returns:
            float32 [rows, dimensions].
        """
        a = self.architecture
        counts = torch.tensor(lengths, dtype=torch.int64)
        hidden = self.hidden(ids, segments, lengths)
        if a.kind == "rerank":
            return self._score(hidden[counts.cumsum(0) - counts])
        vectors = pool(hidden, counts, a.pooling)
        return normalise(vectors) if a.normalise else vectors

    def hidden(self, ids: Tensor, segments: Tensor, lengths: Sequence[int]) -> Tensor:
        """[tokens, hidden] after the last layer; arguments as of the call."""
        a, tensors = self.architecture, self._tensors
        places = torch.cat([torch.arange(a.first_position, a.first_position + length) for length in lengths])
        x = F.embedding(ids, tensors["words"]) + F.embedding(places, tensors["positions"])
        if a.segments:
            x = x + F.embedding(segments.clamp(max=a.segments - 1), tensors["segments"])
        x = F.layer_norm(x, (a.hidden,), tensors["norm"][0], tensors["norm"][1], a.eps)
        attention = Attention(lengths, a.heads, self._bias(lengths[0]) if a.buckets else None)
        for layer in self._layers:
            x = layer(x, attention)
        return x

    def _bias(self, longest: int) -> Tensor:
        buckets = distance_buckets(longest, self.architecture.buckets)
        return F.embedding(buckets, self._tensors["bias"]).permute(2, 0, 1)

    def _score(self, first: Tensor) -> Tensor:
        """[rows, hidden] of the first tokens to float32 [rows, 1]."""
        tensors = self._tensors
        inner = _ACTIVATIONS[self.architecture.head](F.linear(first, tensors["head.dense"], tensors["head.dense.bias"]))
        score = F.linear(inner, tensors["head.out"], tensors["head.out.bias"]).float()
        return score.sigmoid() if self.architecture.sigmoid else score
