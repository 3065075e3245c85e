"""What a GGUF file says of a SentencePiece vocabulary, as the library's own file (`sentencepiece_model.proto`)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

UNKNOWN = 2


def model_proto(metadata: Mapping[str, Any]) -> bytes:
    """Of a BPE with byte fallback that does not normalise text."""
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    pieces = b"".join(
        _field(1, _piece(token.replace(" ", "\u2581"), score, UNKNOWN if index == unknown else kind))
        for index, (token, score, kind) in enumerate(zip(*columns, strict=True))
    )
    trainer = _number(3, 2) + _number(35, 1) + _number(40, unknown)  # model_type BPE, byte_fallback, unk_id
    prefix = metadata.get("tokenizer.ggml.add_space_prefix") is not False
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    normalizer = _field(1, b"identity") + _number(3, int(prefix)) + _number(4, 0) + _number(5, 1)
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))
