"""What an ingress and one scheduler say to each other about requests, and what survives the scheduler's death.

The ingress is the home of its requests: it keeps each one's prompt and tokens so far until the end. When a link comes
up again, to the same scheduler or to its successor, every live request is submitted again with the tokens that came.
No socket and no clock here: messages go out through `send`, time comes in as `now_ns` (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from bus.blocks import chain, salted_root
from bus.messages.common import Nack
from bus.messages.requests import (
    Abort,
    Accepted,
    Deltas,
    Encoded,
    Finished,
    ModelFacts,
    PromptLogprobs,
    Refused,
    Sampling,
    Spent,
    Submit,
    TokenLogprobs,
)
from bus.messages.telemetry import TimelineEvent, TimelineKind
from bus.messages.usage import Outcome
from bus.packed import pack_u32, unpack_f32, unpack_u32, unpack_u64
from ingress.accounts import Ledger, NoLedger, Used, Whose
from ingress.awaited import Awaited
from ingress.errors import ApiError, deadline, from_refusal, not_ready
from ingress.generation import Generation, token_text
from ingress.metering import Meter, NoMeter
from ingress.models import ServedModel
from ingress.samples.extending import Extension
from ingress.samples.pool import POOL
from ingress.streams import BUDGET, AbortReason, Piece, Stream

log = logging.getLogger(__name__)

OPEN_PATIENCE_S: Final = 15.0  # a new request waits so long for its scheduler to take it
LOST_PATIENCE_S: Final = 300.0  # an accepted one waits so long for a scheduler and a replica to come back
RETRY_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)  # an accepted request that is refused is submitted again after so long
ASK_AGAIN_S: Final = 1.0  # tokens that are missing are asked for at most so often ...
ASK_AGAIN: Final = 8  # ... and so many times in a row

# An accepted request is refused with these by a scheduler that has just come back; all pass with time.
_PASSING: Final = frozenset({"overloaded", "not_ready", "draining"})

Message = ModelFacts | Accepted | Refused | Deltas | Encoded | PromptLogprobs | Spent | Nack
Opened = Callable[[ApiError | None], None]
Growing = Generation | Awaited | Extension


class Order(msgspec.Struct, frozen=True, gc=False):
    """What stays the same however often a request is submitted; the fields are `Submit`'s, but for these.

    Attributes:
        key, counts_prompt, call: see `Job`. What an encoder is asked is accounted for by its call, as one.
        allowed: see `UsageRecord`.
        model: under which it is accounted for; empty is the scheduler's own.
        salt: keeps its cached prefix apart; empty shares it with everyone whose salt is empty.
    """

    request: int
    prompt: bytes
    sampling: Sampling
    max_tokens: int
    salt: bytes = b""
    stop_token_ids: bytes = b""
    priority: int = 0
    deadline_ns: int = 0
    prompt_logprobs: int = -1
    tenant: str = ""
    submitted_ns: int = 0
    adopted: int = 0
    timing: bool = False
    key: str = ""
    counts_prompt: bool = True
    traceparent: str = ""
    batch: bool = False
    weight: float = 1.0
    segment: int = 0
    call: int = 0
    allowed: int = 0
    part: bool = False
    adapter: bytes = b""
    model: str = ""


class _Live:
    """A request from `open` to its last piece."""

    __slots__ = (
        "asked", "asked_ns", "generation", "look_at", "opened", "order", "refusals", "retry_ns", "sent", "stream",
        "text_ns", "waits_ns",
    )  # fmt: skip

    def __init__(self, order: Order, generation: Growing, stream: Stream, opened: Opened | None, now_ns: int) -> None:
        self.order, self.generation, self.stream = order, generation, stream
        self.opened = opened  # until the scheduler has answered for the first time
        self.sent = False  # a scheduler that is up has it, as far as we know
        self.waits_ns = now_ns  # since when it waits for a scheduler
        self.retry_ns = 0  # refused after it had been accepted: when to try again
        self.refusals = 0
        self.asked_ns = 0  # when missing tokens were asked for
        self.asked = 0
        self.text_ns = 0  # that it took to make text of its tokens
        self.look_at = sys.maxsize  # after how many tokens to look how far it may go

    @property
    def settled(self) -> bool:
        """Whether it only waits for its tokens, however long: most do."""
        return self.sent and self.opened is None and not self.order.deadline_ns


class Conversation:
    """All requests of one model.

    Args:
        model: its `facts` and `up` are kept here.
        send: to the scheduler; False where the link is down.
        tell: for requests' timelines.
        clock: of `now_ns`; how long text takes is measured with it.
        ledger: is told what requests used; None where nobody wants to know.
        meter: says how far answers may go; None where that has no limit.
    """

    def __init__(
        self,
        model: ServedModel,
        send: Callable[[msgspec.Struct], bool],
        tell: Callable[[TimelineEvent], None],
        clock: Callable[[], int],
        ledger: Ledger | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter: Meter = meter or NoMeter()
        self._model, self._send, self._tell, self._clock = model, send, tell, clock
        self._ledger: Ledger = ledger or NoLedger()
        self._live: dict[int, _Live] = {}
        self._restless: dict[int, _Live] = {}  # those that time may do something to

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._live))

    # --- from the fronts -------------------------------------------------------------------------------------------

    def open(self, order: Order, generation: Growing, opened: Opened | None, now_ns: int) -> Stream:
        """Submit a request. `opened` is called once: with `None` when it is taken, else with the reason why not. One
        that was taken from another ingress has none: `generation` is as far as its client was told. Nor has one that
        was promised with another, of the same call."""
        stream = Stream(order.request, generation.prompt_tokens, lambda reason: self.abort(order.request, reason))
        if order.prompt_logprobs >= 0:
            stream.prompt_logprobs = [None] * generation.prompt_tokens
        live = self._live[order.request] = _Live(order, generation, stream, opened, now_ns)
        if (look_at := self._meter.look_at(order.request)) is not None:
            live.look_at = look_at
        self._restless[order.request] = live
        if self._model.up:
            self._submit(live, now_ns)
        return stream

    def abort(self, request: int, reason: AbortReason, error: str = "") -> None:
        """Not wanted any more. Idempotent."""
        live = self._live.pop(request, None)
        if live is None:
            return
        self._abort(live, reason)
        last = live.generation.end("abort", error)
        self._account(live, last, reason, None)
        self._answer(live, not_ready("The request was aborted.", 1.0))
        live.stream.push(last)

    def leave(self, request: int) -> None:
        """Another ingress takes it over: nothing more is heard or said of it here."""
        self._live.pop(request, None)

    # --- from the link ---------------------------------------------------------------------------------------------

    def link_down(self, now_ns: int, why: str) -> None:
        """What the scheduler had may be lost. Nothing is sent before it has introduced itself again."""
        self._model.up = False
        self._restless.update(self._live)
        for live in self._live.values():
            live.sent, live.retry_ns, live.waits_ns = False, 0, now_ns
            if live.generation.timing is not None:
                live.generation.timing.lost(now_ns)
            self._note(live.order.request, now_ns, "orphaned", detail=why)

    def receive(self, message: Message, now_ns: int) -> None:
        """A message from the scheduler."""
        match message:
            case Deltas():
                self._deltas(message, now_ns)
            case Accepted():
                if live := self._live.get(message.request):
                    self._taken(live)
            case Refused():
                if live := self._live.get(message.request):
                    self._refused(live, message, now_ns)
            case Encoded():
                self._encoded(message)
            case PromptLogprobs():
                if live := self._live.get(message.request):
                    self._prompt_logprobs(live, message)
            case Spent():
                self._ledger.computed(message.request, message.spent_ns, message.prefill_ns)
            case ModelFacts():
                self._facts(message, now_ns)
            case Nack():
                log.error(
                    "the scheduler of %s refused a message: %s: %s", self._model.name, message.reason, message.detail
                )

    def tick(self, now_ns: int) -> None:
        """Time passes: retries, and the ends of patience. Some ten times a second."""
        for request, live in tuple(self._restless.items()):
            if request not in self._live or live.settled:
                del self._restless[request]
            elif live.order.deadline_ns and now_ns > live.order.deadline_ns:
                self._too_late(live)
            elif not live.sent and live.retry_ns and now_ns >= live.retry_ns and self._model.up:
                self._submit(live, now_ns)
            elif live.opened is not None:
                if now_ns - live.waits_ns > OPEN_PATIENCE_S * 1e9:
                    self._give_up_opening(live)
            elif not live.sent and now_ns - live.waits_ns > LOST_PATIENCE_S * 1e9:
                self._fail(live, f"{self._model.name} did not come back within {LOST_PATIENCE_S:.0f} s")

    # --- submitting ------------------------------------------------------------------------------------------------

    def _facts(self, facts: ModelFacts, now_ns: int) -> None:
        introduced, self._model.facts, self._model.up = not self._model.up, facts, True
        for live in tuple(self._live.values()):
            # Introduced: it knows nothing of ours. Later: a replica came that some may wait for.
            if introduced or (live.retry_ns and facts.replicas_ready):
                self._submit(live, now_ns)

    def _submit(self, live: _Live, now_ns: int) -> None:
        order, emitted = live.order, live.generation.emitted
        root, digests = self._identity(order)
        live.retry_ns = 0
        live.sent = self._send(
            Submit(
                request=order.request,
                prompt=order.prompt,
                sampling=order.sampling,
                max_tokens=order.max_tokens,
                emitted=pack_u32(emitted) if emitted else b"",
                root=root,
                digests=digests,
                stop_token_ids=order.stop_token_ids,
                priority=order.priority,
                deadline_ns=order.deadline_ns,
                prompt_logprobs=order.prompt_logprobs,
                tenant=order.tenant,
                batch=order.batch,
                weight=order.weight,
                submitted_ns=order.submitted_ns,
                adopted=order.adopted,
                timing=order.timing,
                traceparent=order.traceparent,
                segment=order.segment,
                part=order.part,
                adapter=order.adapter,
            )
        )
        if live.sent:
            if live.generation.timing is not None and not live.asked:
                live.generation.timing.submitted(now_ns)
            self._note(order.request, now_ns, "submitted" if live.opened else "resumed", value=len(emitted))

    def _identity(self, order: Order) -> tuple[bytes, bytes]:
        """Salted root and block digests of the prompt; empty where its KV is not to be found or kept."""
        facts = self._model.facts
        if order.segment or facts is None or not facts.root or not facts.page_tokens or not self._model.prefix_cache:
            return b"", b""
        root = salted_root(facts.root, order.salt, order.adapter)
        return root, chain(root, order.prompt, facts.page_tokens)

    def _taken(self, live: _Live) -> None:
        live.refusals = 0
        self._answer(live, None)

    def _answer(self, live: _Live, error: ApiError | None) -> None:
        opened, live.opened = live.opened, None
        if opened is not None:
            opened(error)

    def _refused(self, live: _Live, refused: Refused, now_ns: int) -> None:
        error = from_refusal(refused)
        if live.opened is not None and not self._waits_for_replica(refused):
            del self._live[refused.request]
            self._answer(live, error)
        elif refused.code in _PASSING:
            live.sent = False
            self._restless[refused.request] = live
            if not live.refusals:
                live.waits_ns = now_ns
            wait_s = RETRY_S[min(live.refusals, len(RETRY_S) - 1)]
            live.refusals += 1
            live.retry_ns = now_ns + int(wait_s * 1e9)
        else:
            self._fail(live, error.message)

    def _waits_for_replica(self, refused: Refused) -> bool:
        """Whether it was refused only because nobody has registered yet at a scheduler that has just come back."""
        facts = self._model.facts
        return refused.code == "not_ready" and facts is not None and not facts.root

    # --- vectors ---------------------------------------------------------------------------------------------------

    def _encoded(self, message: Encoded) -> None:
        vectors = unpack_f32(message.vectors).reshape(len(message.finished), -1)
        for finished, vector in zip(message.finished, vectors, strict=True):
            live = self._live.pop(finished.request, None)
            if live is None or not isinstance(live.generation, Awaited):
                continue
            self._taken(live)
            live.stream.push(live.generation.complete(vector, finished))

    # --- tokens ----------------------------------------------------------------------------------------------------

    def _deltas(self, deltas: Deltas, now_ns: int) -> None:
        requests, starts = unpack_u64(deltas.requests).tolist(), unpack_u32(deltas.starts).tolist()
        counts, tokens = unpack_u32(deltas.counts).tolist(), unpack_u32(deltas.tokens).tolist()
        if len(starts) != len(requests) or len(counts) != len(requests) or sum(counts) != len(tokens):
            log.error("the scheduler of %s sent deltas that contradict themselves; they are dropped", self._model.name)
            return
        for request, cached in deltas.cached:
            if (live := self._live.get(request)) and not live.generation.emitted:
                live.generation.cached_tokens = cached
        for request, account in deltas.accounts:
            if (live := self._live.get(request)) and live.generation.timing is not None:
                live.generation.timing.accounted(account)
        finished = {end.request: end for end in deltas.finished}
        logprobs = dict(deltas.logprobs)
        first = 0
        for request, start, count in zip(requests, starts, counts, strict=True):
            following = first + count
            if live := self._live.get(request):
                values = [logprobs.get(at) for at in range(first, following)] if logprobs else []
                end = finished.pop(request, None) if finished else None
                known = len(live.generation.emitted)
                if live.generation.timing is not None and start <= known < start + count:
                    live.generation.timing.drew(start + count - known, deltas.step, now_ns)
                self._delta(live, start, tokens[first:following], values, end, now_ns)
            first = following
        for end in finished.values():  # those that end without a token, and those that are over here already
            if live := self._live.get(end.request):
                self._delta(live, len(live.generation.emitted), [], [], end, now_ns)
            else:
                self._ledger.computed(end.request, end.spent_ns, end.prefill_ns)

    def _delta(
        self,
        live: _Live,
        start: int,
        tokens: list[int],
        logprobs: list[TokenLogprobs | None],
        finished: Finished | None,
        now_ns: int,
    ) -> None:
        if live.opened is not None or live.refusals:
            self._taken(live)
        known = len(live.generation.emitted)
        begun_ns = self._clock()
        piece, verdict = live.generation.take(start, tokens, logprobs, finished)
        done_ns = self._clock()
        live.text_ns += done_ns - begun_ns
        if live.generation.timing is not None:
            live.generation.timing.text_ns += done_ns - begun_ns
        if live.asked and len(live.generation.emitted) > known:
            live.asked = 0
        if piece is not None:
            if piece.finish is not None:
                assert piece.finish.reason != "content_filter"  # guards come later
                computed = (finished.spent_ns, finished.prefill_ns) if finished is not None else None
                self._account(live, piece, piece.finish.reason, computed)
            live.stream.push(piece)
        if verdict == "going":
            if (drawn := len(live.generation.emitted)) >= live.look_at:
                self._look(live, drawn)
            return
        if verdict == "gap":
            self._ask_again(live, now_ns)
            return
        del self._live[live.order.request]
        self._note(live.order.request, done_ns, "told", live.text_ns)
        if verdict == "stopped":
            self._abort(live, "stop")
        if isinstance(live.generation, Generation) and (pool := live.generation.pool) is not None and not pool.left:
            for other in tuple(self._live.values()):  # nothing of what they would draw could be told
                if isinstance(other.generation, Generation) and other.generation.pool is pool:
                    self._cut(other, other.generation, POOL)

    def _look(self, live: _Live, drawn: int) -> None:
        """It is about to need more than it has of its budget: end it where there is none."""
        assert isinstance(live.generation, Generation)
        look_at = self._meter.may_go_on(live.order.request, drawn)
        if look_at is not None:
            live.look_at = look_at
            return
        self._cut(live, live.generation, BUDGET)

    def _cut(self, live: _Live, generation: Generation, why: str) -> None:
        """End it where it is."""
        del self._live[live.order.request]
        self._taken(live)
        self._abort(live, "stop")
        last = generation.end("length", stop_reason=why)
        self._account(live, last, "length", None)
        self._note(live.order.request, self._clock(), "told", live.text_ns)
        live.stream.push(last)

    def _ask_again(self, live: _Live, now_ns: int) -> None:
        if live.asked and now_ns - live.asked_ns < ASK_AGAIN_S * 1e9:
            return  # the answer is on its way, behind what was sent before it
        if live.asked >= ASK_AGAIN:
            self._abort(live, "shutdown")
            self._fail(live, "tokens were lost between scheduler and ingress")
            return
        live.asked, live.asked_ns = live.asked + 1, now_ns
        self._submit(live, now_ns)

    def _prompt_logprobs(self, live: _Live, message: PromptLogprobs) -> None:
        prompt, into = unpack_u32(live.order.prompt), live.stream.prompt_logprobs
        for at, value in enumerate(message.values, start=message.start):
            if 0 <= at < len(into):
                into[at] = token_text(self._model.tokenizer, int(prompt[at]), value)

    # --- ends ------------------------------------------------------------------------------------------------------

    def _too_late(self, live: _Live) -> None:
        message = "The answer was not complete before the request's deadline."
        self._answer(live, deadline(message))
        self.abort(live.order.request, "deadline", message)

    def _give_up_opening(self, live: _Live) -> None:
        self._answer(live, not_ready(f"{self._model.name} does not answer.", 5.0))
        self.abort(live.order.request, "shutdown")

    def _abort(self, live: _Live, reason: AbortReason) -> None:
        # To a scheduler it is all the same why nobody wants the rest.
        told = "client" if reason == "discarded" else reason
        self._send(Abort(live.order.request, told, len(live.generation.emitted), live.order.adopted))

    def _fail(self, live: _Live, message: str) -> None:
        del self._live[live.order.request]
        log.error("a request failed: %s", message, extra={"request": f"{live.order.request:x}"})
        last = live.generation.end("error", message)
        self._account(live, last, "error", None)
        live.stream.push(last)

    def _account(self, live: _Live, last: Piece, outcome: Outcome, computed: tuple[int, int] | None) -> None:
        """What it used, if it was ever taken. In the spool before anybody can see the end."""
        if live.opened is not None or last.finish is None or live.order.segment or live.order.part:
            return
        order, usage = live.order, last.finish.usage
        whose = Whose(
            order.model or self._model.name, order.tenant, order.key, order.counts_prompt, order.call, order.allowed
        )
        self._ledger.ended(
            Used(
                order.request, whose, outcome, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens,
                order.submitted_ns, computed, usage.reasoning_tokens,
            )
        )  # fmt: skip

    def _note(self, request: int, now_ns: int, kind: TimelineKind, value: int = 0, detail: str = "") -> None:
        live = self._live.get(request)
        if live is None or not (live.order.segment or live.order.part) or live.order.timing:
            self._tell(TimelineEvent(request, now_ns, kind, value=value, detail=detail))
