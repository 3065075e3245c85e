"""GPT-2's way to write bytes as printable characters, which byte-level vocabularies have their tokens in. Pure."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


def byte_level(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary is written for. A token outside the alphabet is plain text."""
    alphabet = _byte_of()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode()
