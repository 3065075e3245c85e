"""One HTTP request as it is read: headers, body, and whether its client is still there. Nothing of what it means."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, TypeVar

from ingress.errors import ApiError, invalid_request, too_large

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
T = TypeVar("T")

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 32 << 10
MAX_NAME: Final = 512  # characters of a name that a client gives its request
REQUEST_ID: Final = b"x-request-id"
CLIENT_ID: Final = b"x-client-request-id"
RESUMABLE: Final = b"x-resumable"
RESUMABLE_YES: Final = ("true", "1", "?1", "yes", "on")  # `?1` is a boolean of RFC 9651
RESUMABLE_NO: Final = ("false", "0", "?0", "no", "off")
_NAME: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_NAME}}}")
BODY_S: Final = 60.0  # for a whole body to arrive
LINGER_S: Final = 1.0  # how long, and how much of, a body that was refused is read and thrown away: closing at once
LINGER_BYTES: Final = 16 << 20  # would reset the connection, and the client might never see the answer


def new_number() -> int:
    """The number of a request that is new; never 0."""
    return secrets.randbits(63) or 1


class Gone(Exception):
    """The client has disconnected."""


class Request:
    """One request, as far as it has been read.

    Attributes:
        turned_away: this process is being taken out, and the client can go to another.
        number: of the first request that it becomes, should it become one.
        name: what its client will know it by.
        reply_headers: of the answer, beside its own: what is found out on the way.
    """

    def __init__(self, scope: Scope, receive: Receive, max_body: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.parameter = ""
        self.query = scope.get("query_string", b"").decode("latin-1")
        self.turned_away: bool = scope["state"].get("turned_away", False)
        self.number = new_number()
        self.name = f"req_{self.number:016x}"
        self.reply_headers: list[tuple[bytes, bytes]] = []
        self._client: tuple[str, int] | None = scope.get("client")
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive, self._max_body = receive, max_body
        self._complete = False

    def header(self, name: bytes) -> str:
        """The value of a header, or an empty string."""
        return self.given(name) or ""

    def given(self, name: bytes) -> str | None:
        """The value of a header, None where it is not there."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), None)

    @property
    def authorization(self) -> str:
        """The client's credentials, or an empty string. A key in `x-api-key` is the same as one of a bearer."""
        if given := self.header(b"authorization"):
            return given
        key = self.header(b"x-api-key")
        return f"Bearer {key}" if key else ""

    def called(self, name: str) -> None:
        """The answer has an id of its own."""
        self.name = name

    def always(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer, whatever it is: what it is known by here, at its client, and what was found out."""
        headers = [(REQUEST_ID, self.name.encode())]
        if self.path.startswith("/v1/messages"):
            headers.append((b"request-id", self.name.encode()))  # where Anthropic's clients look
        if self.client_name:
            headers.append((CLIENT_ID, self.client_name.encode()))
        return headers + self.reply_headers

    @property
    def client_name(self) -> str:
        """What its client, or a proxy on the way, calls it; empty where it does not, or where that is no name."""
        given = self._client_name
        return given if _NAME.fullmatch(given) else ""

    @property
    def _client_name(self) -> str:
        return self.header(CLIENT_ID) or self.header(REQUEST_ID)

    @property
    def address(self) -> str:
        """Where the client is, or an empty string."""
        client = self._client
        return client[0] if client else ""

    @property
    def resumable(self) -> bool:
        """Whether generation goes on for the grace time when this client disconnects."""
        return self.header(RESUMABLE).lower() in RESUMABLE_YES

    def check_head(self) -> None:
        """Refuse floods of headers.

        Raises:
            ApiError: 431; 400 where what they say is not understood.
        """
        if self._client_name and not self.client_name:
            header = "X-Client-Request-Id" if self.header(CLIENT_ID) else "X-Request-Id"
            raise invalid_request(f"{header} is 1 to {MAX_NAME} visible ASCII characters.", param=header)
        resumable = self.given(RESUMABLE)
        if resumable is not None and resumable.lower() not in (*RESUMABLE_YES, *RESUMABLE_NO):
            raise invalid_request("X-Resumable is true or false.", param="X-Resumable")
        size = sum(len(name) + len(value) for name, value in self._headers)
        if len(self._headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            raise ApiError(
                431,
                "invalid_request_error",
                f"Too many headers: at most {MAX_HEADERS} and {MAX_HEADER_BYTES} bytes.",
                code="headers_too_large",
            )

    def check_length(self, most: int, setting: str) -> None:
        """Refuse a body that says that it is too large.

        Raises:
            ApiError: 413.
        """
        length = self.header(b"content-length")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large(f"The body is larger than {most} bytes ({setting}).")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, of any size: whoever reads it bounds it.

        Raises:
            Gone: the client has.
        """
        while not self._complete:
            yield await self._part()

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            ApiError: 413 as soon as it is too large; 408 when it does not come.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_S):
                while not self._complete:
                    part = await self._part()
                    size += len(part)
                    if size > self._max_body:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise ApiError(
                408, "invalid_request_error", f"The body did not arrive within {BODY_S:.0f} s.", code="timeout"
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def discard(self) -> None:
        """Read and forget what comes, within limits."""
        size = 0
        with contextlib.suppress(TimeoutError, Gone):
            async with asyncio.timeout(LINGER_S):
                while not self._complete and size < LINGER_BYTES:
                    size += len(await self._part())

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the client disconnects.

        Raises:
            Gone: it did.
        """
        task = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(self._disconnected())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            return task.result()
        finally:
            watcher.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                if not task.cancelled():
                    task.exception()  # it failed while it was being cancelled: nobody is left to tell

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self._complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _too_large(self) -> ApiError:
        return too_large(f"The body is larger than {self._max_body} bytes ([ingress] max_body).")
