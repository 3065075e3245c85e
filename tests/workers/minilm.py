"""all-MiniLM-L6-v2 as sentence-transformers runs it, by transformers alone: its reference in tests."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

from bus.catalogue import locate

MOST_TOKENS = 256  # of sentence_bert_config.json


class Reference:
    """The mean of the last hidden states of a text's tokens, normalised, in float32."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()

    def encode(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """[texts, dimensions]; of one text, [dimensions]."""
        if isinstance(texts, str):
            alone: npt.NDArray[np.float32] = self.encode([texts])[0]
            return alone
        vectors = []
        for text in texts:  # one at a time: nothing is padded
            given = self.tokenizer(text, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
            with torch.no_grad():
                mean = self._model(**given).last_hidden_state[0].mean(0)
            vectors.append(torch.nn.functional.normalize(mean, dim=0).numpy())
        return np.stack(vectors)


def cross_encoder(directory: Path) -> Path:
    """A small random cross-encoder with MiniLM's tokeniser, written into a directory."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, num_labels=1, initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(locate("catalog:all-minilm-l6-v2") / name, directory / name)
    return directory
