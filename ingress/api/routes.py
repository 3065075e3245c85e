"""What is served over HTTP: one table, from which requests are dispatched and the OpenAPI document is written."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from bus.messages.batches import BatchList, BatchObject, BatchRequest, FileDeleted, FileList, FileObject
from bus.messages.clients import Operation
from ingress.api.schema_batch import PURPOSES, UploadForm
from ingress.api.schema_chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from ingress.api.schema_completion import Completion, CompletionRequest
from ingress.api.schema_encoding import EmbeddingList, EmbeddingRequest, Reranking, RerankRequest
from ingress.api.schema_messages import (
    AnthropicMessage,
    CountRequest,
    MessagesRequest,
    MessageStreamEvent,
    TokenCount,
)
from ingress.api.schema_other import (
    AdapterUnloaded,
    DetokenizeReply,
    DetokenizeRequest,
    Health,
    LoadAdapterRequest,
    ModelCard,
    ModelList,
    Progress,
    Readiness,
    TokenizeReply,
    TokenizeRequest,
    UnloadAdapterRequest,
)
from ingress.api.schema_responses import (
    ItemList,
    Response,
    ResponseDeleted,
    ResponsesRequest,
    ResponseStreamEvent,
)

# What a front does by itself, beside the pipeline's operations.
Own = Literal["health", "metrics", "openapi", "model", "stream", "files.create", "files.content"]


class Route(NamedTuple):
    """One method of one path.

    Attributes:
        path: with one part in braces where that is a parameter.
        does: an operation of the pipeline, or something of the front's own.
        request, reply: types of the bodies; None where there is none, or it is not JSON.
        chunk: type of an event's data, or several, where the answer may be a stream.
        done: the last event of a stream is `[DONE]`.
        query: parameters of the query string, as OpenAPI writes their schemas.
        errors: statuses it may answer with beside 200.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    does: Operation | Own
    summary: str
    request: type | None = None
    reply: type | None = None
    chunk: Any = None
    media: str = "application/json"
    errors: tuple[int, ...] = ()
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    done: bool = True


_GENERATION = (400, 404, 408, 413, 429, 500, 503)
_BODY = (400, 404, 408, 413, 500)
_KEPT = (400, 404, 410, 500, 503)
_MESSAGES = (400, 404, 408, 413, 429, 500, 529)
_ID: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 256}
_FILES = (400, 404, 409, 503)
_BOOLEAN: dict[str, Any] = {"type": "string", "enum": ["true", "false"]}

ROUTES: Final = (
    Route("GET", "/v1/models", "models", "List the served models.", reply=ModelList),
    Route("GET", "/v1/models/{model}", "model", "One served model.", reply=ModelCard, errors=(404,)),
    Route(
        "POST",
        "/v1/chat/completions",
        "chat.completions",
        "Answer a conversation.",
        ChatRequest,
        ChatCompletion,
        ChatCompletionChunk,
        errors=_GENERATION,
    ),
    Route(
        "POST",
        "/v1/completions",
        "completions",
        "Continue a text.",
        CompletionRequest,
        Completion,
        Completion,
        errors=_GENERATION,
    ),
    Route(
        "POST", "/v1/responses", "responses", "Answer as a response, which can be kept.",
        ResponsesRequest, Response, ResponseStreamEvent, errors=_GENERATION, done=False,
    ),
    Route(
        "GET", "/v1/responses/{response_id}", "responses.retrieve", "A kept response, or its events.",
        reply=Response, chunk=ResponseStreamEvent, errors=_KEPT, done=False,
        query=(("stream", _BOOLEAN), ("starting_after", {"type": "integer", "minimum": 0, "maximum": 10**17})),
    ),
    Route(
        "DELETE", "/v1/responses/{response_id}", "responses.delete", "Keep a response no longer.",
        reply=ResponseDeleted, errors=_KEPT,
    ),
    Route(
        "POST", "/v1/responses/{response_id}/cancel", "responses.cancel", "End a response in the background.",
        reply=Response, errors=(*_KEPT, 408, 413),
    ),
    Route(
        "GET", "/v1/responses/{response_id}/input_items", "responses.input_items", "What a kept response was asked.",
        reply=ItemList, errors=_KEPT,
        query=(
            ("after", {"type": "string", "minLength": 1, "maxLength": 256}),
            ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
        ),
    ),
    Route(
        "POST", "/v1/messages", "messages", "Answer a conversation, as Anthropic's API does.",
        MessagesRequest, AnthropicMessage, MessageStreamEvent, errors=_MESSAGES, done=False,
    ),
    Route(
        "POST", "/v1/messages/count_tokens", "messages.count_tokens", "How many tokens a conversation's prompt has.",
        CountRequest, TokenCount, errors=(*_BODY, 529),
    ),
    Route(
        "POST", "/v1/embeddings", "embeddings", "Embeddings of texts.", EmbeddingRequest, EmbeddingList,
        errors=_GENERATION,
    ),
    Route(
        "POST", "/v1/rerank", "rerank", "Documents in the order of what they have to do with a query.", RerankRequest,
        Reranking, errors=_GENERATION,
    ),
    Route(
        "POST", "/v1/files", "files.create", "Upload the lines of a batch.", UploadForm, FileObject,
        errors=(*_FILES, 408, 413, 415),
    ),
    Route(
        "GET", "/v1/files", "files.list", "List files.", reply=FileList, errors=_FILES,
        query=(
            ("after", _ID), ("limit", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 10_000}),
            ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
            ("purpose", {"type": "string", "enum": list(PURPOSES)}),
        ),
    ),
    Route("GET", "/v1/files/{file_id}", "files.retrieve", "A file's description.", reply=FileObject, errors=_FILES),
    Route("DELETE", "/v1/files/{file_id}", "files.delete", "Delete a file.", reply=FileDeleted, errors=_FILES),
    Route(
        "GET", "/v1/files/{file_id}/content", "files.content", "A file's content.", media="application/jsonl",
        errors=_FILES,
    ),
    Route(
        "POST", "/v1/batches", "batches.create", "Answer the lines of a file when nothing else wants to be answered.",
        BatchRequest, BatchObject, errors=(*_FILES, 408, 413, 429),
    ),
    Route(
        "GET", "/v1/batches", "batches.list", "List batches, the newest first.", reply=BatchList, errors=_FILES,
        query=(("after", _ID), ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20})),
    ),
    Route("GET", "/v1/batches/{batch_id}", "batches.retrieve", "A batch.", reply=BatchObject, errors=_FILES),
    Route(
        "POST", "/v1/batches/{batch_id}/cancel", "batches.cancel", "End a batch; what is answered stays.",
        reply=BatchObject, errors=(*_FILES, 408, 413),
    ),
    Route(
        "GET",
        "/v1/streams/{response_id}",
        "stream",
        "Go on with a stream from the event after `Last-Event-ID`, or from its beginning.",
        media="text/event-stream",
        errors=(400, 404),
    ),
    Route(
        "POST", "/tokenize", "tokenize", "Token ids of a text or of messages.", TokenizeRequest, TokenizeReply,
        errors=_BODY,
    ),
    Route(
        "POST", "/detokenize", "detokenize", "The text of token ids.", DetokenizeRequest, DetokenizeReply, errors=_BODY
    ),
    Route(
        "POST", "/v1/load_lora_adapter", "adapters.load", "Serve an adapter beside its base.", LoadAdapterRequest,
        ModelCard, errors=(*_BODY, 403, 503),
    ),
    Route(
        "POST", "/v1/unload_lora_adapter", "adapters.unload", "Serve an adapter no longer.", UnloadAdapterRequest,
        AdapterUnloaded, errors=(*_BODY, 403, 503),
    ),
    Route("GET", "/health", "health", "Whether this process is alive.", reply=Health),
    Route("GET", "/ready", "ready", "Whether every configured model can answer.", reply=Readiness, errors=(503,)),
    Route(
        "GET", "/progress", "progress", "Whether the work of every model gets on; one that has none does.",
        reply=Progress, errors=(503,),
    ),
    Route("GET", "/metrics", "metrics", "Metrics of the host, for Prometheus.", media="text/plain", errors=(503,)),
    Route("GET", "/openapi.json", "openapi", "This description.", reply=dict),
)  # fmt: skip


class Match(NamedTuple):
    """The routes of a path by method, and its parameter."""

    methods: dict[str, Route]
    parameter: str


Paths = dict[tuple[str, str], dict[str, Route]]
"""Routes by what is before and after the parameter."""


def _tables() -> tuple[dict[str, dict[str, Route]], Paths]:
    exact: dict[str, dict[str, Route]] = {}
    parameterised: Paths = {}
    for route in ROUTES:
        head, brace, rest = route.path.partition("{")
        if brace:
            parameterised.setdefault((head, rest.partition("}")[2]), {})[route.method] = route
        else:
            exact.setdefault(head, {})[route.method] = route
    return exact, parameterised


_EXACT, _PARAMETERISED = _tables()


def match(path: str) -> Match | None:
    """The routes of a path, or None."""
    if (methods := _EXACT.get(path)) is not None:
        return Match(methods, "")
    head, _, parameter = path.rpartition("/")
    if parameter and (methods := _PARAMETERISED.get((head + "/", ""))) is not None:
        return Match(methods, parameter)
    before, _, inner = head.rpartition("/")
    if inner and (methods := _PARAMETERISED.get((before + "/", "/" + parameter))) is not None:
        return Match(methods, inner)
    return None
