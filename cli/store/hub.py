"""The Hugging Face hub over HTTPS: what a repository holds, and a file of it, from where an earlier attempt stopped.

`$HF_ENDPOINT` names a mirror, `$HF_TOKEN` opens gated repositories.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.store.files import CHUNK, PullFailed

_TIMEOUT_S: Final = 60.0


class LargeFile(msgspec.Struct, frozen=True):
    """Git LFS: `oid` is the content's sha256."""

    oid: str
    size: int


class HubEntry(msgspec.Struct, frozen=True):
    """A file of a repository. `oid` is git's own hash of a small file: sha1 over a header and the content."""

    type: str
    path: str
    size: int = 0
    oid: str = ""
    lfs: LargeFile | None = None


def endpoint() -> str:
    """Where the hub is."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def file_url(repository: str, path: str) -> str:
    """Of one file, at the tip of its main branch."""
    return f"{endpoint()}/{repository}/resolve/main/{urllib.parse.quote(path)}"


def list_files(repository: str) -> list[HubEntry]:
    """Every file of a repository.

    Raises:
        PullFailed: it cannot be reached, read, or is no repository.
    """
    url = f"{endpoint()}/api/models/{repository}/tree/main?recursive=1"
    try:
        with _open(url, {}) as answer:
            entries = msgspec.json.decode(answer.read(), type=list[HubEntry])
    except msgspec.DecodeError as error:
        raise PullFailed(f"{url}: not what the hub answers: {error}") from None
    return [entry for entry in entries if entry.type == "file"]


def download(url: str, to: Path, total: int, progress: Callable[[int], None]) -> None:
    """Fetch `total` bytes into `to`, which holds what came so far: when this ends and when it fails.

    Raises:
        PullFailed: the server refuses, breaks off, or sends something of another size. Try again: it goes on.
        OSError: the disk is full.
    """
    have = to.stat().st_size if to.exists() else 0
    if have > total:
        to.unlink()
        have = 0
    if have == total:
        return
    with _open(url, {"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status != 206:
            have = 0  # a server that does not know ranges starts over, and so do we
        with to.open("ab" if have else "wb") as out:
            while chunk := _read(answer, url):
                out.write(chunk)
                have += len(chunk)
                progress(have)
    if have != total:
        raise PullFailed(f"{url}: {have} bytes came, {total} were expected; pull again: it goes on where it was")


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "headrace", **headers})
    if token := os.environ.get("HF_TOKEN"):
        # The hub sends downloads on to another host, which must not see the token.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise PullFailed(f"{url}: not allowed; accept the model's terms on the hub and set HF_TOKEN") from None
        raise PullFailed(f"{url}: {'does not exist' if error.code == 404 else f'status {error.code}'}") from None
    except urllib.error.URLError as error:
        raise PullFailed(f"{endpoint()}: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise PullFailed(f"{endpoint()}: {error}") from None


def _read(answer: Any, url: str) -> bytes:
    try:
        chunk: bytes = answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise PullFailed(f"{url}: broke off ({error}); pull again: it goes on where it was") from None
    return chunk
