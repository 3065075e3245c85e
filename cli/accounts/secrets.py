"""A new key. Its secret is drawn here and shown once: no process is ever told it, only its SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple


class Drawn(NamedTuple):
    """A secret, and what others may know of it."""

    secret: str
    digest: bytes


def draw() -> Drawn:
    """192 bits."""
    secret = secrets.token_hex(24)
    return Drawn(secret, hashlib.sha256(secret.encode()).digest())


def draw_id() -> str:
    """Of a key; nobody guesses anything from it."""
    return f"k{secrets.token_hex(6)[:11]}"


def whole(id: str, secret: str) -> str:
    """The key as clients send it."""
    return f"sk-{id}-{secret}"
