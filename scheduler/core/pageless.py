"""What stands in place of pages for a model that keeps no KV.

Every request of it holds the same page, which is as long as the context and in which nothing is; so there is always
one, kv is never asked, and whoever counts pages elsewhere need not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scheduler.core.events import Action
from scheduler.core.pages import PagePool

_PAGE: Final = 0
_PLENTY: Final = 1 << 30


class NoPages(PagePool):
    """A `PagePool` that is always open and never short."""

    def __init__(self) -> None:
        super().__init__()
        self.generation = {_PAGE: 0}
        self.capacity, self.up = _PLENTY, True

    @property
    def free(self) -> int:
        return 0  # for those who look on: there are none

    @property
    def used(self) -> int:
        return 0

    @property
    def reachable(self) -> int:
        return _PLENTY

    @property
    def exhausted(self) -> bool:
        return False

    def close(self) -> None:
        """kv is gone, which makes no difference."""

    def take(self, count: int) -> list[int]:
        return [_PAGE] * count

    def give(self, pages: Iterable[int]) -> None:  # noqa: ARG002 (the pool's interface)
        self.version += 1

    def tick(self, now: int) -> None:
        """Nothing is waited for."""

    def flush(self, shortfall: int) -> list[Action]:  # noqa: ARG002
        return []
