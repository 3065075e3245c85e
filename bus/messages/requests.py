"""ingress <-> scheduler: requests go down, tokens come up.

The ingress is a request's home: it keeps the prompt and every token so far, and submits the request
again, with them, to a scheduler that has lost it. When an ingress dies, another one takes its streams over and submits
them under the same ids. `Submit` and `Abort` are idempotent by request id.
Within one scheduler incarnation tokens arrive in order; `Deltas.starts` says where each piece belongs,
so a repeated piece is dropped and a gap is seen.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.adapters import AdapterAnswer, AdapterFacts, LoadAdapter, UnloadAdapter
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome

FinishReason = Literal["stop", "length", "abort", "error"]

RefusalCode = Literal[
    "overloaded",  # 429: queue full, by requests or by tokens; retry after
    "not_ready",  # 503: no replica yet
    "draining",  # 503: being taken out
    "deadline",  # 503: would start too late
    "too_long",  # 400: prompt does not fit the context or the pages
    "invalid",  # 400: a value outside what this model can do
    "quarantined",  # 500: the request took its worker down twice
    "adapter",  # 404: no such adapter is loaded any more
]


class Grammar(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an answer may be: at every position only tokens with which it can still become a sentence are drawn, and it
    ends only where it is one.

    It travels whole with its request, as everything does that the same answer needs again elsewhere.

    Attributes:
        text: as llguidance reads it; it was tried before, within the limits of `bus.grammars`.
        vocabulary: digest of the tokens that it is about (`bus.vocabulary`).
    """

    text: str
    vocabulary: bytes


class Thought(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How long an answer may think before it says anything: where that is used up, its thought is closed.

    Attributes:
        budget: tokens of the thought, the marks around it included, after which the closing ones come.
        opens, closes: the marks. Empty `opens`: the prompt has begun the thought; else the answer may, and only there.
        closing: ids that close it, packed u32; the text of them has `closes` in it.
        vocabulary: digest of the tokens that the answer is made of (`bus.vocabulary`).
    """

    budget: int
    opens: str
    closes: str
    closing: bytes
    vocabulary: bytes


class Sampling(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How tokens are drawn. The defaults draw greedily and change nothing.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 is off.
        seed: 64-bit; with the position it keys the counter-based generator, so a resumed request draws the same.
        logit_bias: (token id, bias) pairs, added before temperature.
        logprobs: -1 for none, else how many alternatives per token (0: the drawn token only).
        min_tokens: the ids in `suppress` cannot be drawn before so many tokens are out.
        suppress: ids that `min_tokens` holds back (end-of-sequence and stop ids), packed u32. Beside a grammar, for as
            long as it leaves any other.
        grammar: what the answer may be; None is anything.
        thought: how long it may think; None is any time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = -1
    min_tokens: int = 0
    suppress: bytes = b""
    grammar: Grammar | None = None
    thought: Thought | None = None

    @property
    def unstopped(self) -> int:
        """Tokens of the answer before which its stop ids do not end it. What a grammar ends is whole, and ends."""
        return 0 if self.grammar is not None else self.min_tokens


class Submit(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """Please generate. Answered by `Accepted` or `Refused`.

    Attributes:
        request: 63-bit random id, chosen by the ingress, the key of everything said about it.
        prompt: token ids, packed u32.
        emitted: tokens that the ingress already has (a resubmission), packed u32; empty the first time.
        root: salted root of the digest chain (`bus.blocks`), 16 bytes; empty switches prefix reuse off.
        digests: digests of the full blocks of `prompt`, 16 bytes each.
        max_tokens: how many may be generated in all, `emitted` included.
        stop_token_ids: ids that end generation, end-of-sequence ids included unless `ignore_eos`, packed u32. The id
            that stops is delivered as the last token.
        priority: lower runs earlier; 0 is the default.
        deadline_ns: CLOCK_MONOTONIC of the host after which an answer is useless; 0 for none.
        prompt_logprobs: -1 for none, else alternatives per prompt token.
        tenant: for accounting and fair sharing.
        submitted_ns: CLOCK_MONOTONIC when the ingress had read the request.
        traceparent: of the trace that the client is in (W3C Trace Context); empty where it named none.
        adopted: how often the request has passed from a dead ingress to another. What an earlier home of it still had
            under way, a submission or an abort, has a lower number and changes nothing.
        timing: `Deltas.accounts` are wanted; of an encoder's request, its timeline. A call has very many of these.
        batch: runs when nothing else wants to, and gives way to what does.
        weight: of its tenant; one with twice the weight gets twice as much where both wait.
        segment: 0 generates. Else an encoder's vector or score of `prompt` is wanted: so many of its tokens belong to
            the first text, the others to a second one. `max_tokens` is 0 then; answered by `Encoded`.
        part: of a search that its ingress accounts for as one: it wants no timeline either.
        adapter: digest of the adapter that it is computed with; empty for none. It is part of `root`.
    """

    request: int
    prompt: bytes
    sampling: Sampling
    max_tokens: int
    emitted: bytes = b""
    root: bytes = b""
    digests: bytes = b""
    stop_token_ids: bytes = b""
    priority: int = 0
    deadline_ns: int = 0
    prompt_logprobs: int = -1
    tenant: str = ""
    submitted_ns: int = 0
    adopted: int = 0
    timing: bool = False
    traceparent: str = ""
    batch: bool = False
    weight: float = 1.0
    segment: int = 0
    part: bool = False
    adapter: bytes = b""


class Abort(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """The request is not wanted any more: client gone, stop string, deadline. Idempotent; answered by `Spent` where it
    was known.

    `emitted` is how many tokens the ingress had used when it decided, so over-run can be counted. `adopted` is that of
    the submission which it ends.
    """

    request: int
    reason: Literal["client", "stop", "deadline", "shutdown"]
    emitted: int = 0
    adopted: int = 0


class ModelFacts(msgspec.Struct, array_like=True, frozen=True, tag=20):
    """Sent after `Welcome` and whenever it changes: what an ingress must know of the model behind this scheduler.

    Attributes:
        root: unsalted root of the digest chain; 16 bytes, empty while no replica has registered.
        context_tokens: longest prompt plus output.
        vocabulary: number of logits; a token id is below it.
        replicas_ready: replicas that can take a request now.
        replicas: replicas configured.
        trouble: why that is not all of them; empty where it is.
        stuck: what keeps the work in hand from getting on; empty where it does, or there is none.
        stuck_ns: CLOCK_MONOTONIC since when; 0 where it is not.
        adapters: that are served beside the model itself.
    """

    model: str
    root: bytes
    page_tokens: int
    context_tokens: int
    vocabulary: int
    replicas_ready: int
    replicas: int
    trouble: str = ""
    stuck: str = ""
    stuck_ns: int = 0
    adapters: tuple[AdapterFacts, ...] = ()


class Accepted(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=21):
    """The request is in the queue and will be completed."""

    request: int
    queued: int  # requests before it


class Refused(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=22):
    """The request was not taken; nothing is kept of it."""

    request: int
    code: RefusalCode
    message: str
    retry_after_s: float = 0.0


class TokenLogprobs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Log probabilities at one position, after penalties and bias, before temperature and truncation.

    `chosen` belongs to the drawn token; `top_ids` (packed u32) and `top` (packed f32) are the best alternatives,
    best first.
    """

    chosen: float
    top_ids: bytes = b""
    top: bytes = b""


class Finished(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The end of one request, and its account.

    Attributes:
        completion_tokens: all tokens ever emitted for it, the ones before a resubmission included.
        cached_tokens: prompt tokens whose KV was found instead of computed.
        error: what to tell the client where `reason` is "error".
        spent_ns, prefill_ns: see `Spent`.
    """

    request: int
    reason: FinishReason
    completion_tokens: int
    cached_tokens: int
    queue_ns: int
    preemptions: int = 0
    error: str = ""
    spent_ns: int = 0
    prefill_ns: int = 0


class Account(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a request's time went at one scheduler, from its submission there to its newest first token in a slot.

    Attributes:
        since_ns: CLOCK_MONOTONIC of the submission: which account it is. A later one of the same replaces it.
        queue_ns: without a slot, all waits together.
        held: (why, ns) of these that were not just its turn; see `telemetry.HeldFor`.
        prefill_ns: from a slot to the next token, all times together.
        memory_tokens, disk_tokens: found there instead of computed, all times together.
        computed_tokens, chunks: computed before tokens could be drawn (again).
        placed: how often it got a slot.
        drafted, accepted: draft tokens that it had, and those that were right: so many steps fewer.
    """

    since_ns: int = 0
    queue_ns: int = 0
    held: tuple[tuple[str, int], ...] = ()
    prefill_ns: int = 0
    memory_tokens: int = 0
    disk_tokens: int = 0
    computed_tokens: int = 0
    chunks: int = 0
    placed: int = 0
    preemptions: int = 0
    resumptions: int = 0
    drafted: int = 0
    accepted: int = 0


class Deltas(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=23):
    """All that a step brought for one ingress.

    Attributes:
        requests: packed u64.
        starts: packed u32; index of the first of these tokens among the request's generated tokens.
        counts: packed u32; tokens of each request in `tokens`.
        tokens: packed u32, concatenated.
        logprobs: (index into `tokens`, value) for tokens whose request asked for them.
        finished: requests that end with these tokens.
        cached: (request, prompt tokens whose KV was found instead of computed) where there are any, with the first
            tokens of a request: an ingress that finds a stop string is not sent its `Finished`.
        accounts: (request, account) with the first tokens after each time that it got a slot, and with all that drafts
            were tried for, where `Submit.timing` asks for it. What comes after such tokens, the ingress sees itself.
    """

    step: int
    requests: bytes
    starts: bytes
    counts: bytes
    tokens: bytes
    logprobs: tuple[tuple[int, TokenLogprobs], ...] = ()
    finished: tuple[Finished, ...] = ()
    cached: tuple[tuple[int, int], ...] = ()
    accounts: tuple[tuple[int, Account], ...] = ()


class PromptLogprobs(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=24):
    """Log probabilities of prompt tokens `start`.. in order, one per token; the first prompt token has none and is
    not sent. Always before the request's first token."""

    request: int
    start: int
    values: tuple[TokenLogprobs, ...]


class Spent(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=50):
    """What a request that was aborted has cost.

    Attributes:
        spent_ns: its part of the steps that it was in, times the cores (or GPUs) that computed them. What another
            scheduler had computed for it before is not in it.
        prefill_ns: what of it was prefill.
    """

    request: int
    spent_ns: int
    prefill_ns: int


class Encoded(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=60):
    """What a step of an encoder brought for one ingress.

    Attributes:
        finished: the requests that end with it, one for each vector, in order. Those that fail end in `Deltas`.
        vectors: packed f32, as many numbers of each request.
    """

    step: int
    finished: tuple[Finished, ...]
    vectors: bytes


ToScheduler = Hello | Heartbeat | Nack | Bye | Submit | Abort | LoadAdapter | UnloadAdapter
ToIngress = (
    Welcome
    | Heartbeat
    | Nack
    | Bye
    | ModelFacts
    | Accepted
    | Refused
    | Deltas
    | PromptLogprobs
    | Spent
    | Encoded
    | AdapterAnswer
)
