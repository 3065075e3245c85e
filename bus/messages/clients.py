"""client <-> ingress over ZeroMQ: the same pipeline as HTTP, so the same bodies.

A call carries the JSON body that the HTTP endpoint of that operation would get, and is checked by the same code
with the same errors. What the ingress answers are the same JSON bodies: one `Chunk` per SSE event for a stream,
one `Reply` otherwise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome

Operation = Literal[
    "models", "chat.completions", "completions", "tokenize", "detokenize", "ready", "progress",
    "responses", "responses.retrieve", "responses.cancel", "responses.delete", "responses.input_items",
    "responses.conversation", "messages", "messages.count_tokens", "embeddings", "rerank",
    "files.list", "files.retrieve", "files.delete",
    "batches.create", "batches.list", "batches.retrieve", "batches.cancel",
    "adapters.load", "adapters.unload",
]  # fmt: skip


class Call(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """Do this. `call` is chosen by the client, unique among its open calls.

    Attributes:
        traceparent: of the trace that the client is in (W3C Trace Context), or empty.
        once: what an `Idempotency-Key` is over HTTP: the same call made again with it is answered once.
        behalf: id of the key whose owner a line of a batch is for; of the batch process only.
    """

    call: int
    operation: Operation
    body: bytes = b"{}"
    authorization: str = ""
    traceparent: str = ""
    once: str = ""
    behalf: str = ""


class Cancel(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """Not wanted any more. Idempotent, not answered."""

    call: int


class Forget(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """These answers to keyed calls are written down where they belong: keep them no longer. Of the batch process only;
    not answered."""

    responses: tuple[str, ...]


class Resume(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """Go on with a stream from after event `last_event`, on this or another ingress."""

    call: int
    response_id: str
    last_event: int
    authorization: str = ""


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=20):
    """One event of a stream; `event` counts from 1. `body` is the JSON of the SSE `data:` line."""

    call: int
    event: int
    body: bytes


class StreamEnd(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=21):
    """The stream is complete: what `data: [DONE]` is over HTTP."""

    call: int


class Reply(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=22):
    """The whole answer of a call that does not stream."""

    call: int
    body: bytes


class CallFailed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=23):
    """The call ended in an error: the HTTP status and the OpenAI error envelope as JSON."""

    call: int
    status: int
    body: bytes
    retry_after_s: float = 0.0


ToIngressFromClient = Hello | Heartbeat | Nack | Bye | Call | Cancel | Resume | Forget
ToClient = Welcome | Heartbeat | Nack | Bye | Chunk | StreamEnd | Reply | CallFailed
