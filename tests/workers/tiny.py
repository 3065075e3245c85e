"""Tiny random checkpoints with transformers' own classes, as directories and as GGUF files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 5],
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


# What else a family needs, so that everything it has beside llama is there and matters.
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 21},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "gemma2": {
        "num_hidden_layers": 4, "sliding_window": 21, "query_pre_attn_scalar": 40, "tie_word_embeddings": True,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "num_hidden_layers": 7, "sliding_window": 21, "query_pre_attn_scalar": 40, "tie_word_embeddings": True,
        "initializer_range": 0.15,
    },
    "phi3": {"pad_token_id": 0, "sliding_window": 21},
    "granite": {
        "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4, "logits_scaling": 2.5,
    },
}  # fmt: skip


def tiny(family: str, **changes: Any) -> Any:
    """A random model with every weight away from its initial value, norms and biases too."""
    config = AutoConfig.for_model(family, **{**SIZES, **OF_FAMILY[family], **changes})
    torch.manual_seed(7)
    # Only the eager attention has soft caps; the other one is exact in float64 too.
    attention = "eager" if family == "gemma2" else "sdpa"
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                around = 0.0 if family.startswith("gemma") else 1.0
                parameter.uniform_(around - 0.5, around + 0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "experts" in name or name.endswith("gate.weight"):
                parameter.normal_(0, config.initializer_range)
    return model


def saved(model: Any, path: Path, **options: Any) -> Path:
    """As a Hugging Face directory."""
    model.save_pretrained(path, **options)
    return path


# llama.cpp's names, as its converter gives them.
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_PARTS_OF_GEMMA = {
    **_PARTS,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
GGUF_NAMES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
_PERMUTED = ("llama", "granite")


def permuted(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The order of q and k rows in llama GGUFs, as llama.cpp's convert_hf_to_gguf.py makes it."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def converted(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """A model's tensors under llama.cpp's names, with what its converter does to them."""
    config = model.config
    arch = GGUF_NAMES.get(config.model_type, config.model_type)
    parts = _PARTS_OF_GEMMA if arch.startswith("gemma") else _PARTS
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.numpy()
        if arch in _PERMUTED and ("q_proj" in name or "k_proj" in name):
            weight = permuted(weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if arch.startswith("gemma") and "norm" in name:
            weight = weight + 1
        if name in _OUTER:
            found[_OUTER[name]] = weight
            continue
        _, _, layer, rest = name.split(".", 3)
        if rest == "mlp.experts.gate_up_proj":
            gate, up = np.split(weight, 2, axis=1)
            found[f"blk.{layer}.ffn_gate_exps.weight"], found[f"blk.{layer}.ffn_up_exps.weight"] = gate, up
        elif rest == "mlp.experts.down_proj":
            found[f"blk.{layer}.ffn_down_exps.weight"] = weight
        else:
            part, kind = rest.rsplit(".", 1)
            found[f"blk.{layer}.{parts[part]}.{kind}"] = weight
    return found


def _metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    """What the converter writes beside the sizes."""
    if experts := getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if inner := getattr(config, "moe_intermediate_size", None):
        writer.add_expert_feed_forward_length(inner)
    if config.model_type in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type == "phi3":
        rope = config.rope_parameters
        writer.add_rope_dimension_count(int(config.head_dim * rope.get("partial_rotary_factor", 1.0)))
        if rope["rope_type"] == "longrope":
            original = rope["original_max_position_embeddings"]
            factor = config.max_position_embeddings / original
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
            for length in ("short", "long"):
                factors = np.array(rope[f"{length}_factor"], np.float32)
                writer.add_tensor(f"rope_factors_{length}.weight", factors)


def written(
    model: Any,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    factors: np.ndarray[Any, Any] | None = None,
) -> Path:
    """As a GGUF file, matrices in `kind`."""
    config = model.config
    writer = gguf.GGUFWriter(path, GGUF_NAMES.get(config.model_type, config.model_type))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta_of(config))
    writer.add_token_list([f"<{index}>" for index in range(config.vocab_size)])
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(5)
    _metadata(writer, config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, weight in converted(model).items():
        if weight.ndim == 1 or "gate_inp" in name or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def theta_of(config: Any) -> float:
    """Base of the rope, of the layers that see everything."""
    given = config.rope_parameters
    return float(given.get("full_attention", given)["rope_theta"])
