"""How much of stored responses a project and a key may have here: the oldest of a holder go for the newest. Pure.

A key may have half of what its project may, so that one key does not push out what the others of its project keep. What
a project keeps never pushes out what another one does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

KEYS_SHARE: Final = 2  # a key may have so great a part of what its project may


class Quota(NamedTuple):
    """Of a project, at one ingress.

    Attributes:
        responses: most of them; bytes: of their calls and answers.
    """

    responses: int
    bytes: int


class _Held:
    """What one holder has, oldest first."""

    def __init__(self) -> None:
        self.sizes: OrderedDict[str, int] = OrderedDict()
        self.bytes = 0


class Shelves:
    """What is stored, by whose it is."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._key_quota = Quota(max(1, quota.responses // KEYS_SHARE), quota.bytes // KEYS_SHARE)
        self._held: dict[tuple[str, ...], _Held] = {}

    def put(self, response: str, tenant: str, owner: str, size: int) -> list[str]:
        """A response is complete and stored. Those that have to go for it; never itself, however large it is."""
        gone: list[str] = []
        for holder, quota in (((tenant, owner), self._key_quota), ((tenant,), self._quota)):
            held = self._held.setdefault(holder, _Held())
            held.bytes += size - held.sizes.pop(response, 0)
            held.sizes[response] = size
            gone += list(self._beyond(held, quota, gone))
        return gone

    def drop(self, response: str, tenant: str, owner: str) -> None:
        """It is kept no longer. Nothing happens to one that is not here."""
        for holder in ((tenant, owner), (tenant,)):
            if (held := self._held.get(holder)) is not None:
                held.bytes -= held.sizes.pop(response, 0)
                if not held.sizes:
                    del self._held[holder]

    def _beyond(self, held: _Held, quota: Quota, gone: list[str]) -> Iterator[str]:
        """The oldest that are too many, beside those that go already."""
        count, size = len(held.sizes), held.bytes
        count, size = count - sum(one in held.sizes for one in gone), size - sum(held.sizes.get(one, 0) for one in gone)
        for response, its in held.sizes.items():
            if count <= 1 or (count <= quota.responses and size <= quota.bytes):
                return
            if response not in gone:
                count, size = count - 1, size - its
                yield response
