"""What an encoder's tensors are called in the files of each family. Names only.

`{n}` is the layer's number. A checkpoint saved from a model with a head has everything under the family's prefix.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Names(NamedTuple):
    """Stems of one family; `.weight` and `.bias` follow.

    Attributes:
        prefix: of the encoder in a checkpoint that has more than that.
        segments: of the segment embedding; empty where there is none.
        bias: of the relative attention bias; empty where there is none.
        dense, out: of a cross-encoder's head, outside of the prefix.
    """

    prefix: str
    layer: str
    query: str
    key: str
    value: str
    attention: str
    attention_norm: str
    up: str
    down: str
    norm: str
    segments: str
    bias: str
    dense: str
    out: str


_BERT: Final = Names(
    "bert.", "encoder.layer.{n}.", "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
    "embeddings.token_type_embeddings", "", "bert.pooler.dense", "classifier",
)  # fmt: skip
_ROBERTA: Final = _BERT._replace(prefix="roberta.", dense="classifier.dense", out="classifier.out_proj")

NAMES: Final = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _ROBERTA._replace(
        prefix="mpnet.", query="attention.attn.q", key="attention.attn.k", value="attention.attn.v",
        attention="attention.attn.o", attention_norm="attention.LayerNorm", segments="",
        bias="encoder.relative_attention_bias",
    ),
    "distilbert": Names(
        "distilbert.", "transformer.layer.{n}.", "attention.q_lin", "attention.k_lin", "attention.v_lin",
        "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm", "", "",
        "pre_classifier", "classifier",
    ),
}  # fmt: skip

# Checkpoints of before 2020 call a norm's weights so.
OLD_NORMS: Final = {"weight": "gamma", "bias": "beta"}
