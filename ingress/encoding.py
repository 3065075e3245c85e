"""A call to an encoder: its sequences go to the scheduler one by one, some at a time, and are one call in the end.

The first decides whether the call is taken. What is promised with it is then submitted again until it is computed,
as with every request. Only so many of a call are under way at once: a call of thousands neither fills the queue nor
keeps others waiting for more than a step or two. Long ones go first, with others of about their length.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from bus.messages.requests import Sampling
from bus.messages.usage import Outcome
from bus.packed import pack_u32
from ingress.accounts import Ledger, Used, Whose
from ingress.awaited import Awaited
from ingress.conversation import Order
from ingress.errors import ApiError, context_length_exceeded, deadline, internal, invalid_request
from ingress.models import ServedModel
from ingress.streams import Finish, Stream

WINDOW: Final = 64

Vectors = npt.NDArray[np.float32]


class Tokens(NamedTuple):
    """Token ids, special ones included, and how many of them are the first text's."""

    ids: Sequence[int]
    segment: int


class EncodeJob(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Attributes that are not here are `Job`'s.

    Attributes:
        sequences: at least one.
        param: what a sequence is called in errors, with `{}` for its number.
        request: id of the first that is submitted; 0 is any.
    """

    sequences: Sequence[Tokens]
    param: str = "input[{}]"
    priority: int = 0
    batch: bool = False
    weight: float = 1.0
    tenant: str = ""
    key: str = ""
    traceparent: str = ""
    deadline_s: float | None = None
    received_ns: int = 0
    request: int = 0


class Encoded(NamedTuple):
    """What came of it.

    Attributes:
        request: id of the first sequence's request; the call is known by it.
        vectors: float32 [sequences, dimensions].
        prompt_tokens: of all sequences.
    """

    request: int
    vectors: Vectors
    prompt_tokens: int


class Opens(Protocol):
    """How a request is handed to the scheduler."""

    def __call__(self, order: Order, awaited: Awaited, *, promised: bool) -> Awaitable[Stream]:
        """Raises ApiError where it is not taken; one that is `promised` always is."""
        ...


async def encode(job: EncodeJob, model: ServedModel, opens: Opens, ledger: Ledger, now_ns: int) -> Encoded:
    """Have all sequences of a job encoded. Cancelling aborts what is under way.

    Raises:
        ApiError: 400, a sequence is too long or has ids outside the vocabulary; 429, 503, it was not taken; 500, 503,
            it failed.
    """
    call = _Call(job, model, opens, now_ns)
    outcome: Outcome = "error"
    try:
        vectors = await call.run()
        outcome = "stop"
    except asyncio.CancelledError:
        outcome = "client"
        raise
    except ApiError as error:
        outcome = "deadline" if error.code == "deadline_exceeded" else "shutdown" if error.status == 503 else "error"
        raise
    finally:
        if call.taken:
            ledger.ended(call.used(outcome))
    return Encoded(call.orders[0].request, vectors, call.prompt_tokens)


class _Call:
    """One call under way.

    Attributes:
        orders: of the sequences, in the order in which they are submitted.
        taken: whether the first one was.
    """

    def __init__(self, job: EncodeJob, model: ServedModel, opens: Opens, now_ns: int) -> None:
        self._job, self._model, self._opens = job, model, opens
        self._received_ns = job.received_ns or now_ns
        lengths = [len(each.ids) for each in job.sequences]
        for number, sequence in enumerate(job.sequences):
            _check(sequence, model, job.param.format(number))
        self.prompt_tokens = sum(lengths)
        self._numbers = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        self.orders = list(self._orders())
        self._awaited = [Awaited(lengths[number]) for number in self._numbers]
        self.taken = False

    async def run(self) -> Vectors:
        """float32 [sequences, dimensions], as the job has them."""
        first = await self._opens(self.orders[0], self._awaited[0], promised=False)
        self.taken = True
        rest = iter(range(1, len(self.orders)))
        runners = [asyncio.ensure_future(self._finish(0, first, rest))]
        runners += [asyncio.ensure_future(self._take(rest)) for _ in range(min(WINDOW, len(self.orders)) - 1)]
        try:
            await asyncio.gather(*runners)
        finally:
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)
        found: list[Vectors] = [np.zeros(0, np.float32)] * len(self.orders)
        for number, awaited in zip(self._numbers, self._awaited, strict=True):
            assert awaited.vector is not None
            found[number] = awaited.vector
        return np.stack(found)

    def used(self, outcome: Outcome) -> Used:
        """For the ledger. Of a call that did not end well, only what was computed."""
        job = self._job
        done = [awaited for awaited in self._awaited if awaited.vector is not None or outcome == "stop"]
        spent = sum(awaited.spent_ns for awaited in self._awaited)
        return Used(
            self.orders[0].request, Whose(self._model.name, job.tenant, job.key, True), outcome,
            sum(awaited.prompt_tokens for awaited in done), 0, 0, self._received_ns, (spent, spent),
        )  # fmt: skip

    def _orders(self) -> Iterator[Order]:
        job = self._job
        deadline_ns = self._received_ns + int(job.deadline_s * 1e9) if job.deadline_s is not None else 0
        for place, number in enumerate(self._numbers):
            sequence = job.sequences[number]
            yield Order(
                request=job.request if job.request and place == 0 else secrets.randbits(63),
                prompt=pack_u32(sequence.ids),
                sampling=Sampling(),
                max_tokens=0,
                priority=job.priority,
                batch=job.batch,
                weight=job.weight,
                deadline_ns=deadline_ns,
                tenant=job.tenant,
                submitted_ns=self._received_ns,
                timing=place == 0,
                key=job.key,
                traceparent=job.traceparent if place == 0 else "",
                segment=sequence.segment,
            )

    async def _take(self, rest: Iterator[int]) -> None:
        for at in rest:
            await self._one(at, await self._opens(self.orders[at], self._awaited[at], promised=True))

    async def _finish(self, at: int, stream: Stream, rest: Iterator[int]) -> None:
        await self._one(at, stream)
        await self._take(rest)

    async def _one(self, at: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                if piece.finish is not None and self._awaited[at].vector is None:
                    raise _failure(piece.finish, self._job.param.format(self._numbers[at]))
        finally:
            stream.abort("client")  # nothing happens to one that has ended


def _check(sequence: Tokens, model: ServedModel, param: str) -> None:
    ids = np.asarray(sequence.ids)
    if not ids.size:
        raise invalid_request("There are no tokens in it.", param=param)
    if model.context_tokens and len(ids) > model.context_tokens:
        raise context_length_exceeded(
            f"It has {len(ids)} tokens; this model takes {model.context_tokens}. Cut it, or have it cut with "
            "truncate_prompt_tokens: -1.",
            param=param,
        )
    if ids.dtype.kind not in "iu" or int(ids.min()) < 0 or int(ids.max()) >= model.vocabulary:
        raise invalid_request(f"A token id is out of the vocabulary: ids are 0 to {model.vocabulary - 1}.", param=param)


def _failure(finish: Finish, param: str) -> ApiError:
    if "deadline" in finish.error:
        return deadline(finish.error)
    if finish.reason == "abort":
        message = finish.error or "The request was ended."
        return ApiError(503, "service_unavailable_error", message, code="aborted")
    failed = internal(finish.error or "It could not be computed.", code="encoding_failed")
    failed.param = param
    return failed
