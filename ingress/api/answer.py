"""What chat completions and completions render alike: the answer's head, usage, fingerprints, prompt log probabilities.

Pure. Rendering is from the engine's pieces to the schemas' structs, never over dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from bus.blocks import salted_root
from ingress.api import schema_common as schema
from ingress.api.schema_other import ModelCard
from ingress.engine import Finish, Piece, ServedModel, TokenText
from ingress.errors import ApiError, internal

_encoder = msgspec.json.Encoder()
encode = _encoder.encode

# Of errors that end an answer that has begun.
_STATUS = {"server_error": 500, "service_unavailable_error": 503, "invalid_request_error": 410}
# OpenAI writes this for what has no probability at all; JSON has no infinity.
LOWEST_LOGPROB = -9999.0


class Head(NamedTuple):
    """What every body of an answer begins with.

    Attributes:
        id: `chatcmpl-`, `cmpl-`, `resp_` or `msg_`, and the request's id in 16 hexadecimal digits.
        created: Unix seconds.
        fingerprint: of the model's weights and how it is run; equal ones and equal seeds give equal answers.
    """

    id: str
    created: int
    model: str
    fingerprint: str | None


class Renderer(Protocol):
    """Writes one call's answer, as chunks or as a whole. `prompts[i]` are log probabilities of prompt `i`'s tokens,
    where they were asked for."""

    @property
    def id(self) -> str:
        """Of the response."""
        ...

    def first(self) -> list[bytes]:
        """Chunks before anything is generated."""
        ...

    def piece(self, index: int, piece: Piece, prompt: Sequence[TokenText | None]) -> list[bytes]:
        """Chunks of what is new in choice `index`."""
        ...

    def last(self, finishes: Sequence[Finish]) -> list[bytes]:
        """Chunks after every choice has ended."""
        ...

    def whole(self, answers: Sequence[Piece], prompts: Sequence[Sequence[TokenText | None]]) -> bytes:
        """The body of a call that does not stream."""
        ...


class Mould:
    """A chunk in which only one text changes: what is around it is written once.

    Args:
        chunk: with an empty text.
        key: of the text.
    """

    def __init__(self, chunk: bytes, key: str) -> None:
        # Inside of a text quotes are escaped, so this is found nowhere else.
        before, found, self._after = chunk.partition(b'"%b":""' % key.encode())
        self._before = before + found[:-2]

    def fill(self, text: str) -> bytes:
        """The chunk with that text."""
        return b"%b%b%b" % (self._before, encode(text), self._after)


def fingerprint(model: ServedModel) -> str | None:
    """Known once a replica has registered."""
    root = model.facts.root if model.facts is not None else b""
    if root and model.is_adapter:
        root = salted_root(root, b"", model.adapter)
    return f"fp_{root.hex()[:12]}" if root else None


def model_card(model: ServedModel) -> ModelCard:
    """A model, or an adapter, as it is listed."""
    return ModelCard(
        id=model.name,
        created=model.created,
        max_model_len=model.context_tokens,
        ready=model.ready,
        kind=model.kind,
        parent=model.base if model.is_adapter else None,
    )


def failure(finish: Finish) -> ApiError:
    """The error of an answer that did not come to its end."""
    if finish.reason == "abort":
        return ApiError(503, "service_unavailable_error", finish.error or "The answer was cut off.", code="aborted")
    return internal(finish.error or "The answer could not be completed.", code=finish.code or "generation_failed")


def envelope(error: ApiError) -> bytes:
    """The body of an error."""
    return encode(error.envelope())


def is_failure(body: bytes) -> bool:
    """Whether an event of a stream is an error, which is then its last. Chunks begin with their id."""
    return body.startswith(b'{"error":')


def told_failure(body: bytes) -> ApiError:
    """The error that such an event tells. Its status is that of its type."""
    detail = msgspec.json.decode(body)["error"]
    status = _STATUS.get(detail["type"], 500)
    return ApiError(status, detail["type"], detail["message"], code=detail["code"], param=detail["param"])


def finish_reason(finish: Finish, *, calls: bool = False) -> schema.FinishReason:
    """For an answer that came to its end. calls: it calls tools of its own choice."""
    if finish.reason in ("length", "content_filter"):
        return finish.reason
    return "tool_calls" if calls and finish.stop_reason is None else "stop"


def call_id(response: str, choice: int, call: int) -> str:
    """Of a call that an answer makes; whoever tells the answer again gives it the same."""
    return f"call_{response.rpartition('-')[2].rpartition('_')[2]}{choice:02x}{call:02x}"


def guards(finish: Finish | None) -> dict[str, str] | UnsetType:
    """What guards found in an answer, and what followed; nothing where nothing was."""
    return dict(finish.guards) if finish is not None and finish.guards else UNSET


def total_usage(finishes: Sequence[Finish], n: int) -> schema.Usage:
    """One account for all choices: each prompt counts once, whatever `n`, and every token that was drawn."""
    prompt = sum(finish.usage.prompt_tokens for finish in finishes[::n])
    cached = sum(finish.usage.cached_tokens for finish in finishes[::n])
    others = sum(finish.usage.others for finish in finishes)
    completion = others + sum(finish.usage.completion_tokens for finish in finishes)
    allowed = max(finish.usage.allowed for finish in finishes)
    thought = sum(finish.usage.reasoning_tokens for finish in finishes)
    return schema.Usage(
        prompt,
        completion,
        prompt + completion,
        schema.PromptTokensDetails(cached),
        schema.CompletionTokensDetails(thought, others or UNSET),
        True if any(finish.usage.estimated for finish in finishes) else UNSET,
        allowed or UNSET,
    )


def finite(logprob: float) -> float:
    """A log probability that JSON can carry."""
    return logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def readable(token: bytes) -> str:
    """A token for people; part of a character is shown as U+FFFD."""
    return token.decode("utf-8", "replace")


def prompt_logprobs(values: Iterable[TokenText | None]) -> schema.PromptLogprobs:
    """Per prompt token its candidates by id, the prompt's own included, the best with their rank."""
    return [None if value is None else _candidates(value) for value in values]


def _candidates(value: TokenText) -> dict[str, schema.PromptTokenLogprob]:
    found = {
        str(token): schema.PromptTokenLogprob(finite(logprob), readable(text), rank)
        for rank, (token, text, logprob) in enumerate(value.top, start=1)
    }
    found.setdefault(str(value.token), schema.PromptTokenLogprob(finite(value.logprob), readable(value.text)))
    return found
