"""A request over HTTP, as a client does it that means to get its whole answer.

The rule: a POST whose connection breaks before the first byte of the answer is sent again, with the same seed, and some
with a key, so that what a dead ingress had begun is not begun anew. From then on the response has an id, and the rest
of its stream is fetched from whichever ingress the port leads to, after the last event that came whole. Nothing else is
tried twice: a refusal is an outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx
import msgspec

from chaos.catalogue import Entry
from chaos.outcome import Outcome, Request

PATIENCE_S: Final = 30.0  # for an ingress to answer, once a connection broke
_PAUSE_S: Final = 0.1
_HELD_S: Final = 1.0
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class HttpDoor:
    """The shared port of all ingresses.

    Args:
        url: of the stack.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # A connection of its own for each request, so that the kernel spreads them over the ingresses.
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_keepalive_connections=0))

    async def close(self) -> None:
        """Give up the connections."""
        await self._client.aclose()

    async def make(self, request: Request, entry: Entry, outcome: Outcome) -> None:
        """Make the request; what happens goes into `outcome` as it happens."""
        body = dict(entry.body)
        if request.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        path = f"{self._url}/v1/{entry.operation.replace('.', '/')}"
        headers = {"content-type": "application/json", "authorization": f"Bearer key-{request.number % 7}"}
        if request.stream and request.manners != "leave":
            headers["x-resumable"] = "true"
        if not request.stream and request.number % 2:
            headers["idempotency-key"] = secrets.token_hex()
        posted = self._client.build_request("POST", path, content=msgspec.json.encode(body), headers=headers)
        if request.stream:
            await self._stream(request, posted, outcome)
        elif request.manners == "leave":
            await self._hang_up_waiting(request, posted, outcome)
        else:
            await self._whole(posted, outcome)

    # --- answers in one piece --------------------------------------------------------------------------------------

    async def _whole(self, posted: httpx.Request, outcome: Outcome) -> None:
        reply = await self._answered(posted, outcome)
        if reply is None:
            return
        async with contextlib.aclosing(reply):
            try:
                content = await reply.aread()
            except httpx.TransportError as error:
                outcome.breaks.append(time.monotonic())
                outcome.error = f"broke off in the middle of a body: {error!r}"
                return
        outcome.answer.body(_decode(content))
        outcome.complete = True

    async def _hang_up_waiting(self, request: Request, posted: httpx.Request, outcome: Outcome) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1 * request.after):
                await self._whole(posted, outcome)
        outcome.left = not outcome.complete and not outcome.error

    # --- streams ---------------------------------------------------------------------------------------------------

    async def _stream(self, request: Request, posted: httpx.Request, outcome: Outcome) -> None:
        reply = await self._answered(posted, outcome)
        if reply is None:
            return
        outcome.response = reply.headers.get("x-request-id", "")
        last = 0
        while True:
            wanted = last + request.after if request.manners != "stay" and not outcome.resumed else 0
            last, done = await self._read(reply, last, wanted, outcome)
            if done or outcome.error:
                return
            hung_up = wanted and last >= wanted
            if hung_up and request.manners == "leave":
                outcome.left = True
                return
            resumed = await self._resumed(posted, last, outcome)
            if resumed is None:
                return
            reply = resumed

    async def _read(self, reply: httpx.Response, last: int, wanted: int, outcome: Outcome) -> tuple[int, bool]:
        """Events until the end, a break, or number `wanted`: the number of the last, and whether all is there."""
        try:
            async with contextlib.aclosing(reply), contextlib.aclosing(_events(reply)) as events:
                async for name, data in events:
                    outcome.times.append(time.monotonic())
                    if data == "[DONE]":
                        outcome.complete = True
                        return last, True
                    body = _decode(data)
                    if "error" in body:
                        outcome.error = f"error in the stream: {body['error']}"
                        return last, False
                    if name != f"{outcome.response}:{last + 1}":
                        outcome.oddities.append(f"event {name!r} came after {outcome.response}:{last}")
                    last += 1
                    outcome.answer.chunk(body)
                    if wanted and last >= wanted:
                        return last, False
        except httpx.TransportError:
            pass
        outcome.breaks.append(time.monotonic())
        return last, False

    async def _resumed(self, posted: httpx.Request, last: int, outcome: Outcome) -> httpx.Response | None:
        """The rest of a stream, from whoever has it now; None where nobody has, which is an error."""
        headers = {"authorization": posted.headers["authorization"]}
        if last:
            headers["last-event-id"] = f"{outcome.response}:{last}"
        asked = self._client.build_request("GET", f"{self._url}/v1/streams/{outcome.response}", headers=headers)
        outcome.resumed += 1
        return await self._answered(asked, outcome, passing=(503,))

    async def _answered(
        self, request: httpx.Request, outcome: Outcome, passing: tuple[int, ...] = ()
    ) -> httpx.Response | None:
        """The head of a good answer. Connections that break before it are tried again; None where it is refused."""
        until = time.monotonic() + PATIENCE_S
        problem = ""
        while (asked_at := time.monotonic()) < until:
            try:
                reply = await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                outcome.breaks.append(time.monotonic())
                if outcome.breaks[-1] - asked_at > _HELD_S:  # it was being answered until then
                    until = outcome.breaks[-1] + PATIENCE_S
                outcome.resent += request.method == "POST"
                problem = repr(error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if reply.status_code == 200:
                return reply
            async with contextlib.aclosing(reply):
                problem = f"{request.method} was refused: {reply.status_code} {(await reply.aread()).decode()}"
            if reply.status_code not in passing:
                break
            await asyncio.sleep(_PAUSE_S)
        outcome.error = problem
        return None


async def _events(reply: httpx.Response) -> AsyncGenerator[tuple[str, str], None]:
    """Server-sent events that came whole: id and data."""
    name, data = "", ""
    async for line in reply.aiter_lines():
        if line.startswith("id: "):
            name = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield name, data
            name, data = "", ""
