"""The requests in hand as an onlooker sees them."""

from __future__ import annotations

from itertools import islice
from typing import Final

from bus.messages.telemetry import LiveRequest, LiveRequests, RequestState
from scheduler.core.request import Phase, Request
from scheduler.core.state import State

MOST: Final = 500


def live_requests(state: State, name: str, now: int) -> LiveRequests:
    """At most 500, in order of arrival: a dict keeps it."""
    shown = tuple(_live(state, request, now) for request in islice(state.requests.values(), MOST))
    return LiveRequests(name, len(state.requests), shown, state.stuck, state.stuck_ns, _next_deadline_ns(state))


def _next_deadline_ns(state: State) -> int:
    """Of those that wait; the first of all is looked at, which is enough: it is the next to be missed."""
    if not state.deadlines:
        return 0
    deadline_ns, number = state.deadlines[0]
    request = state.requests.get(number)
    return deadline_ns if request is not None and request.phase is not Phase.RUNNING else 0


def _live(state: State, request: Request, now: int) -> LiveRequest:
    phase: RequestState = "waiting"
    generated, last_ns = request.generated, request.last_token_ns
    if request.phase is Phase.RUNNING:
        replica, slot = state.replicas[request.replica], request.slot
        phase = "decode" if replica.decoding[slot] else "prefill"
        generated = int(replica.known[slot]) - request.prompt_len
        last_ns = int(replica.last_token_ns[slot])
    began_ns = request.submit.submitted_ns or request.arrival_ns
    drawn = generated - request.submitted_len
    itl_ns = (last_ns - began_ns - request.ttft_ns) // (drawn - 1) if request.ttft_ns and drawn > 1 else 0
    return LiveRequest(
        request.id, request.submit.tenant, state.limits.model, phase, now - began_ns,
        (request.admitted_ns or now) - request.arrival_ns, request.ttft_ns, request.prompt_len, request.cached_tokens,
        generated, itl_ns, request.pages, request.submit.priority, request.replica,
    )  # fmt: skip
