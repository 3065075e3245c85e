"""One answer that is wanted, and its check against the model that shall give it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bus.messages.requests import Sampling
from bus.packed import pack_u32, unpack_u32
from ingress.conversation import Order
from ingress.errors import adapter_unusable, context_length_exceeded, invalid_request
from ingress.generation import Generation
from ingress.models import ServedModel
from ingress.records import Drawn
from ingress.samples.beams import Beams
from ingress.samples.pool import TokenPool
from ingress.streams import Piece
from ingress.text.reasoning import Thinking, ThoughtParser
from ingress.text.stop import StopStrings
from ingress.timing import Marks, Timing
from ingress.tools.styles import STYLES


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that is wanted. A request with `n` choices is `n` jobs.

    Attributes:
        model: its served name.
        prompt: token ids.
        sampling: how to draw. `min_tokens` and `suppress` are filled in by the engine. A front that gets no seed from
            its client draws one: the same seed gives the same answer.
        max_tokens: most tokens to generate; `None` for what is left of the context; 0 only scores the prompt, and needs
            `prompt_logprobs`.
        min_tokens: no end of sequence, stop token or stop string before so many.
        stop: strings that end the answer.
        stop_token_ids: ids that end it, beside the model's own end-of-sequence ids.
        ignore_eos: those do not end it.
        include_stop: the stop string, or the stop token's text, is part of the text.
        priority: lower runs earlier.
        cache_salt: keeps the cached prefix apart from everyone without the same salt.
        request: its id; 0 is any.
        tenant: for accounting, fair sharing and cache separation.
        partition: for cache separation in place of `tenant`, where it is not None.
        key: whose credentials were shown, for accounting.
        counts_prompt: it is not a further choice of a prompt that is accounted for already.
        traceparent: of the trace that the client is in; empty where it named none.
        prompt_logprobs: -1 for none, else alternatives per prompt token.
        deadline_s: seconds from `received_ns` after which the answer is useless.
        skip_special_tokens: control tokens leave no text.
        received_ns: CLOCK_MONOTONIC when the request was read; 0 is now.
        marks: when it was parsed, rendered and tokenised.
        timing: its end tells where its time went.
        batch, weight: see `Submit`.
        thinking: how the answer may think before it says anything, which is told apart; None is not.
        estimate: tokens of the prompt, where `prompt` is empty as a model elsewhere has ids of its own.
        adapter: digest that the model had as the job was planned; empty where it is no adapter.
        calls: the style (`tools.styles`) in which it may call tools; empty where it may not.
        call: number under which the samples of one call stand in the ledger; 0 where it has one.
        pool: tokens that all samples of the call may have together; None where nobody counts.
        beams: it is not drawn but searched for, see `Engine.search`.
    """

    model: str
    prompt: Sequence[int] | npt.NDArray[np.integer]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    priority: int = 0
    cache_salt: str = ""
    request: int = 0
    tenant: str = ""
    partition: str | None = None
    key: str = ""
    counts_prompt: bool = True
    traceparent: str = ""
    prompt_logprobs: int = -1
    deadline_s: float | None = None
    skip_special_tokens: bool = True
    received_ns: int = 0
    marks: Marks | None = None
    timing: bool = False
    batch: bool = False
    weight: float = 1.0
    thinking: Thinking | None = None
    calls: str = ""
    adapter: bytes = b""
    estimate: int = 0
    call: int = 0
    pool: TokenPool | None = None
    beams: Beams | None = None

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt, as far as is known before it is answered."""
        return len(self.prompt) or self.estimate


class Placed(NamedTuple):
    """A job that was found good: what the scheduler is told, and the answer's state at its beginning."""

    order: Order
    generation: Generation


def place(job: Job, model: ServedModel, request: int, now_ns: int) -> Placed:
    """Check a job and fill in what its model determines.

    Raises:
        ApiError: 400, it cannot be served as it is.
    """
    if model.is_adapter and not model.adapter:
        raise adapter_unusable(model.name, model.trouble)
    if job.adapter not in (b"", model.adapter):
        raise invalid_request(f"The adapter {model.name!r} was replaced meanwhile: ask again.", param="model")
    prompt = _token_ids(job.prompt, model.vocabulary)
    max_tokens = _max_tokens(job, len(prompt), model.context_tokens)
    _in_vocabulary(job.stop_token_ids, "stop_token_ids", model.vocabulary)
    _in_vocabulary((token for token, _ in job.sampling.logit_bias), "logit_bias", model.vocabulary)

    if (thought := job.sampling.thought) is not None:
        _in_vocabulary(unpack_u32(thought.closing).tolist(), "thinking_token_budget", model.vocabulary)

    own_stops = frozenset(job.stop_token_ids)
    all_stops = own_stops if job.ignore_eos else own_stops | frozenset(model.eos_ids)
    suppress = pack_u32(sorted(all_stops)) if job.min_tokens else b""
    received_ns = job.received_ns or now_ns
    style = STYLES[job.calls] if job.calls else None
    shows = (style is not None and style.shows(model.control_tokens)) or (
        job.thinking is not None and model.reasoning.shows(model.control_tokens)
    )
    order = Order(
        request=request,
        prompt=pack_u32(prompt),
        sampling=msgspec.structs.replace(job.sampling, min_tokens=job.min_tokens, suppress=suppress),
        max_tokens=max_tokens,
        salt=_salt(job.tenant if job.partition is None else job.partition, job.cache_salt),
        stop_token_ids=pack_u32(sorted(all_stops)),
        priority=job.priority,
        deadline_ns=received_ns + int(job.deadline_s * 1e9) if job.deadline_s is not None else 0,
        prompt_logprobs=job.prompt_logprobs,
        tenant=job.tenant,
        key=job.key,
        counts_prompt=job.counts_prompt,
        traceparent=job.traceparent,
        batch=job.batch,
        weight=job.weight,
        submitted_ns=received_ns,
        timing=job.timing,
        call=job.call,
        allowed=job.pool.size if job.pool is not None else 0,
        adapter=model.adapter,
        model=model.name,
    )
    generation = Generation(
        model.tokenizer,
        len(prompt),
        stop=StopStrings(job.stop) if any(job.stop) else None,
        own_stops=own_stops,
        all_stops=all_stops,
        min_tokens=job.min_tokens,
        include_stop=job.include_stop,
        skip_special=job.skip_special_tokens and not shows,
        logprobs=job.sampling.logprobs >= 0,
        timing=_timing(job, request, received_ns) if job.timing else None,
        thoughts=ThoughtParser(job.thinking) if job.thinking is not None else None,
        calls=style.parser() if style is not None else None,
    )
    generation.pool = job.pool
    return Placed(order, generation)


def place_again(
    job: Job, model: ServedModel, request: int, now_ns: int, adopted: int, drawn: Iterable[Drawn]
) -> tuple[Placed, list[Piece]]:
    """Place a job that another ingress has begun: the same, after what was told of it, and the pieces that were told.

    Raises:
        ApiError: as `place`.
        ValueError: what was drawn is not how this job's answer begins.
    """
    order, generation = place(job, model, request, now_ns)
    generation.pool = None  # what was told was paid for
    told: list[Piece] = []
    for record in drawn:
        generation.timing = record.timing or generation.timing
        generation.cached_tokens = record.cached_tokens
        piece, verdict = generation.take(len(generation.emitted), record.tokens, record.raw)
        if piece is None or verdict != "going":
            raise ValueError(f"what was told of request {request} is not how its answer begins")
        told.append(piece)
    if job.pool is not None:
        job.pool.take(len(generation.emitted))
        generation.pool = job.pool
    if generation.timing is not None:
        generation.timing.adopted(adopted)
    return Placed(msgspec.structs.replace(order, adopted=adopted), generation), told


def _timing(job: Job, request: int, received_ns: int) -> Timing:
    if (marks := job.marks) is None:
        return Timing(request=request, received_ns=received_ns)
    return Timing(
        request=request,
        received_ns=received_ns,
        parsed_ns=marks.parsed_ns,
        rendered_ns=marks.rendered_ns,
        tokenized_ns=marks.tokenized_ns,
    )


def _token_ids(prompt: Sequence[int] | npt.NDArray[np.integer], vocabulary: int) -> npt.NDArray[np.integer]:
    ids = np.asarray(prompt)
    if ids.size == 0:
        raise invalid_request("The prompt is empty.", param="prompt")
    # Numbers beyond 64 bits make an array of objects, so the kind check also covers them.
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise invalid_request("Token ids must be integers below the vocabulary's size.", param="prompt")
    wrong = ids[(ids < 0) | (ids >= vocabulary)]
    if wrong.size:
        raise invalid_request(
            f"Token id {int(wrong[0])} is out of the vocabulary: ids are 0 to {vocabulary - 1}.", param="prompt"
        )
    return ids


def _in_vocabulary(ids: Iterable[int], param: str, vocabulary: int) -> None:
    for token in ids:
        if not 0 <= token < vocabulary:
            raise invalid_request(
                f"{param}: token id {token} is out of the vocabulary: ids are 0 to {vocabulary - 1}.", param=param
            )


def _max_tokens(job: Job, prompt_tokens: int, context_tokens: int) -> int:
    room = context_tokens - prompt_tokens
    least = 0 if job.prompt_logprobs >= 0 else 1  # a prompt may be scored without an answer
    if room < least:
        raise context_length_exceeded(
            f"This model's context is {context_tokens} tokens; the prompt has {prompt_tokens} and leaves no room "
            "for an answer."
        )
    max_tokens = room if job.max_tokens is None else job.max_tokens
    if max_tokens < least:
        raise invalid_request(f"max_tokens must be at least {least}.", param="max_tokens")
    if max_tokens > room:
        raise context_length_exceeded(
            f"This model's context is {context_tokens} tokens; {prompt_tokens} of the prompt and max_tokens of "
            f"{max_tokens} are {prompt_tokens + max_tokens}.",
            param="max_tokens",
        )
    if not 0 <= job.min_tokens <= max_tokens:
        raise invalid_request(f"min_tokens must be from 0 to max_tokens ({max_tokens}).", param="min_tokens")
    return max_tokens


def _salt(tenant: str, cache_salt: str) -> bytes:
    # The length keeps ("ab", "c") and ("a", "bc") apart; without tenant and salt everyone shares.
    if not tenant and not cache_salt:
        return b""
    name = tenant.encode()
    return len(name).to_bytes(4, "little") + name + cache_salt.encode()
