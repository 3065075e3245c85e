"""What becomes of a `Submit` and of an `Abort`: taken, refused, recognised, ended. Idempotent by request id."""

from __future__ import annotations

from heapq import heappush
from math import inf

import msgspec

from bus.blocks import DIGEST_BYTES
from bus.messages.requests import Abort, Accepted, Deltas, FinishReason, PromptLogprobs, Spent, Submit
from bus.packed import pack_u32, pack_u64, unpack_u32
from scheduler.core.adapters import prefetch
from scheduler.core.events import Home
from scheduler.core.request import Phase, Request
from scheduler.core.state import State


def submit(state: State, home: Home, message: Submit) -> None:
    """Take a request, or say why not."""
    live = state.requests.get(message.request)
    if live is not None and not _lacks(live, message):
        _again(state, live, home, message)
        return
    if live is not None:
        take_out(state, live)  # to be begun again
        state.tally.unclaimed_ns += live.spent_ns
    if message.request in state.quarantined:
        state.refuse(home, message.request, "quarantined", state.quarantined[message.request])
        return
    resumed = bool(message.emitted) or live is not None
    if state.draining and not resumed:
        state.refuse(home, message.request, "draining", "this model is being taken out of service", 5.0)
        return
    if not resumed and (given_up := state.given_up):
        state.refuse(home, message.request, "not_ready", given_up, 5.0)
        return
    assert state.geometry is not None
    if problem := _problem(state, message):
        state.refuse(home, message.request, "invalid", problem)
        return
    if message.adapter and (lack := state.adapters.lacks(message.adapter)) is not None:
        state.refuse(home, message.request, *lack)
        return
    prompt_tokens = len(message.prompt) // 4
    wants_token = 1 if message.max_tokens > 0 else 0
    if prompt_tokens + wants_token > state.context_tokens:
        text = f"the prompt has {prompt_tokens} tokens; this model takes {state.context_tokens} with its output"
        state.refuse(home, message.request, "too_long", text)
        return
    if not resumed and _overloaded(state, home, message, prompt_tokens):
        return
    _accept(state, home, message)


def finish(state: State, request: Request, reason: FinishReason, error: str = "") -> None:
    """A request ends outside of a step's result: tell its ingress, give back what it holds."""
    take_out(state, request)
    ended = state.account(request, reason, request.generated, error)
    state.reply(request.home, Deltas(0, b"", b"", b"", b"", (), (ended,)))


def abort(state: State, message: Abort) -> None:
    """An ingress does not want it any more; it is told what it has cost."""
    request = state.requests.get(message.request)
    if request is None or late(request.submit, message):
        return
    drop(state, request, message.reason)
    state.tally.overrun_tokens += max(0, request.generated - message.emitted)
    state.reply(request.home, Spent(request.id, *state.spent_ns(request)))


def late(known: Submit, message: Submit | Abort) -> bool:
    """Whether a message is from an ingress that died, about a request that another has taken over since."""
    return message.adopted < known.adopted


def drop(state: State, request: Request, why: str) -> None:
    """A request ends and nobody waits for its account."""
    take_out(state, request)
    state.note(request.id, "aborted", request.generated, detail=why)
    state.account(request, "abort", request.generated)


def take_out(state: State, request: Request) -> None:
    """Out of wherever it is; its tokens are in `request.output`."""
    if request.phase is Phase.RUNNING:
        state.ledger.retire(state.replicas[request.replica], request.slot)
    else:
        state.queue.remove(request)
        state.ledger.forsake(request)
        state.holders.pop(request.id, None)
        state.blocked_version = -1  # whoever stood behind it may fit
    state.forget(request)


def limit_of(state: State, request: Request) -> int:
    """Most tokens, prompt included, that the request may come to."""
    return min(request.prompt_len + request.submit.max_tokens, state.context_tokens)


def _accept(state: State, home: Home, message: Submit) -> None:
    assert state.geometry is not None
    reuse = state.limits.prefix_cache and len(message.root) == DIGEST_BYTES
    request = Request(message, home, state.now, state.geometry.page_tokens, reuse)
    ahead = len(state.queue)
    state.requests[request.id] = request
    if message.adapter:
        request.adapter = state.adapters.enter(message.adapter)
    if (message.segment or message.part) and not message.timing:
        state.untold.add(request.id)
    state.queue.enter(request)
    state.queue.push(request)
    state.blocked_version = -1
    state.reply(home, Accepted(request.id, ahead))
    if message.emitted:
        state.note(request.id, "resumed", request.generated, detail="submitted again with its tokens")
    else:
        state.note(request.id, "queued", ahead, detail=message.traceparent)
    if not any(replica.free_slots for replica in state.replicas.values()):
        state.note_held(request, "slots", state.running, state.holders_of_slots())
    if message.deadline_ns:
        heappush(state.deadlines, (message.deadline_ns, request.id))
    if (reason := _ended_before(state, request)) is not None:
        # All of its tokens are out, and only its end was lost with the scheduler that knew it.
        finish(state, request, reason)
    elif given_up := state.given_up:
        finish(state, request, "error", given_up)
    elif request.adapter:
        prefetch(state, request.adapter)


def _ended_before(state: State, request: Request) -> FinishReason | None:
    if not request.generated:
        return None
    last = unpack_u32(request.output)[-1]
    enough = request.generated >= request.submit.sampling.unstopped
    if enough and last in unpack_u32(request.submit.stop_token_ids):
        return "stop"
    return "length" if request.known >= limit_of(state, request) else None


def _problem(state: State, message: Submit) -> str:
    """Why a message is not a request at all; empty where it is one."""
    assert state.geometry is not None
    if bool(message.segment) != bool(state.geometry.dimensions):
        return (
            "this model generates, and encodes nothing"
            if message.segment
            else "this model encodes, and generates nothing"
        )
    if not 0.0 < message.weight < inf:
        return "a tenant's weight is a positive number"
    if message.segment:
        tokens, odd = divmod(len(message.prompt), 4)
        if odd or not 0 < message.segment <= tokens or message.max_tokens or message.emitted:
            return "what is to be encoded is packed 32-bit ids, at least one, and the first text's are among them"
        return ""
    if not message.prompt or len(message.prompt) % 4 or len(message.emitted) % 4 or len(message.stop_token_ids) % 4:
        return "prompt, emitted and stop ids are packed 32-bit ids, and a prompt has at least one"
    if message.max_tokens < 1 and message.prompt_logprobs < 0:
        return "max_tokens must be at least 1 where no prompt log probabilities are asked for"
    return ""


def _overloaded(state: State, home: Home, message: Submit, tokens: int) -> bool:
    """Refuse what the queue cannot hold, and what would start too late. Free slots count as room in the queue: after
    a restart of this process, all that ran comes back at once and was promised an answer. Batch leaves half of it to
    others."""
    limits, queue = state.limits, state.queue
    share = 2 if message.batch else 1
    room = limits.queue_requests + limits.slots * limits.replicas - state.running
    over_requests = len(queue) + 1 - room // share
    over_tokens = queue.tokens + tokens - limits.queue_tokens // share
    # A prompt longer than the whole bound is taken by an empty queue, or it never would be.
    if over_requests > 0 or (over_tokens > 0 and len(queue) > 0):
        wait = state.rate.retry_after_s(max(over_requests, 1), max(over_tokens, 0), state.now)
        text = f"{len(queue)} requests of {queue.tokens} tokens are waiting"
        state.refuse(home, message.request, "overloaded", text, wait)
        return True
    if message.deadline_ns:
        starts_ns = state.now
        if len(queue):
            starts_ns += int(state.rate.seconds_for(len(queue), queue.tokens, state.now) * 1e9)
        if starts_ns >= message.deadline_ns:
            state.refuse(home, message.request, "deadline", "it would start after its deadline", 1.0)
            return True
    return False


def _lacks(request: Request, message: Submit) -> bool:
    """Whether a live request is submitted again with fewer tokens than it came with, by an ingress that wants log
    probabilities: those of the tokens between were never computed here. Begun again, it draws the same."""
    asked = message.sampling.logprobs >= 0 or message.prompt_logprobs >= 0
    return asked and not late(request.submit, message) and len(message.emitted) // 4 < request.submitted_len


def _again(state: State, request: Request, home: Home, message: Submit) -> None:
    """A live request is submitted again: its ingress, or its connection, is a new one. Send what it lacks."""
    if late(request.submit, message):
        return
    request.home = home
    request.submit = msgspec.structs.replace(request.submit, adopted=message.adopted)
    output = request.output
    if request.phase is Phase.RUNNING:
        replica = state.replicas[request.replica]
        replica.home[request.slot] = state.home_number(home)
        output = replica.output(request.slot, 0)
        if not replica.fresh[request.slot]:
            state.note(request.id, "first_token", detail="goes on", replica=request.replica)
    state.reply(home, Accepted(request.id, 0))
    if request.prompt_logprobs and not message.emitted:
        state.reply(home, PromptLogprobs(request.id, 1, tuple(request.prompt_logprobs)))
    start = len(message.emitted) // 4
    missing = output[4 * start :]
    if missing:
        count = len(missing) // 4
        logprobs = tuple(enumerate(request.logprobs[start - request.submitted_len :])) if request.logprobs else ()
        cached = ((request.id, request.cached_tokens),) if request.cached_tokens else ()
        accounts = ((request.id, request.book.account()),) if request.submit.timing else ()
        packed = pack_u64([request.id]), pack_u32([start]), pack_u32([count])
        state.reply(home, Deltas(0, *packed, missing, logprobs, (), cached, accounts))
