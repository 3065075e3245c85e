"""What an encoder is, read from its files: `EncoderArchitecture`. No weights.

Whatever would make it compute something else than it was trained for is refused by name, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bus.encoders import BadEncoder, EncoderFacts, read_facts
from workers.weights.source import WeightsError

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len"]
Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
# sentence-transformers' flags and modes.
_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean", "mean": "mean", "pooling_mode_cls_token": "cls", "cls": "cls",
    "pooling_mode_max_tokens": "max", "max": "max", "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}  # fmt: skip


class EncoderArchitecture(msgspec.Struct, frozen=True, kw_only=True):
    """A bidirectional transformer with learned positions, layer norms after each block, and a plain MLP.

    Attributes:
        name: its family, one of `bus.encoders.FAMILIES`.
        kind: "embed" or "rerank".
        hidden, intermediate, heads: widths, and of attention.
        vocabulary: token ids are below it.
        context: most tokens of a row.
        first_position: row of the first token among the position embeddings.
        segments: rows of the segment embedding; 0 where the family has none.
        buckets: of MPNet's relative attention bias; 0 elsewhere.
        pooling, normalise: of an embedding.
        dimensions: of what comes out for a row.
        head: activation between the two products of a cross-encoder's head.
        sigmoid: whether its score is brought between 0 and 1.
    """

    name: str
    kind: Literal["embed", "rerank"]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    context: int
    first_position: int
    positions: int
    segments: int
    eps: float
    activation: Activation
    pooling: Pooling = "mean"
    normalise: bool = True
    dimensions: int = 0
    buckets: int = 0
    head: Activation = "tanh"
    sigmoid: bool = False

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        layer = 4 * self.hidden * (self.hidden + 1) + 4 * self.hidden
        layer += 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        tables = (self.vocabulary + self.positions + self.segments + 2) * self.hidden + self.buckets * self.heads
        head = self.hidden * (self.hidden + 1) + self.hidden + 1 if self.kind == "rerank" else 0
        return self.layers * layer + tables + head


class _Config(msgspec.Struct):
    """The keys of config.json that matter here, under BERT's names; defaults are transformers' own."""

    vocab_size: int
    max_position_embeddings: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 2
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    relative_attention_num_buckets: int = 32
    sbert_ce_default_activation_function: str | None = None
    sentence_transformers: dict[str, Any] | None = None
    num_labels: int | None = None
    id2label: dict[str, str] | None = None
    sinusoidal_pos_embds: bool = False


# DistilBERT's names for the same.
_DISTILBERT: Final = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size", "activation": "hidden_act",
}  # fmt: skip


def read_architecture(path: Path) -> EncoderArchitecture:
    """Of a checkpoint directory.

    Raises:
        WeightsError: the files are missing or broken, or the model is of a kind that is not supported.
    """
    try:
        facts = read_facts(path)
        raw = msgspec.json.decode((path / "config.json").read_bytes(), type=dict[str, Any])
        config = msgspec.convert({_DISTILBERT.get(key, key): value for key, value in raw.items()}, _Config)
    except (BadEncoder, msgspec.ValidationError) as error:
        raise WeightsError(path, f"{error}") from None
    if config.is_decoder:
        raise WeightsError(path, "is_decoder: an encoder that attends to the left only is not supported")
    if config.position_embedding_type != "absolute":
        raise WeightsError(path, f"position_embedding_type {config.position_embedding_type!r} (absolute is supported)")
    if config.hidden_act not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise WeightsError(path, f"activation {config.hidden_act!r} is not supported (these are: {known})")
    if min(config.hidden_size, config.num_attention_heads, config.num_hidden_layers, facts.max_tokens) < 1:
        raise WeightsError(path, "a size that is not positive")
    if config.hidden_size % config.num_attention_heads:
        raise WeightsError(path, f"{config.num_attention_heads} heads do not divide {config.hidden_size}")
    return EncoderArchitecture(
        name=facts.family,
        kind="rerank" if facts.kind == "rerank" else "embed",
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        context=facts.max_tokens,
        first_position=facts.first_position,
        positions=config.max_position_embeddings,
        segments=0 if facts.family in ("distilbert", "mpnet") else config.type_vocab_size,
        eps=1e-12 if facts.family == "distilbert" else config.layer_norm_eps,
        activation=_ACTIVATIONS[config.hidden_act],
        pooling=_pooling(facts) if facts.kind == "embed" else "cls",
        normalise=facts.normalise and facts.kind == "embed",
        dimensions=facts.dimensions,
        buckets=config.relative_attention_num_buckets if facts.family == "mpnet" else 0,
        head="relu" if facts.family == "distilbert" else "tanh",
        sigmoid=facts.kind == "rerank" and _sigmoid(path, config),
    )


def _pooling(facts: EncoderFacts) -> Pooling:
    if facts.pooling is None:
        return "mean"
    file = facts.pooling / "config.json"
    try:
        said = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise WeightsError(file, f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise WeightsError(file, str(error)) from None
    if (mode := said.get("pooling_mode")) is not None:
        modes = [str(mode)] if isinstance(mode, str) else [str(each) for each in mode]
    else:
        modes = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise WeightsError(file, f"pooling {', '.join(modes) or 'none'} is not supported (one of mean, cls, max is)")
    return _POOLINGS[modes[0]]


def _sigmoid(path: Path, config: _Config) -> bool:
    """What sentence-transformers does with a score: a sigmoid, unless the checkpoint says otherwise."""
    labels = config.num_labels if config.num_labels is not None else len(config.id2label or {}) or 2
    if labels != 1:
        raise WeightsError(path, f"a classifier of {labels} labels: a cross-encoder has one, its score")
    named = (config.sentence_transformers or {}).get("activation_fn") or config.sbert_ce_default_activation_function
    kind = str(named or "Sigmoid").rpartition(".")[2].removesuffix("()")
    if kind not in ("Sigmoid", "Identity"):
        raise WeightsError(path, f"activation_fn {named!r} of the score is not supported (Sigmoid and Identity are)")
    return kind == "Sigmoid"
