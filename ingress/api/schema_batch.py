"""The form of an upload, for the OpenAPI document. What answers look like is `bus.messages.batches`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

PURPOSES: Final = (
    "batch", "batch_output", "assistants", "assistants_output", "evals", "fine-tune", "fine-tune-results", "user_data",
    "vision",
)  # fmt: skip
"""OpenAI's names of what files are for. Those here are for the first two; a list of any other is empty."""


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
