"""A small random llama that a stack serves as it serves any: tokeniser, checkpoint, one that drafts for it, adapters.
Made by the tests, loaded in an instant; the CPU kernels compute it, and two ranks can share it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import lora_files
import tokenizers
import torch
from chaos.catalogue import prose
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

END: Final = "<|end|>"
CONTEXT: Final = 2048
VOCABULARY: Final = 400
LAYERS: Final = 4
HIDDEN, INNER, HEADS, KV_HEADS, HEAD = 96, 192, 4, 2, 32
MODULES: Final = {  # outputs and inputs
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
ADAPTED: Final = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
# Spread of the weights. A token says much of the next one and what came before it little: texts come back to what they
# said, so that there is something to look up, and the first layer alone is a fair guess at all of them.
EMBEDDING, INTO, OUT_OF, OUTPUT = 1.2, 0.15, 0.006, 0.45  # of what goes into a layer, and what comes out of it
_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def made(directory: Path) -> tuple[Path, Path]:
    """The model, and its first layer as one that drafts for it."""
    tokenizer, weights = _tokenizer(), _weights()
    for name, layers in (("model", LAYERS), ("drafter", 1)):
        path = directory / name
        path.mkdir()
        tokenizer.save(str(path / "tokenizer.json"))
        told = {"eos_token": END, "chat_template": _TEMPLATE}
        (path / "tokenizer_config.json").write_text(json.dumps(told))
        (path / "config.json").write_text(json.dumps(_config(layers, tokenizer.token_to_id(END))))
        kept = {at: each for at, each in weights.items() if ".layers." not in at or int(at.split(".")[2]) < layers}
        save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    return directory / "model", directory / "drafter"


def adapter(path: Path, seed: int) -> Path:
    """A random adapter that changes what the model says."""
    shapes = {name: MODULES[name] for name in ADAPTED}
    return lora_files.made(path, seed, shapes=shapes, layers=range(LAYERS), size=0.03)


def _config(layers: int, end: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS, "head_dim": HEAD,
        "num_key_value_heads": KV_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": end,
        "dtype": "float32",
    }  # fmt: skip


def _weights() -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(7)

    def of(outputs: int, inputs: int, spread: float) -> torch.Tensor:
        return torch.randn(outputs, inputs, generator=drawn) * spread

    weights = {
        "model.embed_tokens.weight": of(VOCABULARY, HIDDEN, EMBEDDING),
        "lm_head.weight": of(VOCABULARY, HIDDEN, OUTPUT),
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = torch.ones(HIDDEN)
        for name, shape in MODULES.items():
            weights[f"{prefix}.{name}.weight"] = of(*shape, OUT_OF if shape[0] == HIDDEN else INTO)
    return weights


def _tokenizer() -> tokenizers.Tokenizer:
    """Bytes, and some longer tokens, so that a text can be cut in several ways."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learnt = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[END],
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([prose(1, 200)], learnt)
    return tokenizer
