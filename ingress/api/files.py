"""Files over HTTP: in as forms, out as they are. A part of one is held at a time, whatever it has of bytes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from bus.messages.batches import PART_BYTES
from ingress.api.batches import Batches
from ingress.api.form import Form
from ingress.api.jobs import Caller
from ingress.api.once import checked
from ingress.api.request import Gone, Request
from ingress.api.sse import Headers, Sink
from ingress.batches import new_number
from ingress.errors import ApiError, invalid_request

UPLOAD_S: Final = 3600.0  # for all of a file to arrive
STILL_S: Final = 60.0  # for some of it to
FORM_BYTES: Final = 64 << 10  # of a form, beside its file
_FIELDS: Final = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_SECONDS: Final = (3600, 2_592_000)


class Files:
    """Uploads and downloads.

    Args:
        batches: the way to what keeps them.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def upload(self, request: Request, caller: Caller) -> bytes:
        """Take a file: its JSON.

        Raises:
            ApiError: 4xx, the form is wrong or too large; 408, it does not come; 503, nobody keeps it now.
            Gone: the client has.
        """
        whose, link = self._batches.may_change(caller), self._batches.link
        key = checked(request.header(b"idempotency-key"))
        form = Form(request.header(b"content-type"), _FIELDS)
        upload, digest = new_number(), hashlib.sha256()
        offset, held = 0, bytearray()

        async def send() -> None:
            nonlocal offset
            data = bytes(held)
            held.clear()
            if key:
                digest.update(data)
            await link.take(whose, upload, offset, data)
            offset += len(data)

        try:
            async for part in _parts(request):
                held += form.feed(part)
                if len(held) >= PART_BYTES:
                    await send()
            form.end()
            if held:
                await send()
            number = _number(key, whose.project, digest.digest()) if key else upload
            purpose, ttl_s = form.values.get("purpose", ""), _ttl_s(form.values)
            if not purpose:
                raise invalid_request("purpose is missing.", param="purpose", code="missing_required_parameter")
            return await link.complete(whose, upload, number, form.filename or "", purpose, ttl_s)
        except BaseException:
            if offset:
                link.discard(upload)
            raise

    async def download(self, file: str, caller: Caller, sink: Sink, headers: Headers) -> None:
        """Write a file to a client, as fast as that reads.

        Raises:
            ApiError: 404 or 503, before anything is written.
            Gone: it cannot be completed; the client sees that from its length.
        """
        whose, link = self._batches.whose(caller), self._batches.link
        piece = await link.read(whose, file, 0, PART_BYTES)
        disposition = f"attachment; filename*=UTF-8''{quote(file, safe='')}.jsonl"
        await sink.start(200, [
            (b"content-type", b"application/jsonl"), (b"content-length", str(piece.size).encode()),
            (b"content-disposition", disposition.encode()), *headers,
        ])  # fmt: skip
        offset = 0
        while offset < piece.size and piece.data:
            await sink.write(piece.data)
            offset += len(piece.data)
            if offset < piece.size:
                try:
                    piece = await link.read(whose, file, offset, PART_BYTES)
                except ApiError:
                    raise Gone from None
        if offset < piece.size:
            raise Gone
        await sink.end()


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """The body, in pieces.

    Raises:
        ApiError: 408.
    """
    late = ApiError(408, "invalid_request_error", "The file did not arrive in time.", code="timeout")
    until = asyncio.get_running_loop().time() + UPLOAD_S
    pieces = request.pieces()
    while True:
        try:
            async with asyncio.timeout(min(STILL_S, until - asyncio.get_running_loop().time())):
                part = await anext(pieces, None)
        except TimeoutError:
            raise late from None
        if part is None:
            return
        yield part


def _number(key: str, project: str, content: bytes) -> str:
    """Of a file: the same key and bytes are the same file, with other bytes it is another one."""
    digest = hashlib.blake2b(digest_size=16, person=b"headrace file")
    for part in (key.encode(), project.encode(), content):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _ttl_s(values: dict[str, str]) -> int:
    """Of `expires_after`; 0 where it is not given.

    Raises:
        ApiError: 400.
    """
    anchor, seconds = values.get("expires_after[anchor]"), values.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return 0
    if anchor != "created_at":
        raise invalid_request('expires_after[anchor] is "created_at".', param="expires_after[anchor]")
    least, most = _SECONDS
    if seconds is None or not (seconds.isascii() and seconds.isdigit()) or not least <= int(seconds[:9]) <= most:
        raise invalid_request(f"expires_after[seconds] is from {least} to {most}.", param="expires_after[seconds]")
    return int(seconds)
