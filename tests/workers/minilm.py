"""all-MiniLM-L6-v2 as sentence-transformers runs it, by transformers alone: its reference in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer

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
