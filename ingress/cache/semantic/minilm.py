"""A BERT encoder in torch, as `prepare` and the benchmarks need it: a directory of safetensors in, vectors out.

Serving encoders is the workers' job. This one runs in programs of their own, never in an ingress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F


class Encoder:
    """A sentence encoder of BERT's architecture with mean pooling, in float32.

    Args:
        directory: `config.json`, `model.safetensors`, `tokenizer.json`.
    """

    def __init__(self, directory: Path) -> None:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        if config.get("model_type") != "bert":
            raise ValueError(f"{directory} holds a {config.get('model_type')!r} model; expected bert")
        self._heads, self._layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        self._epsilon = float(config["layer_norm_eps"])
        self._weights = {
            name.removeprefix("bert."): w for name, w in load_file(directory / "model.safetensors").items()
        }
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()
        self.vocabulary = int(config["vocab_size"])
        self.digest = hashlib.blake2b((directory / "model.safetensors").read_bytes(), digest_size=16).hexdigest()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch: int = 64) -> npt.NDArray[np.float32]:
        """One vector of length 1 for each text. [texts, dimensions]"""
        rows: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(texts), batch):
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts[start : start + batch]))]
            rows.append(self.embed_ids(ids))
        return np.concatenate(rows)

    @torch.inference_mode()
    def embed_ids(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """The same of token ids, special tokens included."""
        width = max(map(len, ids))
        tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], dtype=torch.bool)
        hidden = self._forward(tokens, mask)
        weights = mask[..., None].float()
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return F.normalize(pooled, dim=1).numpy()

    def _forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        w = self._weights
        hidden = (
            w["embeddings.word_embeddings.weight"][tokens]
            + w["embeddings.position_embeddings.weight"][: tokens.shape[1]]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        for layer in range(self._layers):
            at = f"encoder.layer.{layer}."
            q, k, v = (
                self._split(self._linear(hidden, f"{at}attention.self.{name}")) for name in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
            mixed = mixed.transpose(1, 2).reshape(hidden.shape)
            hidden = self._norm(
                self._linear(mixed, f"{at}attention.output.dense") + hidden, f"{at}attention.output.LayerNorm"
            )
            inner = F.gelu(self._linear(hidden, f"{at}intermediate.dense"))
            hidden = self._norm(self._linear(inner, f"{at}output.dense") + hidden, f"{at}output.LayerNorm")
        return hidden

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self._weights[f"{name}.bias"], self._epsilon)
