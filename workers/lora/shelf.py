"""The adapters that are in memory, by number.

What is not there is read on a thread of its own, one after the other, while steps go on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import torch

from bus.catalogue import ModelMissing, locate
from bus.loop import Loop
from bus.messages.adapters import AdapterSource, AdapterState, KeepAdapters
from workers.background import Background
from workers.lora.adapter import Adapter
from workers.lora.reader import BadAdapter, Bounds, read_adapter
from workers.weights.prepared import Prepared

log = logging.getLogger(__name__)

_NICE = 10


class Shelf:
    """What `KeepAdapters` says, kept.

    Args:
        base: the model that they are for.
        bounds: what one may be.

    Attributes:
        send: to the scheduler; set by whoever talks to it.
    """

    def __init__(self, loop: Loop, base: Prepared, bounds: Bounds) -> None:
        self._loop, self._base, self._bounds = loop, base, bounds
        self.send: Callable[[AdapterState], object] = lambda _: None
        self._there: dict[int, Adapter] = {}
        self._wanted: dict[int, AdapterSource] = {}
        self._reading: tuple[AdapterSource, Background[Adapter]] | None = None
        self._began_ns = 0

    def get(self, number: int) -> Adapter | None:
        """One that is there."""
        return self._there.get(number)

    @property
    def bytes(self) -> int:
        """That all of them take."""
        return sum(adapter.bytes for adapter in self._there.values())

    def keep(self, message: KeepAdapters) -> None:
        """Have these and no others."""
        wanted = {source.number: source for source in message.adapters}
        self._there = {number: adapter for number, adapter in self._there.items() if number in wanted}
        for number, adapter in self._there.items():
            if number not in self._wanted:  # it was kept from before
                self.send(AdapterState(number, adapter.digest, adapter.bytes))
        self._wanted = wanted
        self._read_next()

    def clear(self) -> None:
        """A scheduler that begins numbers them anew."""
        self._there, self._wanted = {}, {}
        if self._reading is not None:
            self._reading[1].cancel()
            self._reading = None

    def _read_next(self) -> None:
        if self._reading is not None:
            return
        source = next((source for number, source in self._wanted.items() if number not in self._there), None)
        if source is None:
            return
        self._began_ns = time.monotonic_ns()
        self._reading = source, Background(self._loop, lambda: self._read(source), self._done, self._failed)

    def _read(self, source: AdapterSource) -> Adapter:
        # Of this thread, both: the cores are the steps'.
        torch.set_num_threads(1)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        return read_adapter(locate(source.source), source.name, self._base, self._bounds)

    def _done(self, adapter: Adapter) -> None:
        source = self._finished()
        if source.number in self._wanted:
            if source.digest and adapter.digest != source.digest:
                self._wanted.pop(source.number)
                problem = f"{source.source}: its files are others than when it was loaded"
                self.send(AdapterState(source.number, adapter.digest, problem=problem))
            else:
                self._there[source.number] = adapter
                took_ns = time.monotonic_ns() - self._began_ns
                self.send(AdapterState(source.number, adapter.digest, adapter.bytes, took_ns))
                log.info("adapter %s is there", source.name, extra={"bytes": adapter.bytes, "ms": took_ns // 1_000_000})
        self._read_next()

    def _failed(self, error: Exception) -> None:
        source = self._finished()
        if self._wanted.pop(source.number, None) is not None:
            if isinstance(error, BadAdapter | ModelMissing | MemoryError | OSError):
                problem = str(error) or "there is no memory for it"
            else:
                problem = f"{type(error).__name__}: {error}"
                log.error("adapter %s", source.name, exc_info=error)
            log.warning("adapter %s cannot be used: %s", source.name, problem)
            self.send(AdapterState(source.number, problem=problem))
        self._read_next()

    def _finished(self) -> AdapterSource:
        assert self._reading is not None
        source, self._reading = self._reading[0], None
        return source
