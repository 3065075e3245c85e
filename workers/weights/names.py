"""What each format calls the tensors of a decoder. `{}` is the layer, `{expert}` an expert.

A family that calls some of them otherwise says so in its declaration (`workers.models.families`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "gguf": {
        "embedding": "token_embd.weight",
        "final_norm": "output_norm.weight",
        "head": "output.weight",
        "attention_norm": "blk.{}.attn_norm.weight",
        "q": "blk.{}.attn_q",
        "k": "blk.{}.attn_k",
        "v": "blk.{}.attn_v",
        "q_norm": "blk.{}.attn_q_norm.weight",
        "k_norm": "blk.{}.attn_k_norm.weight",
        "attention_out": "blk.{}.attn_output.weight",
        "post_attention_norm": "blk.{}.post_attention_norm.weight",
        "mlp_norm": "blk.{}.ffn_norm.weight",
        "gate": "blk.{}.ffn_gate.weight",
        "up": "blk.{}.ffn_up.weight",
        "down": "blk.{}.ffn_down.weight",
        "router": "blk.{}.ffn_gate_inp.weight",
        "expert_gate": "blk.{}.ffn_gate_exps.weight",
        "expert_up": "blk.{}.ffn_up_exps.weight",
        "expert_down": "blk.{}.ffn_down_exps.weight",
        "post_mlp_norm": "blk.{}.post_ffw_norm.weight",
        "rope_factors": "rope_freqs.weight",
    },
    "safetensors": {
        "embedding": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
        "attention_norm": "model.layers.{}.input_layernorm.weight",
        "q": "model.layers.{}.self_attn.q_proj",
        "k": "model.layers.{}.self_attn.k_proj",
        "v": "model.layers.{}.self_attn.v_proj",
        "q_norm": "model.layers.{}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{}.self_attn.k_norm.weight",
        "attention_out": "model.layers.{}.self_attn.o_proj.weight",
        "mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
        "gate": "model.layers.{}.mlp.gate_proj.weight",
        "up": "model.layers.{}.mlp.up_proj.weight",
        "down": "model.layers.{}.mlp.down_proj.weight",
        "router": "model.layers.{}.mlp.gate.weight",
        "expert_gate": "model.layers.{}.mlp.experts.{expert}.gate_proj.weight",
        "expert_up": "model.layers.{}.mlp.experts.{expert}.up_proj.weight",
        "expert_down": "model.layers.{}.mlp.experts.{expert}.down_proj.weight",
    },
}

# Old checkpoints carry the first, which follows from the configuration; the others are in the architecture already.
IGNORED_SUFFIXES: Final = (".rotary_emb.inv_freq", "rope_factors_long.weight", "rope_factors_short.weight")


class Layout(NamedTuple):
    """How a family lies in the files of a format.

    Attributes:
        names: of its tensors; "qkv" and "gate_up" stand for parts that the file has in one tensor.
        permuted: rows of q and k are in llama.cpp's order, see `parts.Part`.
    """

    names: Mapping[str, str]
    permuted: bool = False


def layout(format_: str, other: Mapping[str, str], *, permuted: bool) -> Layout:
    """Of a family whose names differ from the usual ones in `other`."""
    return Layout({**NAMES[format_], **other}, permuted and format_ == "gguf")
