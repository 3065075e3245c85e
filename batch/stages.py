"""The long work of a batch, beside its lines: its file is read and checked, its results are written.

Each stage may be begun again from its beginning at any moment: what it has done is either undone first, or done again
to the same end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec

from batch.core import state
from batch.core.lines import Checker, Splitter
from batch.core.state import Batch
from batch.database import Database, StoredFile, Written
from batch.requests import result_id
from batch.vault import Vault

CHUNK_BYTES: Final = 128 << 10  # of a file in one turn of the loop
_encode: Final = msgspec.json.Encoder().encode
_WHY: Final = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "expired": ("batch_expired", "The batch expired before this request was answered."),
}


async def check(batch: Batch, database: Database, vault: Vault, *, longest: int, most: int, now_s: int) -> Batch:
    """Read a batch's file: what the batch is then, which is not saved yet; its lines are.

    Args:
        longest: bytes of a line. most: lines.

    Raises:
        OSError, sqlite3.Error: file or database cannot be used now.
    """
    database.forget_lines(batch.id)
    splitter, checker = Splitter(longest), Checker(batch.endpoint, most)
    for chunk in vault.chunks(batch.input_file, CHUNK_BYTES):
        found = [line for raw in splitter.feed(chunk) if (line := checker.look(raw)) is not None]
        if checker.hopeless:
            break
        database.add_lines(batch.id, found)
        await asyncio.sleep(0)  # those who ask come first
    database.add_lines(batch.id, [line for raw in splitter.end() if (line := checker.look(raw)) is not None])
    checker.end()
    if checker.problems:
        database.forget_lines(batch.id)
        return state.invalid(batch, tuple(checker.problems), now_s)
    return state.validated(batch, checker.model, checker.lines, now_s)


async def write_results(
    batch: Batch, database: Database, vault: Vault, *, keep_s: int, now_s: int
) -> tuple[Batch, list[StoredFile]]:
    """Write a batch's results; what it is then, and its files, of which neither is saved yet. In order of the lines,
    so the same answers are the same bytes.

    Raises:
        OSError, sqlite3.Error: they cannot be written now.
    """
    good = await asyncio.to_thread(_write, batch, database, vault, "output", now_s, keep_s)
    bad = await asyncio.to_thread(_write, batch, database, vault, "error", now_s, keep_s)
    files = [file for file in (good, bad) if file is not None]
    return state.ended(batch, good.id if good else "", bad.id if bad else "", now_s), files


def _write(batch: Batch, database: Database, vault: Vault, kind: str, now_s: int, keep_s: int) -> StoredFile | None:
    """One of the two files; None where nothing is in it."""
    id = result_id(batch.id, kind)
    size = vault.write(id, _lines(batch, database, good=kind == "output"))
    if not size:
        vault.drop([id])
        return None
    expires_s = now_s + (batch.output_ttl_s or keep_s)
    return StoredFile(
        id, batch.project, "batch_output", f"{batch.id}_{kind}.jsonl", size, now_s, expires_s
    )  # fmt: skip


def _lines(batch: Batch, database: Database, *, good: bool) -> Iterator[bytes]:
    for line in database.written(batch.id):
        if (line.status == 200) == good:
            yield _encode(_result(batch, line)) + b"\n"


def _result(batch: Batch, line: Written) -> dict[str, object]:
    id = f"batch_req_{batch.id.removeprefix('batch_')}_{line.number}"
    if not line.status:
        code, message = _WHY[batch.ending]
        return {"id": id, "custom_id": line.custom_id, "response": None, "error": {"code": code, "message": message}}
    body = line.body if b"\n" not in line.body else msgspec.json.format(line.body, indent=-1)
    response = {"status_code": line.status, "request_id": line.request or id, "body": msgspec.Raw(body)}
    return {"id": id, "custom_id": line.custom_id, "response": response, "error": None}
