"""Files and batches over HTTP: one request at a time, bodies in pieces. What is shown is not decided here."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bus.messages.batches import BatchList, BatchObject, FileObject

PIECE: Final = 1 << 18
TIMEOUT_S: Final = 150.0  # a large file is on the disk before it is answered
PATIENCE_S: Final = 60.0  # for a server that is away
_PAUSE_S: Final = 0.5
_BOUNDARY: Final = "headrace-batch-7d1f0c2e"


class ApiFailed(Exception):
    """The server refused, or could not be reached. The message says why.

    Attributes:
        status: 0 where there was no answer.
        code: of OpenAI's error, or empty.
    """

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Api:
    """An endpoint.

    Args:
        base: URL up to and without `/v1`.
        key: sent as a bearer's; empty sends none.
    """

    def __init__(self, base: str, key: str) -> None:
        parts = urlsplit(base if "//" in base else f"http://{base}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiFailed(0, f"{base} is not the URL of a server")
        self.base = f"{parts.scheme}://{parts.netloc}"
        self._secure, self._netloc = parts.scheme == "https", parts.netloc
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def upload(self, path: Path, number: str, told: Callable[[int], None]) -> FileObject:
        """Upload the lines of a batch. `told` of so many bytes more.

        Raises:
            ApiFailed: see there.
            OSError: the file cannot be read.
        """
        name = json.dumps(path.name)
        head = (
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename={name}\r\n\r\n'
        ).encode()
        tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size

            def pieces() -> Iterator[bytes]:
                yield head
                left = size  # the length is promised: what is appended meanwhile is not sent
                while left and (piece := file.read(min(PIECE, left))):
                    left -= len(piece)
                    yield piece
                    told(len(piece))
                yield tail

            body = self._request(
                "POST", "/v1/files", pieces(),
                {
                    "content-type": f"multipart/form-data; boundary={_BOUNDARY}",
                    "content-length": str(len(head) + size + len(tail)), "idempotency-key": number,
                },
            )  # fmt: skip
        return msgspec.json.decode(body, type=FileObject)

    def create(self, file: str, endpoint: str, window: str, number: str) -> BatchObject:
        """Make a batch, or find the one that was made with that number.

        Raises:
            ApiFailed: see there.
        """
        given = {"input_file_id": file, "endpoint": endpoint, "completion_window": window}
        body = json.dumps(given).encode()
        headers = {"content-type": "application/json", "idempotency-key": number}
        return self._batch(lambda: self._request("POST", "/v1/batches", body, headers))

    def batch(self, id: str) -> BatchObject:
        """As it is now.

        Raises:
            ApiFailed: see there.
        """
        return self._batch(lambda: self._request("GET", f"/v1/batches/{id}"))

    def cancel(self, id: str) -> BatchObject:
        """Not wanted any more.

        Raises:
            ApiFailed: see there.
        """
        return self._batch(lambda: self._request("POST", f"/v1/batches/{id}/cancel"))

    def batches(self, limit: int) -> BatchList:
        """The newest.

        Raises:
            ApiFailed: see there.
        """
        return msgspec.json.decode(self._patiently(lambda: self._request("GET", f"/v1/batches?limit={limit}")),
                                   type=BatchList)  # fmt: skip

    def download(self, file: str, path: Path, told: Callable[[int, int], None]) -> None:
        """Write a file, all of it or nothing. `told` of so many bytes, of how many.

        Raises:
            ApiFailed: see there.
            OSError: it cannot be written.
        """
        part = path.with_name(path.name + ".part")

        def fetch() -> bytes:
            connection, answer = self._open("GET", f"/v1/files/{file}/content", None, {})
            try:
                size, count = int(answer.headers.get("content-length", 0)), 0
                with open(part, "wb") as out:
                    while piece := answer.read(PIECE):
                        out.write(piece)
                        count += len(piece)
                        told(count, size)
                if count < size:
                    raise ApiFailed(0, f"{self.base}: {file} was cut off after {count} of {size} bytes")
            except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise ApiFailed(0, f"{self.base}: {error or type(error).__name__}") from None
            finally:
                connection.close()
            return b""

        try:
            self._patiently(fetch)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _batch(self, ask: Callable[[], bytes]) -> BatchObject:
        return msgspec.json.decode(self._patiently(ask), type=BatchObject)

    def _patiently(self, ask: Callable[[], bytes]) -> bytes:
        """A server that is being restarted is asked again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except ApiFailed as failed:
                if failed.status not in (0, 502, 503) or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE_S)

    def _request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
        connection, answer = self._open(method, path, body, headers or {})
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiFailed(0, f"{self.base}: {error}") from None
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """An answer of status 200, whose body is still to come."""
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._netloc, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(self._netloc, timeout=TIMEOUT_S)
        try:
            try:
                connection.request(method, self._prefix + path, body, {**self._headers, **headers})
            except ConnectionError:
                if connection.sock is None:
                    raise
                # It was refused before all of it was sent; why, may be here to be read.
            answer = connection.getresponse()
            if answer.status != 200:
                raise _failed(answer)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiFailed(0, f"{self.base}: {getattr(error, 'strerror', None) or error}") from None
        except ApiFailed:
            connection.close()
            raise
        return connection, answer


def _failed(answer: http.client.HTTPResponse) -> ApiFailed:
    try:
        error = json.loads(answer.read())["error"]
        return ApiFailed(answer.status, str(error["message"]), str(error.get("code") or ""))
    except (ValueError, LookupError, TypeError):
        return ApiFailed(answer.status, f"status {answer.status}")
