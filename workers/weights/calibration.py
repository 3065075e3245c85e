"""A text on its way through a model whose matrices are rounded one after the other: what each is multiplied with.

Layer by layer, so that no more than one layer's floats are in memory, and through the rounded weights, so that a layer
also answers for what the ones before it made of the text. Of llama's wiring only, which is what the kernels run
(`workers.models.packed.misfit`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.layers.norm import RmsNorm
from workers.layers.rotary import Rotary
from workers.models.rope import inverse_frequencies

if TYPE_CHECKING:
    from workers.models.architecture import Architecture

log = logging.getLogger(__name__)

TOKENIZER: Final = "tokenizer.json"
TEXT: Final = Path(__file__).parent / "data" / "calibration.txt"  # prose and code; another one is another layout
TOKENS: Final = 4096
SEQUENCE: Final = 512


def sequences_for(model: Path, vocabulary: int) -> Tensor | None:
    """The text in a model's tokens, [sequences, tokens]; None where the model's directory has no tokenizer to read.

    Args:
        vocabulary: rows of the embedding.
    """
    from tokenizers import Tokenizer  # slow to import, and only needed here

    file = model / TOKENIZER
    if not file.is_file():
        return None
    try:
        ids: list[int] = Tokenizer.from_file(str(file)).encode(TEXT.read_text("utf-8")).ids
    except Exception as error:  # the library raises nothing narrower
        log.warning("%s cannot be read (%s): rounding without knowing the inputs", file, error)
        return None
    length = min(SEQUENCE, len(ids))
    count = min(TOKENS, len(ids)) // max(length, 1)
    if not count or max(ids[: count * length]) >= vocabulary:
        return None
    return torch.tensor(ids[: count * length]).view(count, length)


class Passage:
    """Where the text is between two layers.

    Attributes:
        hidden: [sequences, tokens, hidden] float32.

    Args:
        embedded: the text's rows of the embedding.
        architecture: of the whole model: this is not shared among ranks.
        factors: of rope, where the file has them.
    """

    def __init__(self, embedded: Tensor, architecture: Architecture, factors: Tensor | None) -> None:
        self.hidden, self._architecture = embedded, architecture
        self._rotary = Rotary(inverse_frequencies(architecture.rope, architecture.head_dim, factors))
        self._rotary.plan(torch.arange(embedded.shape[1]))

    def normed(self, norm: Tensor) -> Tensor:
        """The inputs of the matrices after a norm with these weights, [sequences * tokens, hidden]."""
        return RmsNorm(norm, self._architecture.rms_eps)(self.hidden.flatten(0, 1))

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The inputs of attention's output matrix, of [sequences * tokens, heads * head_dim] each."""
        count, length, _ = self.hidden.shape
        heads = [part.view(count, length, -1, self._architecture.head_dim) for part in (q, k, v)]
        for part in heads[:2]:
            for sequence in part:
                self._rotary(sequence)
        query, key, value = (part.transpose(1, 2) for part in heads)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return attended.transpose(1, 2).reshape(count * length, -1)

    def add(self, brought: Tensor) -> None:
        """What attention or the MLP of a layer brings, [sequences * tokens, hidden]."""
        self.hidden += brought.view_as(self.hidden)


def activated(gate: Tensor, up: Tensor) -> Tensor:
    """The inputs of an MLP's last matrix."""
    return functional.silu(gate).mul_(up)


@contextlib.contextmanager
def by_bfloat16() -> Iterator[None]:
    """Within, products of float32 matrices are of their bfloat16 roundings, summed in float32: several times as fast,
    where the processor can, and the sums are what calibration is about."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
