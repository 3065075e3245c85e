"""`/v1/embeddings` and `/v1/rerank`: from a checked body to sequences for the engine, from vectors to the answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ingress.api import validate
from ingress.api.admission import Admission
from ingress.api.answer import encode
from ingress.api.jobs import Caller
from ingress.api.schema_encoding import (
    Document,
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EncodingUsage,
    Reranking,
    RerankResult,
)
from ingress.encoding import Encoded, EncodeJob, Tokens
from ingress.engine import Engine, ServedModel
from ingress.errors import ApiError, invalid_request, unsupported_parameter

_INLINE_CHARACTERS: Final = 8192  # texts of so many in all are tokenised at once; more in a thread
_NOTHING: Final = 1e-12  # an embedding shorter than this has no direction

T = TypeVar("T")


class Encoders:
    """Both operations.

    Args:
        engine: does the work.
        admission: stands before every call.
    """

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine, self._admission = engine, admission

    async def embeddings(self, body: bytes, caller: Caller) -> bytes:
        """Embeddings of texts.

        Raises:
            ApiError: see `Engine.encode`; 400 for what is wrong with the body.
        """
        request = validate.embedding_request(body)
        model = self._engine.model(request.model)
        _require(model, "embed", "/v1/embeddings")
        self._admission.check_model(caller, model.name)
        dimensions = _dimensions(request, model)
        inputs = validate.inputs_of(request)
        most = _most(request.truncate_prompt_tokens, model)
        size = sum(len(each) for each in inputs if isinstance(each, str))
        sequences = await _beside(size, lambda: [_input(model, i, each, most) for i, each in enumerate(inputs)])
        job = _job(sequences, request.priority, caller, "input" if isinstance(request.input, str) else "input[{}]")
        done = await self._encode(model, job, caller)
        name = f"embd-{done.request:016x}"
        self._engine.name((done.request,), name, caller.called)
        caller.named(name)
        vectors = _cut(done.vectors, dimensions)
        packed = request.encoding_format == "base64"
        data = [
            Embedding(index=index, embedding=_base64(vector) if packed else vector.tolist())
            for index, vector in enumerate(vectors)
        ]
        return encode(EmbeddingList(data=data, model=model.name, usage=_usage(done.prompt_tokens)))

    async def rerank(self, body: bytes, caller: Caller) -> bytes:
        """Documents in the order of what they have to do with a query.

        Raises:
            ApiError: see `Engine.encode`; 400 for what is wrong with the body.
        """
        request = validate.rerank_request(body)
        model = self._engine.model(request.model)
        _require(model, "rerank", "/v1/rerank")
        self._admission.check_model(caller, model.name)
        texts = [each.text if isinstance(each, Document) else each for each in request.documents]
        most = _most(request.truncate_prompt_tokens, model)
        size = sum(map(len, texts)) + len(request.query) * len(texts)
        sequences = await _beside(
            size, lambda: [_pair(model, i, request.query, text, most) for i, text in enumerate(texts)]
        )
        job = _job(sequences, request.priority, caller, "documents[{}]")
        done = await self._encode(model, job, caller)
        name = f"rerank-{done.request:016x}"
        self._engine.name((done.request,), name, caller.called)
        caller.named(name)
        scores = done.vectors[:, 0]
        best = np.argsort(-scores, kind="stable")[: request.top_n or len(texts)].tolist()
        results = [
            RerankResult(
                index=index,
                relevance_score=float(scores[index]),
                document=Document(text=texts[index]) if request.return_documents else msgspec.UNSET,
            )
            for index in best
        ]
        return encode(Reranking(id=name, model=model.name, results=results, usage=_usage(done.prompt_tokens)))

    async def _encode(self, model: ServedModel, job: EncodeJob, caller: Caller) -> Encoded:
        job = await self._admission.reserve_encoding(job, model, caller)
        try:
            return await self._engine.encode(model, job)
        except BaseException as error:
            self._admission.not_opened((job,), caller, model.name, error)  # nothing happens to what has been settled
            raise


def require_generates(model: ServedModel) -> None:
    """Refuse to generate with an encoder.

    Raises:
        ApiError: 400.
    """
    if model.kind != "generate":
        path = "/v1/embeddings" if model.kind == "embed" else "/v1/rerank"
        raise invalid_request(
            f"The model {model.name!r} generates no text; it is served at {path}.",
            param="model",
            code="wrong_model_kind",
        )


def _job(sequences: list[Tokens], priority: int | None, caller: Caller, param: str) -> EncodeJob:
    return EncodeJob(
        sequences=sequences,
        param=param,
        priority=priority or 0,
        batch=caller.batch,
        weight=caller.weight,
        tenant=caller.tenant,
        key=caller.key,
        traceparent=caller.traceparent,
        received_ns=caller.received_ns,
        request=caller.request,
    )


def _require(model: ServedModel, kind: str, path: str) -> None:
    if model.kind == kind:
        return
    does = {"generate": "generates text", "embed": "makes embeddings", "rerank": "reranks"}
    raise invalid_request(
        f"The model {model.name!r} {does[model.kind]}; {path} needs one that {does[kind]}.",
        param="model",
        code="wrong_model_kind",
    )


def _dimensions(request: EmbeddingRequest, model: ServedModel) -> int:
    """To how many the embeddings are cut; 0 where they are not."""
    assert model.encoder is not None
    wanted, whole = request.dimensions, model.encoder.dimensions
    if wanted is None or wanted == whole:
        return 0
    if wanted in model.encoder.shorter:
        return wanted
    can = model.encoder.shorter
    those = f"{min(can)} to {whole}" if len(can) > 16 else ", ".join(map(str, sorted({*can, whole})))
    raise unsupported_parameter(
        "dimensions",
        f"dimensions: {model.name!r} has embeddings of {those}; "
        + ("others it was not trained for." if can else "it was not trained to be cut (Matryoshka)."),
    )


def _most(asked: int | None, model: ServedModel) -> int:
    """Tokens to which a text is cut; 0 where it is not."""
    if asked is None or asked == -1:
        return model.context_tokens if asked == -1 else 0
    if asked == 0:
        raise invalid_request("truncate_prompt_tokens must be -1, or at least 1.", param="truncate_prompt_tokens")
    if model.context_tokens and asked > model.context_tokens:
        raise invalid_request(
            f"truncate_prompt_tokens: {asked} is more than the {model.context_tokens} tokens that this model takes.",
            param="truncate_prompt_tokens",
        )
    return asked


def _input(model: ServedModel, index: int, given: str | list[int], most: int) -> Tokens:
    if isinstance(given, str):
        return _named(f"input[{index}]", lambda: Tokens(*model.tokenizer.sequence(given, at_most=most)))
    ids = given[:most] if most else given
    return Tokens(ids, len(ids))


def _pair(model: ServedModel, index: int, query: str, text: str, most: int) -> Tokens:
    return _named(f"documents[{index}]", lambda: Tokens(*model.tokenizer.sequence(query, text, at_most=most)))


def _named(param: str, work: Callable[[], Tokens]) -> Tokens:
    try:
        return work()
    except ApiError as error:
        error.param = param
        raise


async def _beside(size: int, work: Callable[[], T]) -> T:
    """Do it here where it is little; else in a thread, as the tokeniser lets others run."""
    return work() if size <= _INLINE_CHARACTERS else await asyncio.to_thread(work)


def _cut(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """[inputs, …] to [inputs, dimensions] of length 1; 0 leaves them as they are."""
    if not dimensions:
        return vectors
    short = vectors[:, :dimensions]
    lengths = np.maximum(np.linalg.norm(short, axis=1, keepdims=True), _NOTHING)
    return np.asarray(short / lengths, np.float32)


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(tokens: int) -> EncodingUsage:
    return EncodingUsage(prompt_tokens=tokens, total_tokens=tokens)
