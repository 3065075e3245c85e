"""SentencePiece's byte-pair encoding (arXiv:1808.06226) from what a GGUF file has of it: tokens and scores, no merges.

SentencePiece joins the two neighbours whose token has the highest score, the leftmost of equals. The `tokenizers`
library joins by a list of pairs, so the list is made of every way to part a token in two, the best token first. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tokenizers import models

SPACE: Final = "\u2581"
"""What a space is written as in tokens."""


class BadVocabulary(ValueError):
    """It has no token for some byte, so there is text that it cannot stand for."""


def byte_pair_model(
    tokens: Sequence[str], scores: Sequence[float], normal: Collection[int], bytes_: Collection[int]
) -> models.BPE:
    """The model that encodes as SentencePiece does.

    Args:
        tokens: by id, as the model shall know them.
        scores: by id; more is sooner.
        normal: ids of tokens that neighbours are joined to. The others are in the vocabulary, and come of no text.
        bytes_: ids of the tokens of single bytes, `<0x00>` to `<0xFF>`, for characters without a token.

    Raises:
        BadVocabulary: not every byte has a token.
    """
    byte_ids = {tokens[index]: index for index in bytes_}
    missing = [name for name in map(byte_token, range(256)) if name not in byte_ids]
    if missing:
        raise BadVocabulary(f"{len(missing)} bytes have no token, {missing[0]} is the first")
    ids = {tokens[index]: index for index in normal}
    # Gemma has tokens of several tabs and none of one, which is a byte; SentencePiece joins it all the same.
    ids |= {
        character: byte_ids[byte_token(ord(character))]
        for character in set().union(*ids)
        if character not in ids and character.isascii()
    }
    merges: list[tuple[str, str]] = []
    # Of equals the longer one first, so that what was joined last goes on growing: Llama 2's runs of spaces are equals.
    for index in sorted(normal, key=lambda index: (-scores[index], -len(tokens[index]))):
        merges += _pairs(tokens[index], ids)
    vocabulary = {token: index for index, token in enumerate(tokens)} | ids
    return models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True)


def byte_token(byte: int) -> str:
    """The token of a byte."""
    return f"<0x{byte:02X}>"


def _pairs(token: str, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, in an order in which the leftmost of two that overlap is joined first.

    Two overlap where the right part of one is the left part of the other, so a right part that the token also begins
    with comes first. A token that repeats itself has pairs that overlap either way; of these the left part grows.
    """
    pairs = []
    for at in range(len(token) - 1, 0, -1):
        if (left := token[:at]) in ids and (right := token[at:]) in ids:
            pairs.append((left, right))
    if len(pairs) > 1:
        pairs.sort(key=lambda pair: not token.startswith(pair[1]))
    return pairs
