"""Whether two models speak of the same tokens: a draft is a token id, and must be the same text to both.

Ids are compared, text by text, as far as both models have them. One of them may have more behind that: tables are
padded to sizes that computers like.
"""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path

from workers.weights.gguf_header import Strings, read_header
from workers.weights.source import WeightsError

_TOKENS = "tokenizer.ggml.tokens"


class OtherVocabulary(ValueError):
    """A draft model whose tokens are not the model's. The message says which differ."""


def require_same(model: Path, draft: Path) -> None:
    """Compare the tokenisers of two models, by the files that they come from.

    Raises:
        OtherVocabulary: they differ.
        WeightsError, OSError: a file cannot be read.
    """
    ours, theirs = tokens_of(model), tokens_of(draft)
    for token in sorted(ours.keys() & theirs.keys()):
        if ours[token] != theirs[token]:
            raise OtherVocabulary(
                f"the draft model {draft.name} has another vocabulary than {model.name}: token {token} is "
                f"{_shown(theirs[token])} there and {_shown(ours[token])} here. A draft model must share the tokeniser"
            )
    few, many = sorted((len(ours), len(theirs)))
    if not few or few < 0.98 * many:
        raise OtherVocabulary(
            f"the draft model {draft.name} has another vocabulary than {model.name}: {len(theirs)} tokens there and "
            f"{len(ours)} here. A draft model must share the tokeniser"
        )


def tokens_of(path: Path) -> dict[int, bytes]:
    """The text of each token, in the form in which byte-level tokenisers write it, by id.

    Args:
        path: a GGUF file, or a directory with `tokenizer.json`.

    Raises:
        WeightsError: there is no vocabulary in it.
    """
    return _of_directory(path) if path.is_dir() else _of_gguf(path)


def _of_gguf(path: Path) -> dict[int, bytes]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = read_header(path, data).metadata.get(_TOKENS)
        if not isinstance(found, Strings):
            raise WeightsError(path, f"there is no {_TOKENS} in it")
        tokens: dict[int, bytes] = {}
        at = found.begin
        for token in range(found.count):
            (length,) = struct.unpack_from("<Q", data, at)
            tokens[token] = data[at + 8 : at + 8 + length]
            at += 8 + length
        return tokens


def _of_directory(path: Path) -> dict[int, bytes]:
    file = path / "tokenizer.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = said["model"]["vocab"]
        named = vocabulary.items() if isinstance(vocabulary, dict) else ((t[0], i) for i, t in enumerate(vocabulary))
        tokens = {int(token): text.encode() for text, token in named}
        tokens |= {int(added["id"]): added["content"].encode() for added in said.get("added_tokens", ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(path, f"tokenizer.json has no vocabulary ({type(error).__name__})") from None
    return tokens


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
