"""A step's result on its way to the ingresses: names of new full blocks, deltas, ends, and what was observed.

Array operations for what every row has; Python only for rows that filled a block, ended, or asked for more.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from bus.messages.requests import Deltas, Finished, FinishReason, PromptLogprobs, TokenLogprobs
from bus.messages.steps import StepResult
from bus.packed import pack_u32, pack_u64
from scheduler.core.apply import Outcome, apply_result
from scheduler.core.encoded import tell_encoded, vectors_of
from scheduler.core.handover import hand_over
from scheduler.core.replica import Flight, Replica
from scheduler.core.request import Request
from scheduler.core.shares import bill
from scheduler.core.state import State
from scheduler.core.submit import finish
from scheduler.core.windows import let_go

STALL_FACTOR: Final = 4.0
STALL_MIN_NS: Final = 100_000_000


def step_done(state: State, replica: Replica, result: StepResult) -> None:
    """Apply the result of the oldest step in flight; one of another step is late and says nothing.

    Raises:
        BadResult: see `apply_result`. Nothing has changed then.
    """
    if not replica.flights or replica.flights[0].step != result.step:
        return
    flight = replica.flights[0]
    _end_failed(state, replica, flight, result)
    vectors = vectors_of(replica, flight, result)
    outcome = apply_result(replica, flight, result)
    replica.flights.popleft()
    if flight.tokens:
        bill(state, replica, flight, outcome.live, result.ran_ns)
        _learn(replica, flight, outcome.drafted, result)
        state.budget(replica.number).worked(state.now)
        if replica.step_limit < replica.step_tokens:
            replica.grow()
    if replica.tried:
        for slot in replica.tried.intersection(outcome.slots.tolist()):
            request = replica.requests[slot]
            assert request is not None
            state.suspects.clear(request)
            replica.tried.discard(slot)
    for slot in outcome.crossed.tolist():
        request = replica.requests[slot]
        assert request is not None
        blocks = int(replica.computed[slot]) // replica.page_tokens
        state.ledger.seal(request, replica.tokens[slot], blocks, replica.number)
    if result.prompt_logprobs:
        _prompt_logprobs(state, replica, flight, outcome, result)
    accounts = _settle(state, replica, outcome, result.step)
    if outcome.drafted:
        accounts += _drafters(replica, flight)
    first = _observe(state, replica, outcome, result.step)
    ended = _ended(state, replica, outcome)
    if replica.dimensions:
        tell_encoded(state, replica, flight, ended, vectors)
    else:
        _deltas(state, replica, outcome, result, first, ended, accounts)
    # Before those who end give back: what this step could write is theirs to give back at once.
    state.ledger.give_back(replica.complete(result.step))
    let_go(state, replica, flight.slots.tolist())
    for request, _ in ended:
        state.ledger.retire(replica, request.slot)
        state.forget(request)
    if replica.handing:
        hand_over(state, replica, flight)


def _learn(replica: Replica, flight: Flight, drafted: int, result: StepResult) -> None:
    """What a step took, for what later ones will."""
    pairs = flight.pairs
    if drafted:
        pairs = float((flight.counts * (flight.ends - 0.5 * (flight.counts - 1))).sum())
    replica.cost.observe(flight.tokens + drafted, pairs, result.ran_ns)
    if flight.tokens == len(flight.slots):
        replica.speculation.observe(flight.tokens, drafted, result.ran_ns, result.drafting_ns, result.behind_ns)


def _end_failed(state: State, replica: Replica, flight: Flight, result: StepResult) -> None:
    """Rows that the worker could not go on with end alone; what it drew for them is then a row's that has left."""
    planned = set(flight.slots.tolist()) if result.failed else set()
    for slot, why in result.failed:
        request = replica.requests[slot] if slot in planned else None
        if request is not None:  # a slot is not reused while a step with it is in flight
            finish(state, request, "error", why)


def _ended(state: State, replica: Replica, outcome: Outcome) -> list[tuple[Request, Finished]]:
    ended: list[tuple[Request, Finished]] = []
    over = np.flatnonzero(outcome.stopped | outcome.full)
    for row in over.tolist():
        request = replica.requests[int(outcome.slots[row])]
        assert request is not None
        reason: FinishReason = "stop" if outcome.stopped[row] else "length"
        ended.append((request, state.account(request, reason, int(outcome.indexes[row] + outcome.counts[row]))))
    for slot in tuple(replica.scoring):
        if replica.computed[slot] >= replica.prefill_end[slot]:
            request = replica.requests[slot]
            assert request is not None
            done: FinishReason = "stop" if replica.dimensions else "length"
            ended.append((request, state.account(request, done, request.generated)))
    return ended


def _deltas(
    state: State,
    replica: Replica,
    outcome: Outcome,
    result: StepResult,
    first: list[Request],
    ended: list[tuple[Request, Finished]],
    accounts: list[Request],
) -> None:
    """One message per ingress that has something in this step."""
    slots, counts = outcome.slots, outcome.counts
    logprobs = dict(result.logprobs)
    if logprobs:
        _keep_logprobs(replica, outcome, logprobs)
    homes = replica.home[slots]
    numbers = set(homes.tolist()) | {int(replica.home[request.slot]) for request, _ in ended}
    state.tally.output_tokens += len(outcome.tokens)
    state.tally.drafted_tokens += outcome.drafted
    state.tally.accepted_tokens += len(outcome.tokens) - len(slots)
    state.queue.counters.drew(np.repeat(replica.client[slots], counts))
    for number in numbers:
        its = homes == number if len(numbers) > 1 else np.ones(len(slots), np.bool_)
        rows, tokens = np.flatnonzero(its), np.flatnonzero(np.repeat(its, counts))
        values: list[tuple[int, TokenLogprobs]] = []
        if logprobs:
            drawn = outcome.rows[tokens].tolist()
            values = [(index, logprobs[row]) for index, row in enumerate(drawn) if row in logprobs]
        home = state.homes[number]
        finished = tuple(account for request, account in ended if request.home == home)
        cached = tuple((r.id, r.cached_tokens) for r in first if r.home == home and r.cached_tokens)
        timed = tuple((r.id, r.book.account(*state.drafts(r))) for r in accounts if r.home == home and r.submit.timing)
        state.reply(
            home,
            Deltas(
                result.step, pack_u64(replica.request_id[slots[rows]]), pack_u32(outcome.indexes[rows]),
                pack_u32(counts[rows]), pack_u32(outcome.tokens[tokens]), tuple(values), finished,
                cached, timed,
            ),
        )  # fmt: skip


def _keep_logprobs(replica: Replica, outcome: Outcome, logprobs: dict[int, TokenLogprobs]) -> None:
    """For a resubmission by an ingress that lost them."""
    for slot, row in zip(np.repeat(outcome.slots, outcome.counts).tolist(), outcome.rows.tolist(), strict=True):
        if row in logprobs:
            request = replica.requests[slot]
            assert request is not None
            request.logprobs.append(logprobs[row])


def _prompt_logprobs(state: State, replica: Replica, flight: Flight, outcome: Outcome, result: StepResult) -> None:
    """Pass them on, once: a request that was preempted computes positions again that were sent already."""
    live = set(flight.slots[outcome.live].tolist())
    for slot, start, values in result.prompt_logprobs:
        request = replica.requests[slot] if slot in live else None
        if request is None:
            continue
        sent = 1 + len(request.prompt_logprobs)
        fresh = values[sent - start :]
        if start <= sent and fresh:
            request.prompt_logprobs.extend(fresh)
            state.reply(request.home, PromptLogprobs(request.id, sent, tuple(fresh)))


def _settle(state: State, replica: Replica, outcome: Outcome, step: int) -> list[Request]:
    """Requests that drew their first token since they got their slot: their prefill is over."""
    fresh = replica.fresh[outcome.slots]
    settled: list[Request] = []
    if fresh.any():
        for slot in outcome.slots[fresh].tolist():
            request = replica.requests[slot]
            assert request is not None
            request.book.drew(state.now)
            state.note(request.id, "first_token", step=step, replica=replica.number)
            settled.append(request)
        replica.fresh[outcome.slots] = False
    return settled


def _drafters(replica: Replica, flight: Flight) -> list[Request]:
    """Requests that drafts were tried for, of those whose clients want to know where their time goes."""
    might = flight.slots[flight.drafts > 0].tolist()
    return [
        request
        for slot in might
        if (request := replica.requests[slot]) is not None and request.submit.timing and not replica.fresh[slot]
    ]  # fmt: skip


def _observe(state: State, replica: Replica, outcome: Outcome, step: int) -> list[Request]:
    """Times to first tokens and between tokens; the requests whose first token, since they were submitted, this is."""
    slots, counts, now = outcome.slots, outcome.counts, state.now
    begun: list[Request] = []
    if not len(slots):
        return begun
    last = replica.last_token_ns[slots]
    replica.last_token_ns[slots] = now
    first = last == 0
    if first.any():
        for slot in slots[first].tolist():
            request = replica.requests[slot]
            assert request is not None
            begun.append(request)
            if not request.submitted_len:
                request.ttft_ns = now - (request.submit.submitted_ns or request.arrival_ns)
                state.tally.ttft_s.append(request.ttft_ns / 1e9)
        last, slots, counts = last[~first], slots[~first], counts[~first]
        if not len(slots):
            return begun
    gaps = (now - last).astype(np.float64)
    # Tokens that come together took their share of the time each.
    state.tally.gaps_s.append(np.repeat(gaps / counts, counts) / 1e9)
    longest = float(gaps.max())
    if replica.gap_ns and longest > (far := max(STALL_MIN_NS, STALL_FACTOR * replica.gap_ns)):
        for index in np.flatnonzero(gaps > far).tolist():
            number = int(replica.request_id[slots[index]])
            state.note(number, "stalled", int(gaps[index]), step, replica=replica.number)
    replica.gap_ns += 0.05 * (float(gaps.mean()) - replica.gap_ns) if replica.gap_ns else float(gaps.mean())
    return begun
