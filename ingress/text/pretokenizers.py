"""How each family cuts text before byte-pair merging, by the name that GGUF files carry in `tokenizer.ggml.pre`.

A wrong cut gives token ids that are nearly right, so an unknown name is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tokenizers import Regex
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Cut(NamedTuple):
    """One family.

    Attributes:
        pre_tokenizer: builds the cutter.
        normalizer: builds what runs before it; `None` for nothing.
        ignore_merges: a piece that is a token as a whole is taken without merging (Llama 3).
    """

    pre_tokenizer: Callable[[], PreTokenizer]
    normalizer: Callable[[], Normalizer] | None = None
    ignore_merges: bool = False


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt2() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _split(pattern: str) -> Callable[[], PreTokenizer]:
    def build() -> PreTokenizer:
        split = Split(Regex(pattern), behavior="isolated", invert=False)
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])

    return build


CUTS: Final[Mapping[str, Cut]] = {
    "gpt-2": Cut(_gpt2),
    "smollm": Cut(_digits_then_gpt2),
    "qwen2": Cut(_split(_QWEN2), normalizer=NFC),
    "llama-bpe": Cut(_split(_LLAMA3), ignore_merges=True),
}
