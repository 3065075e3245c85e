"""Shapes of `/v1/embeddings` and `/v1/rerank`: requests and answers. Structs only."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingress.api.schema_common import ModelName, TokenId

MAX_INPUTS = 2048  # OpenAI's

Text = Annotated[str, Meta(min_length=1)]
Truncate = Annotated[
    int,
    Meta(ge=-1, lt=2**31, description="Texts are cut to so many tokens, special ones included; -1 to what fits."),
]
Priority = Annotated[int, Meta(ge=-(2**31), lt=2**31, description="Lower runs earlier. Default 0.")]
User = Annotated[str, Meta(description="Accepted, not used.")]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/embeddings`."""

    model: ModelName
    input: (
        Text
        | Annotated[
            list[Text | TokenId | Annotated[list[TokenId], Meta(min_length=1)]],
            Meta(
                min_length=1,
                description="Text, token ids, a list of at most 2048 texts, or one of lists of token ids; not a "
                "mixture. Token ids are taken as they are: special ones belong to them.",
            ),
        ]
    )
    dimensions: Annotated[int, Meta(ge=1, description="Of each embedding, where the model can be cut.")] | None = None
    encoding_format: Annotated[
        Literal["float", "base64"], Meta(description="base64 is of little-endian float32. Default float.")
    ] | None = None  # fmt: skip
    truncate_prompt_tokens: Truncate | None = None
    priority: Priority | None = None
    user: User | None = None


class EncodingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The account of a call to an encoder, in tokens."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One embedding."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EncodingUsage


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document of a rerank call."""

    text: Text


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/rerank`."""

    model: ModelName
    query: Text
    documents: Annotated[list[Text | Document], Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Meta(ge=1, description="So many results; default all.")] | None = None
    return_documents: Annotated[bool, Meta(description="Results hold their document. Default false.")] | None = None
    truncate_prompt_tokens: (
        Annotated[int, Meta(ge=-1, lt=2**31, description="Documents are cut so that query and document, with special "
                            "tokens, are so many tokens; -1 to what fits.")] | None
    ) = None  # fmt: skip
    priority: Priority | None = None
    user: User | None = None


class RerankResult(msgspec.Struct, frozen=True, kw_only=True):
    """One document's score. `index` is its place in the request."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class Reranking(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/rerank`: the best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EncodingUsage
