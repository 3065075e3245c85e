"""A BERT cross-encoder whose weights were published as ONNX in int8, as the hub's directory of safetensors.

    python tests/workers/reference/onnx_bert.py FROM TO

FROM has `model.onnx` and the tokeniser's files. Needs `onnx` and `safetensors`. Weights are what the file's own numbers
mean, (quantised - zero point) * scale, in float32: whoever computes with them in float32 computes the same model,
without the rounding of activations that the file's own operators do.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file


def tensors_of(path: Path) -> dict[str, Any]:
    """Every weight of the file in float32, under transformers' names. Those of products have none of their own in the
    file: they have the name of the bias that is added to the product."""
    graph = onnx.load(str(path)).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {name: value for name, value in stored.items() if name.endswith((".bias", "LayerNorm.weight"))}
    for name in stored:
        if name.startswith("bert.embeddings.") and name.endswith(".weight_quantized"):
            found[name.removesuffix("_quantized")] = _meant(stored, name)
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            found[_bias(node, users, stored).removesuffix(".bias") + ".weight"] = _meant(stored, node.input[1]).T
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}


def _meant(stored: dict[str, Any], name: str) -> Any:
    base = name.removesuffix("_quantized")
    return (stored[name].astype(np.float32) - stored[f"{base}_zero_point"]) * stored[f"{base}_scale"]


def _bias(node: Any, users: dict[str, list[Any]], stored: dict[str, Any]) -> str:
    """Name of the bias that is added to a product: some steps of scaling further."""
    while True:
        node = next(each for each in users[node.output[0]] if each.op_type in ("Cast", "Mul", "Add"))
        for name in node.input:
            if node.op_type == "Add" and name.endswith(".bias") and name in stored:
                return str(name)


def main(source: Path, target: Path) -> None:
    """Write it."""
    target.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(source / "model.onnx")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    layers = {name.split(".")[3] for name in tensors if name.startswith("bert.encoder.layer.")}
    inner = tensors["bert.encoder.layer.0.intermediate.dense.bias"]
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": words.shape[0],
        "hidden_size": words.shape[1], "num_hidden_layers": len(layers), "num_attention_heads": 12,
        "intermediate_size": len(inner), "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2,
        "max_position_embeddings": tensors["bert.embeddings.position_embeddings.weight"].shape[0],
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": 0,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    for path in source.glob("*token*.json"):
        shutil.copy(path, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
