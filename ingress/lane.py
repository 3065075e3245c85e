"""One way for records of usage out of an ingress: told in batches, each until it is answered. No socket, no clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping
from typing import Final

from bus.messages.usage import UsageRecord

AT_ONCE: Final = 500  # records of one message
AGAIN_NS: Final = 10_000_000_000  # a batch that is not answered is told again
PATIENCE_NS: Final = 2_000_000_000  # a receiver that is there answers within this

Records = tuple[UsageRecord, ...]


class Lane:
    """What one receiver has not taken yet.

    Args:
        send: a numbered batch; False where nobody is there.
    """

    def __init__(self, send: Callable[[int, Records], bool]) -> None:
        self._send = send
        self._pending: dict[int, None] = {}  # requests, oldest first
        self._numbers = itertools.count(1)
        self._batch: tuple[int, Records] | None = None  # on its way
        self._sent_ns = 0
        self._there = False

    def add(self, request: int) -> None:
        """A record to tell."""
        self._pending[request] = None

    def wants(self, request: int) -> bool:
        """Whether it is still to be told, or answered."""
        return request in self._pending

    def tick(self, records: Mapping[int, UsageRecord], waiting: Container[int], now_ns: int) -> None:
        """Tell what there is, but for those that wait for something."""
        if self._batch is not None and now_ns - self._sent_ns < AGAIN_NS:
            return
        self._batch = None
        ready = (request for request in self._pending if request not in waiting)
        told = tuple(itertools.islice(ready, AT_ONCE))
        for request in told:
            if request not in records:
                del self._pending[request]
        if batch := tuple(records[request] for request in told if request in records):
            number = next(self._numbers)
            self._there = self._send(number, batch)
            if self._there:
                self._batch, self._sent_ns = (number, batch), now_ns

    def taken(self, number: int) -> Records:
        """The receiver has a batch; the records of it."""
        if self._batch is None or self._batch[0] != number:
            return ()
        records, self._batch = self._batch[1], None
        for record in records:
            self._pending.pop(record.request, None)
        return records

    def link_up(self) -> None:
        """The receiver is another one than before: it may not have heard what is on its way."""
        self._batch, self._there = None, True

    def delivering(self, now_ns: int) -> bool:
        """Whether something is about to be answered."""
        if not self._pending or not self._there:
            return False
        return self._batch is None or now_ns - self._sent_ns < PATIENCE_NS
