"""API keys: `sk-ID-SECRET`. The id is looked up; of the secret only the SHA-256 is known to anybody but its owner."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from bus.messages.accounts import Key

PREFIX: Final = "sk-"
LONGEST: Final = 200
_NOTHING: Final = bytes(32)


class Shown(NamedTuple):
    """What a caller has shown, as far as it looks like a key."""

    id: str
    digest: bytes


def parse(authorization: str) -> Shown | None:
    """A key out of an Authorization header, `Bearer sk-…`; None where there is none."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(PREFIX) or len(token) > LONGEST:
        return None
    id, dash, secret = token[len(PREFIX) :].partition("-")
    if not dash or not id or not secret:
        return None
    return Shown(id, hashlib.sha256(secret.encode()).digest())


def matches(shown: Shown, key: Key | None, now_s: float) -> bool:
    """Whether the secret is the key's. Takes as long for a key that does not exist."""
    current = hmac.compare_digest(shown.digest, key.digest if key is not None else _NOTHING)
    previous = hmac.compare_digest(shown.digest, key.previous if key is not None and key.previous else _NOTHING)
    return key is not None and (current or (previous and now_s < key.previous_until_s))
