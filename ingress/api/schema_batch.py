"""The form of an upload, for the OpenAPI document. What answers look like is `bus.messages.batches`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class UploadForm(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of `POST /v1/files`."""

    file: Annotated[bytes, Meta(description="One request of a batch in each line, as JSON.")]
    purpose: Literal["batch"]
    expires_anchor: Annotated[Literal["created_at"] | None, Meta(description="From when the time counts.")] = (
        msgspec.field(default=None, name="expires_after[anchor]")
    )
    expires_seconds: Annotated[
        Annotated[int, Meta(ge=3600, le=2_592_000)] | None, Meta(description="How long the file is kept.")
    ] = msgspec.field(default=None, name="expires_after[seconds]")
