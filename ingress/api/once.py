"""Calls that carry an `Idempotency-Key`: made again after a lost connection, they are the same call, answered once.

The response's id follows from key, caller and body, so whoever is asked again finds the answer, or the one under way,
by it: here, at a sibling, or in the journal of an ingress that died. Where nobody has it, or it was forgotten, it is
computed anew, with a seed that follows from the same, and comes out the same. The same key with another body is
another call.

See https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from ingress.api.answer import is_failure, told_failure
from ingress.api.events import Events
from ingress.errors import internal, invalid_request

MAX_KEY: Final = 255  # characters


class Once(NamedTuple):
    """What a keyed call is known by.

    Attributes:
        number: 64 bits, of its response's id.
        seed: 63 bits, for a call that names none.
    """

    number: int
    seed: int


def checked(key: str) -> str:
    """A key that may be one.

    Raises:
        ApiError: 400, it is too long.
    """
    if len(key) > MAX_KEY:
        raise invalid_request(f"Idempotency-Key has more than {MAX_KEY} characters.", param="Idempotency-Key")
    return key


def once(key: str, owner: str, operation: str, body: bytes) -> Once:
    """The identity of a keyed call.

    Raises:
        ApiError: 400, the key is too long.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"headrace once")
    for part in (checked(key).encode(), owner.encode(), operation.encode(), body):
        digest.update(len(part).to_bytes(8, "little") + part)
    whole = digest.digest()
    return Once(int.from_bytes(whole[:8], "little"), int.from_bytes(whole[8:], "little") >> 1)


async def only(events: Events) -> bytes:
    """The last of `events`, which is the answer where that is in one piece.

    Raises:
        ApiError: it failed, or is not kept any more.
    """
    answer = b""

    def hear(_: int, body: bytes) -> bool:
        nonlocal answer
        answer = body
        return True

    await events.follow(0, hear)
    if not answer:
        raise internal("The answer was not kept.")
    if is_failure(answer):
        raise told_failure(answer)
    return answer


class Kept(NamedTuple):
    """An answer in one body, made of events that are kept: it can be asked for again. `read` waits for it."""

    events: Events
    read: Callable[[Events], Coroutine[Any, Any, bytes]]
