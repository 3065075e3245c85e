"""The metadata of a GGUF file, typed, and what is the same in all families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workers.models.architecture import Architecture, Experts
from workers.models.rope import Rope
from workers.weights.source import WeightsError

if TYPE_CHECKING:
    from workers.weights.gguf_file import GgufFile


class Metadata:
    """Metadata of a GGUF file by key and type. Keys that begin with a dot are of the file's architecture.

    Attributes:
        kind: the architecture, by llama.cpp's name.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file, self.path, self.names = file, file.path, file.names()
        self.kind = self.text("general.architecture")

    def integer(self, key: str, default: int | None = None) -> int:
        """Raises WeightsError: missing and without a default, or of another type. So do the others."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise WeightsError(self.path, f"metadata {self._full(key)}: expected an integer, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A float, or an integer as one."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WeightsError(self.path, f"metadata {self._full(key)}: expected a number, got {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise WeightsError(self.path, f"metadata {self._full(key)}: expected true or false, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise WeightsError(self.path, f"metadata {self._full(key)}: expected a string, got {value!r}")
        return value

    def token(self, key: str) -> int | None:
        """An integer that may be missing."""
        return self.integer(key) if key in self.file.metadata else None

    def _full(self, key: str) -> str:
        return f"{self.kind}{key}" if key.startswith(".") else key

    def _get(self, key: str, default: object) -> object:
        from workers.weights.gguf_header import Strings

        value = self.file.metadata.get(self._full(key), default)
        if value is None or isinstance(value, Strings):
            raise WeightsError(self.path, f"metadata {self._full(key)} is missing or of the wrong type")
        return value


def gguf_architecture(metadata: Metadata, name: str) -> Architecture:
    """What a family called `name` has in common with llama.

    Raises:
        WeightsError: metadata is missing, of another type, or says what is not supported.
    """
    hidden, heads = metadata.integer(".embedding_length"), metadata.integer(".attention.head_count")
    head_dim = metadata.integer(".attention.key_length", hidden // max(heads, 1))
    stops = (metadata.token(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
    layers = metadata.integer(".block_count")
    return Architecture(
        name=name,
        format="gguf",
        layers=layers,
        hidden=hidden,
        intermediate=metadata.integer(".feed_forward_length"),
        heads=heads,
        kv_heads=metadata.integer(".attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=metadata.file.shape("token_embd.weight")[0],
        context=metadata.integer(".context_length"),
        rms_eps=metadata.number(".attention.layer_norm_rms_epsilon"),
        rope=_rope(metadata, head_dim),
        tied="output.weight" not in metadata.names,
        qkv_bias="blk.0.attn_q.bias" in metadata.names,
        experts=_experts(metadata, layers),
        stop_ids=tuple(dict.fromkeys(token for token in stops if token is not None)),
        bos_id=metadata.token("tokenizer.ggml.bos_token_id"),
    )


def _experts(metadata: Metadata, layers: int) -> Experts | None:
    if not (count := metadata.integer(".expert_count", 0)):
        return None
    return Experts(
        count=count,
        chosen=metadata.integer(".expert_used_count"),
        intermediate=metadata.integer(".expert_feed_forward_length", metadata.integer(".feed_forward_length")),
        normalised=metadata.flag(".expert_weights_norm", default=True),
        dense=tuple(layer for layer in range(layers) if f"blk.{layer}.ffn_gate_inp.weight" not in metadata.names),
    )


def _rope(metadata: Metadata, head_dim: int) -> Rope:
    theta = metadata.number(".rope.freq_base", 10_000.0)
    rotated = metadata.integer(".rope.dimension_count", head_dim)
    rotated = 0 if rotated == head_dim else rotated
    if "rope_factors_long.weight" in metadata.names:
        short, long = (_numbers(metadata, f"rope_factors_{length}.weight") for length in ("short", "long"))
        context = metadata.integer(".context_length")
        return Rope(
            theta,
            "longrope",
            original_context=metadata.integer(".rope.scaling.original_context_length", context),
            rotated=rotated,
            short=short,
            long=long,
            context=context,
            magnitude=metadata.number(".rope.scaling.attn_factor", 1.0),
        )
    if "rope_freqs.weight" in metadata.names:
        # llama.cpp writes Llama 3's scaling as the factors that come out of it.
        return Rope(theta, "file", rotated=rotated)
    kind = metadata.text(".rope.scaling.type", "none")
    if kind == "none":
        return Rope(theta, rotated=rotated)
    if kind == "linear":
        return Rope(theta, "linear", factor=metadata.number(".rope.scaling.factor"), rotated=rotated)
    raise WeightsError(metadata.path, f"rope scaling {kind!r} is not supported (none, linear and llama3 are)")


def _numbers(metadata: Metadata, tensor: str) -> tuple[float, ...]:
    return tuple(metadata.file.load(tensor, torch.float32).tolist())
