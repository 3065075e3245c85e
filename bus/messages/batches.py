"""ingress <-> batch: files and batches, which clients know as `/v1/files` and `/v1/batches`.

The ingress knows who asks; the batch process has what there is. Everything that is asked can be asked again after a
lost answer, and is the same: parts of an upload say where they belong, what makes something new carries the number
that its id is made of, and reading changes nothing. So an ingress says again whatever was not answered when the batch
process died. A file is sent and read in parts, one at a time: neither side holds more of it.

The lines of a batch do not travel here: the batch process is a client of the ingresses for them (`clients`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bus.messages.clients import Operation
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome

PART_BYTES: Final = 1 << 20  # of a file, in one message

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
Purpose = Literal["batch", "batch_output"]


class Whose(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """On whose behalf.

    Attributes:
        project: that files and batches belong to; empty where nobody is told apart.
        key: id of the key that was shown.
    """

    project: str
    key: str


class Ask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """Do this. Answered by `Answered`.

    Attributes:
        number: 32 hexadecimal digits, of what this makes: the same number makes nothing new.
    """

    rid: int
    whose: Whose
    operation: Operation
    body: bytes
    number: str


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """A part of an upload, from byte `offset` on. Answered by `Taken`, or `Answered` with why not."""

    rid: int
    whose: Whose
    upload: str
    offset: int
    data: bytes


class Complete(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """That was all of an upload. Answered by `Answered`, when the file is on the disk.

    Attributes:
        number: of the file; made of key, project and bytes where an `Idempotency-Key` was given.
        ttl_s: seconds that the file is kept; 0 takes the configured time.
    """

    rid: int
    whose: Whose
    upload: str
    number: str
    filename: str
    purpose: str
    ttl_s: int = 0


class Discard(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """An upload will not go on. Not answered."""

    upload: str


class Read(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=14):
    """A part of a file. Answered by `Piece`, or `Answered` with why not."""

    rid: int
    whose: Whose
    file: str
    offset: int
    most: int


class Answered(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=20):
    """The answer: the JSON body of status 200, or of an error."""

    rid: int
    status: int
    body: bytes
    retry_after_s: float = 0.0


class Taken(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=21):
    """An upload has so many bytes now."""

    rid: int
    size: int


class Piece(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=22):
    """A part of a file of `size` bytes."""

    rid: int
    size: int
    data: bytes


ToBatch = Hello | Heartbeat | Nack | Bye | Ask | Part | Complete | Discard | Read
FromBatch = Welcome | Heartbeat | Nack | Bye | Answered | Taken | Piece


# --- JSON of the API --------------------------------------------------------------------------------------------------


class ExpiresAfter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a file is kept, from when it is made: an hour to thirty days."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/batches`."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=256)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Annotated[
        str, Meta(pattern=r"^[1-9][0-9]{0,2}h$", description='"24h", or up to "168h": what is not done then expires.')
    ]
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of files or batches is wanted; `purpose` is for files, `order` too."""

    after: Annotated[str, Meta(max_length=256)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class FileRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which file is meant."""

    file_id: str


class BatchRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which batch is meant."""

    batch_id: str


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as OpenAI's API has it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileDeleted(msgspec.Struct, frozen=True):
    """A file is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with an input file; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, or the first hundred."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class CachedTokens(msgspec.Struct, frozen=True):
    """Of the input."""

    cached_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True):
    """Of the output."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of all lines that were answered."""

    input_tokens: int = 0
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens: int = 0
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, as OpenAI's API has it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    metadata: dict[str, str] | None = None


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
