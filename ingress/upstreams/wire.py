"""HTTP to one upstream, by aiohttp. What is said and how it is judged is not here.

Nothing of a call is left to the library that a client of ours could use: no redirect is followed (it would take the
credential along), no cookie kept, no proxy taken from the environment, no body decompressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from ingress.upstreams.heard import Garbage, Unreachable
from ingress.upstreams.refusals import from_status
from ingress.upstreams.sse import Event, Events

MAX_REFUSAL: Final = 64 << 10  # bytes of an answer that is none
END_S: Final = 0.05  # for what comes after the last event of an answer
KEEPALIVE_S: Final = 4.0  # of an idle connection: less than the five seconds that many servers keep theirs


class Wire:
    """Connections to one address, kept for the next call."""

    def __init__(self, url: str, *, connect_s: float, most: int) -> None:
        self._url, self._connect_s, self._most = url, connect_s, most
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(self, model: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[AsyncIterator[Event]]:
        """Make a call; the events of its answer.

        Raises:
            UpstreamError: it was answered with something else.
            Garbage: with something that cannot be understood.
            Unreachable: it cannot be spoken with, or hung up.
        """
        try:
            async with self._open().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                told = {name.lower(): value for name, value in response.headers.items()}
                if response.status != 200:
                    refusal = await _at_most(response, MAX_REFUSAL)
                    raise from_status(model, response.status, refusal, told, time.time())
                if told.get("content-encoding", "identity") != "identity":
                    raise Garbage("it compresses, and was asked not to")
                if not told.get("content-type", "").startswith("text/event-stream"):
                    raise Garbage("it answers with something that is no stream of events")
                yield _events(response)
                await _to_its_end(response)
        except aiohttp.ClientError as error:
            raise Unreachable(str(error) or type(error).__name__) from None

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._most, keepalive_timeout=KEEPALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("user-agent",),
            )
        return self._session


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    events = Events()
    async for data in response.content.iter_any():
        for event in events.feed(data):
            yield event


async def _to_its_end(response: aiohttp.ClientResponse) -> None:
    """Only a connection whose answer was read to its end is kept for the next call, and after the last event there is
    mostly an end to read."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            await response.content.readany()


async def _at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    found = b""
    async for data in response.content.iter_any():
        found += data
        if len(found) >= most:
            break
    return found[:most]
