"""What a model is, read from its files: `Architecture`. No weights.

GGUF metadata and Hugging Face's config.json say the same things under different names. Whatever would make the model
compute something else than it was trained for is refused here by name, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch

from bus.messages.steps import KvShape
from workers.models.config_hf import HfConfig, read_hf_config
from workers.models.rope import Rope
from workers.weights.source import WeightsError

if TYPE_CHECKING:
    from workers.weights.gguf_file import GgufFile

Format = Literal["gguf", "safetensors"]
SUPPORTED: Final = ("llama", "qwen2")
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder-only transformer with grouped-query attention, rotary positions, RMS norms and a gated MLP.

    Attributes:
        name: its family, one of `SUPPORTED`.
        format: of the files it was read from.
        hidden, intermediate: widths of the residual stream and of the MLP.
        heads, kv_heads, head_dim: of attention; `heads` is a multiple of `kv_heads`.
        vocabulary: rows of the embedding, so every token id is below it.
        context: most tokens of a sequence.
        tied: the output head is the embedding.
        stop_ids: tokens that end a sequence, in the order the files declare them.
        bos_id: the token that begins one, where the files name it.
    """

    name: str
    format: Format
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rms_eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool
    stop_ids: tuple[int, ...] = field(default=())
    bos_id: int | None = None

    @property
    def parameters(self) -> int:
        """Of the whole model; an embedding that is the head as well counts once."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        layer = attention + bias + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden


def read_architecture(path: Path) -> Architecture:
    """Of a GGUF file or a Hugging Face directory.

    Raises:
        WeightsError: the files are missing or broken, or the model is of a kind that is not supported.
    """
    if path.is_dir():
        return _from_hf(path, read_hf_config(path))
    from workers.weights.gguf_file import GgufFile  # slow to import, and not needed where weights are mapped

    return gguf_architecture(GgufFile(path))


def kv_shape(architecture: Architecture, page_tokens: int, dtype: torch.dtype) -> KvShape:
    """The shape of a page, for all ranks together."""
    return KvShape(
        layers=architecture.layers,
        kv_heads=architecture.kv_heads,
        page_tokens=page_tokens,
        head_dim=architecture.head_dim,
        dtype=_DTYPE_NAMES[dtype],
    )


def gguf_architecture(file: GgufFile) -> Architecture:
    """Like `read_architecture`, of an open GGUF file."""
    metadata = _Metadata(file)
    name = metadata.text("general.architecture")
    _supported(file.path, name)
    names = file.names()
    hidden, heads = metadata.integer(f"{name}.embedding_length"), metadata.integer(f"{name}.attention.head_count")
    head_dim = metadata.integer(f"{name}.attention.key_length", hidden // max(heads, 1))
    rotated = metadata.integer(f"{name}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise WeightsError(file.path, f"rope over {rotated} of {head_dim} dimensions of a head is not supported")
    stops = (metadata.token(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
    return _checked(
        file.path,
        Architecture(
            name=name,
            format="gguf",
            layers=metadata.integer(f"{name}.block_count"),
            hidden=hidden,
            intermediate=metadata.integer(f"{name}.feed_forward_length"),
            heads=heads,
            kv_heads=metadata.integer(f"{name}.attention.head_count_kv", heads),
            head_dim=head_dim,
            vocabulary=file.shape("token_embd.weight")[0],
            context=metadata.integer(f"{name}.context_length"),
            rms_eps=metadata.number(f"{name}.attention.layer_norm_rms_epsilon"),
            rope=_gguf_rope(metadata, name),
            tied="output.weight" not in names,
            qkv_bias="blk.0.attn_q.bias" in names,
            stop_ids=tuple(dict.fromkeys(token for token in stops if token is not None)),
            bos_id=metadata.token("tokenizer.ggml.bos_token_id"),
        ),
    )


def _gguf_rope(metadata: _Metadata, name: str) -> Rope:
    theta = metadata.number(f"{name}.rope.freq_base", 10_000.0)
    kind = metadata.text(f"{name}.rope.scaling.type", "none")
    if "rope_freqs.weight" in metadata.file.names():
        # llama.cpp writes Llama 3's scaling as the factors that come out of it.
        return Rope(theta, "file")
    if kind == "none":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", factor=metadata.number(f"{name}.rope.scaling.factor"))
    raise WeightsError(metadata.file.path, f"rope scaling {kind!r} is not supported (none, linear and llama3 are)")


def _from_hf(path: Path, config: HfConfig) -> Architecture:
    _supported(path, config.model_type)
    heads = config.num_attention_heads
    if config.hidden_act != "silu":
        raise WeightsError(path, f"activation {config.hidden_act!r} is not supported (silu is)")
    if config.use_sliding_window and config.max_window_layers < config.num_hidden_layers:
        raise WeightsError(path, "sliding-window attention is not supported")
    if config.attention_bias or config.mlp_bias:
        raise WeightsError(path, "biases of attention_bias and mlp_bias are not supported")
    return _checked(
        path,
        Architecture(
            name=config.model_type,
            format="safetensors",
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=heads if config.num_key_value_heads is None else config.num_key_value_heads,
            head_dim=config.head_dim or config.hidden_size // max(heads, 1),
            vocabulary=config.vocab_size,
            context=config.max_position_embeddings,
            rms_eps=config.rms_norm_eps,
            rope=config.rope(path),
            tied=config.tie_word_embeddings,
            qkv_bias=config.model_type == "qwen2",
            stop_ids=config.stop_ids,
            bos_id=config.bos_token_id,
        ),
    )


def _supported(path: Path, name: str) -> None:
    if name not in SUPPORTED:
        raise WeightsError(path, f"architecture {name!r} is not supported ({', '.join(SUPPORTED)} are)")


def _checked(path: Path, architecture: Architecture) -> Architecture:
    a = architecture
    sizes = (a.layers, a.hidden, a.intermediate, a.heads, a.kv_heads, a.head_dim, a.vocabulary, a.context)
    if min(sizes) < 1:
        raise WeightsError(path, f"a size that is not positive: {a}")
    if a.heads % a.kv_heads or a.head_dim % 2:
        raise WeightsError(path, f"{a.heads} heads of {a.head_dim} over {a.kv_heads} KV heads do not fit each other")
    return a


class _Metadata:
    """Metadata of a GGUF file by key and type."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise WeightsError(self.file.path, f"metadata {key}: expected an integer, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WeightsError(self.file.path, f"metadata {key}: expected a number, got {value!r}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise WeightsError(self.file.path, f"metadata {key}: expected a string, got {value!r}")
        return value

    def token(self, key: str) -> int | None:
        return self.integer(key) if key in self.file.metadata else None

    def _get(self, key: str, default: object) -> object:
        from workers.weights.gguf_header import Strings

        value = self.file.metadata.get(key, default)
        if value is None or isinstance(value, Strings):
            raise WeightsError(self.file.path, f"metadata {key} is missing or of the wrong type")
        return value
