"""What clients ask of files and batches, as what is done with database and vault. Who asks was found out before.

A file or batch of another project is as good as none.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from batch.core import state
from batch.core.state import Batch
from batch.database import Database, Page, StoredFile
from batch.refusals import Refusal, no_batch, no_file, no_room
from batch.vault import Gap, Vault
from bus.messages.batches import (
    PART_BYTES,
    Ask,
    BatchErrors,
    BatchList,
    BatchObject,
    BatchRef,
    BatchRequest,
    BatchStatus,
    Complete,
    FileDeleted,
    FileList,
    FileObject,
    FileRef,
    ListQuery,
    Part,
    Piece,
    Read,
    Taken,
    Whose,
)

DAY_S: Final = 86_400
MAX_FILENAME: Final = 255
SPARE_BYTES: Final = 64 << 20  # of the disk, that no upload may take
MAX_HOURS: Final = 168
FILES_AT_MOST, BATCHES_AT_MOST = 10_000, 100  # on one page
PARTS: Final = {"files.list": "files", "batches.list": "batches"}
_NUMBER: Final = re.compile(r"[0-9a-f]{32}")
_encode: Final = msgspec.json.Encoder().encode

T = TypeVar("T")


class Bounds(NamedTuple):
    """What a project may have.

    Attributes:
        file_bytes, project_bytes, project_batches: see `[batch]`.
        keep_s: that a file is kept whose client does not say.
    """

    file_bytes: int
    project_bytes: int
    project_batches: int
    keep_s: int


class Requests:
    """All operations.

    Args:
        now_s: Unix time.
        on_new: a batch was made. on_cancel: somebody does not want the rest of one; what it is then.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        bounds: Bounds,
        now_s: Callable[[], int],
        *,
        on_new: Callable[[Batch], None],
        on_cancel: Callable[[Batch], Batch],
    ) -> None:
        self._database, self._vault, self._bounds, self._now_s = database, vault, bounds, now_s
        self._on_new, self._on_cancel = on_new, on_cancel
        self._operations: dict[str, Callable[[Ask], msgspec.Struct]] = {
            "files.list": self._list_files,
            "files.retrieve": lambda ask: file_object(self._file(ask.whose, _body(ask, FileRef).file_id)),
            "files.delete": self._delete_file,
            "batches.create": self._create,
            "batches.list": self._list_batches,
            "batches.retrieve": lambda ask: batch_object(self._batch(ask.whose, _body(ask, BatchRef).batch_id)),
            "batches.cancel": self._cancel,
        }

    def answer(self, ask: Ask) -> bytes:
        """JSON.

        Raises:
            Refusal: it cannot be served.
        """
        if (operation := self._operations.get(ask.operation)) is None:
            raise Refusal(404, f"Nothing is known of {ask.operation} here.", code="unknown_url")
        try:
            return _encode(operation(ask))
        except sqlite3.Error as error:
            raise no_room(error) from None

    # --- files -----------------------------------------------------------------------------------------------------

    def take(self, part: Part) -> Taken:
        """A part of an upload.

        Raises:
            Refusal: 400, the file, or the project's files, would be too large; 409, a part is missing; 503, no room.
        """
        _check_number(part.upload)
        bounds, after = self._bounds, part.offset + len(part.data)
        if after > bounds.file_bytes:
            raise Refusal(
                413, f"The file is larger than {bounds.file_bytes} bytes ([batch] max_file).", code="file_too_large",
                param="file",
            )  # fmt: skip
        if self._database.stored_bytes(part.whose.project) + after > bounds.project_bytes:
            raise Refusal(
                400, f"The files of this project would have more than {bounds.project_bytes} bytes: delete some.",
                code="storage_quota_exceeded", param="file",
            )  # fmt: skip
        try:
            if self._vault.free_bytes() < SPARE_BYTES:
                raise no_room("the disk is full")
            return Taken(part.rid, self._vault.take(part.upload, part.offset, part.data))
        except Gap as gap:
            raise Refusal(409, f"{gap}: send it again.", code="upload_lost") from None
        except OSError as error:
            raise no_room(error) from None

    async def complete(self, message: Complete) -> bytes:
        """An upload becomes a file, once it is on the disk. The same number is the same file.

        Raises:
            Refusal: 400, not such a file; 503, no room.
        """
        _check_number(message.upload)
        _check_number(message.number)
        if message.purpose != "batch":
            raise Refusal(
                400, f'purpose is "batch"; files for {message.purpose[:40]!r} are of no use here.',
                code="invalid_purpose", param="purpose",
            )  # fmt: skip
        database, vault, id = self._database, self._vault, f"file-{message.number}"
        try:
            if (known := database.file(id)) is None:
                if vault.uploaded(message.upload):
                    await asyncio.to_thread(vault.sync, message.upload)
                elif not vault.holds(id):  # else this process died between name and row
                    raise Refusal(400, "The file is empty.", code="empty_file", param="file")
                known = database.file(id)
            if known is not None:  # it was uploaded twice at once, or the answer to this was lost
                vault.discard(message.upload)
                return _encode(file_object(known))
            if not vault.holds(id):
                vault.keep(message.upload, id)
            now_s = self._now_s()
            name = _plain(message.filename)[:MAX_FILENAME] or "upload.jsonl"
            expires_s = now_s + (message.ttl_s or self._bounds.keep_s)
            size = vault.size(id)
            file = StoredFile(id, message.whose.project, "batch", name, size, now_s, expires_s)
            database.add_file(file)
        except (OSError, sqlite3.Error) as error:
            raise no_room(error) from None
        return _encode(file_object(file))

    def discard(self, upload: str) -> None:
        """An upload that will not go on."""
        if _NUMBER.fullmatch(upload):
            self._vault.discard(upload)

    def read(self, message: Read) -> Piece:
        """A part of a file.

        Raises:
            Refusal: 404; 503, it cannot be read.
        """
        file = self._file(message.whose, message.file)
        try:
            most = max(0, min(message.most, PART_BYTES))
            return Piece(message.rid, file.size, self._vault.read(file.id, max(0, message.offset), most))
        except OSError as error:
            raise no_room(error) from None

    def _file(self, whose: Whose, id: str) -> StoredFile:
        file = self._database.file(id)
        if file is None or file.project != whose.project or file.expires_s <= self._now_s():
            raise no_file(id)
        return file

    def _list_files(self, ask: Ask) -> FileList:
        query = _body(ask, ListQuery)
        if query.after:
            self._file(ask.whose, query.after)
        most = query.limit or FILES_AT_MOST
        page = Page(query.after or "", most + 1, query.order == "asc", query.purpose or "")
        found = [file_object(file) for file in self._database.files(ask.whose.project, page)]
        shown = found[:most]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return FileList(data=shown, first_id=first, last_id=last, has_more=len(found) > most)

    def _delete_file(self, ask: Ask) -> FileDeleted:
        file = self._file(ask.whose, _body(ask, FileRef).file_id)
        if self._database.in_use(file.id):
            raise Refusal(409, f"A batch reads {file.id!r}: cancel it first.", code="file_in_use", param="file_id")
        self._database.drop_files([file.id])
        self._vault.drop([file.id])
        return FileDeleted(file.id)

    # --- batches ---------------------------------------------------------------------------------------------------

    def _create(self, ask: Ask) -> BatchObject:
        _check_number(ask.number)
        whose, request, id = ask.whose, _body(ask, BatchRequest), f"batch_{ask.number}"
        if (known := self._database.batch(id)) is not None and known.project == whose.project:
            return batch_object(known)
        hours = int(request.completion_window.removesuffix("h"))
        if hours > MAX_HOURS:
            raise Refusal(
                400, f"completion_window is at most {MAX_HOURS}h.", code="invalid_completion_window",
                param="completion_window",
            )  # fmt: skip
        file = self._database.file(request.input_file_id)
        if file is None or file.project != whose.project or file.expires_s <= self._now_s():
            raise Refusal(
                400, f"There is no file {request.input_file_id[:80]!r}.", code="file_not_found", param="input_file_id"
            )
        if file.purpose != "batch":
            raise Refusal(
                400, f"{file.id!r} holds results, not the lines of a batch.", code="invalid_purpose",
                param="input_file_id",
            )  # fmt: skip
        if self._database.open_count(whose.project) >= self._bounds.project_batches:
            raise Refusal(
                429, f"{self._bounds.project_batches} batches of this project are under way ([batch] project_batches).",
                code="too_many_batches", retry_after_s=60.0,
            )  # fmt: skip
        lasting = request.output_expires_after
        batch = Batch(
            id=id, project=whose.project, key=whose.key, endpoint=request.endpoint, input_file=file.id,
            created_s=self._now_s(), window_s=hours * 3600, completion_window=request.completion_window,
            metadata=request.metadata, output_ttl_s=0 if lasting is None else lasting.seconds,
        )  # fmt: skip
        self._database.add_batch(batch)
        self._on_new(batch)
        return batch_object(batch)

    def _batch(self, whose: Whose, id: str) -> Batch:
        batch = self._database.batch(id)
        if batch is None or batch.project != whose.project:
            raise no_batch(id)
        return batch

    def _list_batches(self, ask: Ask) -> BatchList:
        query = _body(ask, ListQuery)
        if query.after:
            self._batch(ask.whose, query.after)
        most = min(query.limit or 20, BATCHES_AT_MOST)
        page = Page(query.after or "", most + 1)
        found = [batch_object(batch) for batch in self._database.batches(ask.whose.project, page)]
        shown = found[:most]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return BatchList(data=shown, first_id=first, last_id=last, has_more=len(found) > most)

    def _cancel(self, ask: Ask) -> BatchObject:
        batch = self._batch(ask.whose, _body(ask, BatchRef).batch_id)
        try:
            return batch_object(self._on_cancel(batch))
        except state.Impossible as impossible:
            raise Refusal(
                409, f"The batch {batch.id!r} cannot be cancelled any more: {impossible}.",
                code="batch_not_cancellable", param="batch_id",
            ) from None  # fmt: skip


def file_object(file: StoredFile) -> FileObject:
    """As clients see it."""
    return FileObject(
        id=file.id, bytes=file.size, created_at=file.created_s, expires_at=file.expires_s, filename=file.filename,
        purpose=file.purpose,
    )  # fmt: skip


def batch_object(batch: Batch) -> BatchObject:
    """As clients see it."""

    def at(status: BatchStatus) -> int | None:
        return batch.times.get(status)

    return BatchObject(
        id=batch.id, endpoint=batch.endpoint, model=batch.model or None,
        errors=BatchErrors(data=list(batch.errors)) if batch.errors else None, input_file_id=batch.input_file,
        completion_window=batch.completion_window, status=batch.status, output_file_id=batch.output_file or None,
        error_file_id=batch.error_file or None, created_at=batch.created_s, expires_at=batch.expires_s,
        in_progress_at=at("in_progress"), finalizing_at=at("finalizing"), completed_at=at("completed"),
        failed_at=at("failed"), expired_at=at("expired"), cancelling_at=at("cancelling"),
        cancelled_at=at("cancelled"), request_counts=batch.counts, usage=batch.usage, metadata=batch.metadata,
    )  # fmt: skip


def result_id(batch: str, kind: str) -> str:
    """Of the file of a batch's results: made again, it is the same file."""
    return f"file-{hashlib.blake2b(f'{batch} {kind}'.encode(), digest_size=16).hexdigest()}"


def _body(ask: Ask, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(ask.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"The body is wrong: {error}", code="invalid_json") from None


def _check_number(number: str) -> None:
    if _NUMBER.fullmatch(number) is None:
        raise Refusal(400, "Not the number of an upload or batch.", code="invalid_number")


def _plain(name: Any) -> str:
    """A file's name without folders and control characters: it is shown, and never used as a path."""
    return "".join(each for each in str(name).replace("\\", "/").rpartition("/")[2] if each.isprintable())
