"""One upstream: its credential, its circuit, how many calls are under way. HTTP is `wire`'s, what is said in a call the
languages'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from bus.config.upstreams import UpstreamConfig
from bus.curve import credential
from ingress.router.breaker import Breaker, Settings
from ingress.upstreams import anthropic, openai
from ingress.upstreams.sse import Event

MAX_KEY: Final = 4096


class NoCredential(ValueError):
    """The file of a credential cannot be read. The message names it."""


class Door:
    """The way to one upstream.

    Attributes:
        config: as written.
        breaker: whether it is asked.
        in_flight: calls under way.

    Raises:
        NoCredential: see there.
    """

    def __init__(self, config: UpstreamConfig) -> None:
        # Here, as aiohttp takes half a second and 20 MB, and most hosts have no upstreams.
        from ingress.upstreams.wire import Wire

        self.config = config
        self.breaker = Breaker(
            Settings(config.failures, config.failures_of, int(config.open_s * 1e9), int(config.open_most_s * 1e9))
        )
        self.in_flight = 0
        language = anthropic if config.kind == "anthropic" else openai
        self._headers = language.headers
        self._key: _Key | None = None
        if config.credential:
            self._key = _Key(credential(f"upstream.{config.name}", Path(config.credential)))
        url = config.base_url.rstrip("/") + language.PATH
        self._wire = Wire(url, connect_s=config.connect_s, most=config.max_in_flight)

    def post(self, model: str, body: bytes, traceparent: str) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Make a call; the events of its answer.

        Raises:
            NoCredential: see there.
            UpstreamError, Garbage, Unreachable: see `Wire.post`.
        """
        key = self._key.read() if self._key is not None else ""
        headers = self._headers(key) | {
            "content-type": "application/json", "accept": "text/event-stream", "accept-encoding": "identity",
        }  # fmt: skip
        if traceparent:
            headers["traceparent"] = traceparent
        return self._wire.post(model, body, headers)

    async def close(self) -> None:
        """End its connections."""
        await self._wire.close()


class _Key:
    """A key that is read again when its file has changed, so that it can be replaced without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, str] = (0, "")
        self.read()

    def read(self) -> str:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._read[0]:
                text = self._path.read_bytes()[:MAX_KEY].decode("ascii").strip()
                if not text or not text.isprintable():
                    raise NoCredential(f"{self._path}: not a key: one line of ASCII is expected")
                self._read = (changed_ns, text)
        except (OSError, UnicodeDecodeError) as error:
            raise NoCredential(f"{self._path}: {getattr(error, 'strerror', None) or 'not ASCII'}") from None
        return self._read[1]
