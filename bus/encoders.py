"""What an encoder checkpoint says of itself, as ingress and worker both need it: what it is for, how long texts may be.

A directory is an encoder where `config.json` names one of `FAMILIES`. One with a classification head is a cross-encoder
and reranks; every other makes embeddings. Pooling and longest text are sentence-transformers' files, where they are
there. Nothing of the weights is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

Kind = Literal["generate", "embed", "rerank"]

# model_type -> positions that lie before the first token's: RoBERTa and MPNet count from behind the padding token's.
FAMILIES: Final = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet")
_AFTER_PADDING: Final = frozenset({"roberta", "xlm-roberta", "mpnet"})
_MODULES: Final = ("Transformer", "Pooling", "Normalize")


class BadEncoder(ValueError):
    """A checkpoint that cannot be served as it says it wants to be. The message names the file and the key."""


class EncoderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one encoder.

    Attributes:
        family: one of `FAMILIES`.
        kind: "embed" or "rerank".
        max_tokens: of one text, or of a query with its document, special tokens included.
        dimensions: of an embedding; 1 for a reranker, whose answer is a score.
        shorter: lengths to which an embedding may be cut (Matryoshka), as the checkpoint says; empty where it does not.
        pooling: module directory of the pooling; None where the checkpoint does not say how.
        normalise: embeddings have length 1.
        first_position: of the first token's row among the position embeddings.
    """

    family: str
    kind: Kind
    max_tokens: int
    dimensions: int
    shorter: tuple[int, ...] = ()
    pooling: Path | None = None
    normalise: bool = True
    first_position: int = 0


def kind_of(path: Path) -> Kind:
    """What a model's files are for; of a GGUF file, and of whatever cannot be read, "generate"."""
    if not path.is_dir():
        return "generate"
    try:
        config = _read(path / "config.json")
    except BadEncoder:
        return "generate"  # whoever reads it next says what is wrong
    if config.get("model_type") not in FAMILIES:
        return "generate"
    return "rerank" if _classifies(config) else "embed"


def read_facts(path: Path) -> EncoderFacts:
    """Of a checkpoint directory.

    Raises:
        BadEncoder: it is no encoder, or of a kind that is not built.
    """
    config = _read(path / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise BadEncoder(
            f"{path / 'config.json'}: model_type {family!r} is no encoder (these are: {', '.join(FAMILIES)})"
        )
    first = _integer(path, config, "pad_token_id", 1) + 1 if family in _AFTER_PADDING else 0
    limits = [_integer(path, config, "max_position_embeddings") - first]
    sentence = _read(path / "sentence_bert_config.json", missing=True)
    said = sentence.get("max_seq_length")
    if isinstance(said, int) and said > 0:
        limits.append(said)
    if _classifies(config):
        return EncoderFacts(family=family, kind="rerank", max_tokens=min(limits), dimensions=1, first_position=first)
    pooling, normalise = _modules(path)
    dimensions = _integer(path, config, "dim" if family == "distilbert" else "hidden_size")
    return EncoderFacts(
        family=family,
        kind="embed",
        max_tokens=min(limits),
        dimensions=dimensions,
        shorter=_shorter(path, config, dimensions),
        pooling=pooling,
        normalise=normalise,
        first_position=first,
    )


def _modules(path: Path) -> tuple[Path | None, bool]:
    """Where the pooling is described, and whether the result is normalised. Without sentence-transformers' list: mean
    pooling and length 1, which is what nearly all such models are used with."""
    file = path / "modules.json"
    if not file.is_file():
        return None, True
    try:
        modules = msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.DecodeError) as error:
        raise BadEncoder(f"{file}: {error}") from None
    pooling: Path | None = None
    normalise = False
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in _MODULES:
            raise BadEncoder(f"{file}: a module of type {kind!r} is not built (these are: {', '.join(_MODULES)})")
        if kind == "Pooling":
            name = str(module.get("path", ""))
            if Path(name).name != name:
                raise BadEncoder(f"{file}: names a path outside its directory: {name!r}")
            pooling = path / name
        normalise |= kind == "Normalize"
    return pooling, normalise


def _shorter(path: Path, config: dict[str, Any], dimensions: int) -> tuple[int, ...]:
    """`matryoshka_dimensions` of config.json; `is_matryoshka` alone allows every length."""
    given = config.get("matryoshka_dimensions")
    if given is None:
        return tuple(range(1, dimensions)) if config.get("is_matryoshka") is True else ()
    if not isinstance(given, list) or not all(isinstance(one, int) and 0 < one <= dimensions for one in given):
        raise BadEncoder(f"{path / 'config.json'}: matryoshka_dimensions: expected lengths of 1 to {dimensions}")
    return tuple(given)


def _classifies(config: dict[str, Any]) -> bool:
    named = config.get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForSequenceClassification") for name in named)


def _integer(path: Path, config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadEncoder(f"{path / 'config.json'}: {key}: expected a number, got {value!r}")
    return value


def _read(file: Path, *, missing: bool = False) -> dict[str, Any]:
    if missing and not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise BadEncoder(f"{file}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BadEncoder(f"{file}: {error}") from None
