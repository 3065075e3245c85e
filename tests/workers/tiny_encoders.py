"""Small random encoders of every family, saved as the hub has them, and what transformers says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

VOCABULARY = 120
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 66,
}  # fmt: skip
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**SIZES, "type_vocab_size": 2}),
    "roberta": ("Roberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "mpnet": ("MPNet", {**SIZES, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
         "max_position_embeddings": 66},
    ),
}  # fmt: skip


def save(directory: Path, family: str, *, head: bool = False, **changes: Any) -> Any:
    """A checkpoint in `directory`; returns transformers' model of it. `head`: a cross-encoder."""
    name, sizes = _CONFIGS[family]
    torch.manual_seed(7)
    config = getattr(transformers, f"{name}Config")(**sizes, **({"num_labels": 1} if head else {}), **changes)
    model = getattr(transformers, f"{name}{'ForSequenceClassification' if head else 'Model'}")(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0.0, 0.3)  # as initialised, everything is nearly the same
    model.save_pretrained(directory)
    return model


def modules(directory: Path, pooling: str, *, normalise: bool) -> None:
    """sentence-transformers' files beside it."""
    listed = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if normalise else [])]
    (directory / "modules.json").write_text(
        json.dumps([{"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
                    for i, (kind, path) in enumerate(listed)])
    )  # fmt: skip
    (directory / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{name}": name == pooling for name in
             ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}  # fmt: skip
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))


def hidden_of(model: Any, rows: list[list[int]], segments: list[list[int]] | None = None) -> list[Tensor]:
    """Last hidden states of each row alone, as transformers computes them: [tokens, hidden] of each."""
    found = []
    for at, row in enumerate(rows):
        extra = {"token_type_ids": torch.tensor([segments[at]])} if segments is not None else {}
        with torch.inference_mode():
            found.append(model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)), **extra)
                         .last_hidden_state[0])  # fmt: skip
    return found
