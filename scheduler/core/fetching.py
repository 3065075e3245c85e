"""Adapters come and go: requests that wait for one are woken, replicas are told which they shall have."""

from __future__ import annotations

from itertools import islice
from typing import Final

from scheduler.core.adapters import Known, fetch, lacking
from scheduler.core.admission import unpark
from scheduler.core.events import AdapterAdded, AdapterDropped, AdapterRead, AdapterTold, KeepAdaptersOf
from scheduler.core.handover import sides
from scheduler.core.replica import Replica
from scheduler.core.request import Request
from scheduler.core.state import State
from scheduler.core.submit import finish

LOOKED_AT: Final = 64  # of those that wait, the first so many are looked at
PATIENCE_NS: Final = 2_000_000_000  # one that waits longer for room has another one leave


def look_after_adapters(state: State) -> None:
    """Wake those whose adapter has come, and have what is missing loaded where there is room by now."""
    adapters = state.adapters
    if not adapters.known:
        return
    for replica in state.replicas.values():
        replica.adapters.sweep(replica.completed_step)
    for request_id, since_ns in tuple(islice(adapters.waiting.items(), LOOKED_AT)):
        request = state.requests[request_id]
        replicas = lacking(request, sides(state, request))
        if not replicas:
            del adapters.waiting[request_id]
            unpark(state, request_id)
        elif not any(replica.adapters.comes(request.adapter) for replica in replicas):
            _fetch_in_time(state, request.adapter, replicas, since_ns)
    for known in tuple(adapters.known.values()):
        if not known.digest and not known.trouble:
            _read_first(state, known)


def tell_replicas(state: State) -> None:
    """Say which adapters replicas shall have, where that has changed."""
    for replica in state.replicas.values():
        if replica.adapters.changed and replica.ready:
            replica.adapters.changed = False
            state.tally.adapters_evicted += replica.adapters.evicted
            replica.adapters.evicted = 0
            sources = tuple(state.adapters.known[number].told for number in replica.adapters.numbers)
            state.out.append(KeepAdaptersOf(replica.number, sources))


def adapter_added(state: State, event: AdapterAdded) -> None:
    """Another adapter may be named, or, not listed, was under way before this process died."""
    known = state.adapters.add(event.name, event.source, event.digest, now=state.now, created=event.created)
    if not event.listed:
        state.adapters.unlist(known, state.now + event.linger_ns)


def adapter_dropped(state: State, event: AdapterDropped) -> None:
    """Take no more requests for an adapter; it is forgotten with the last one."""
    if (known := state.adapters.named(event.name)) is not None:
        state.adapters.unlist(known, state.now)
        forget_unlisted(state)


def adapter_read(state: State, event: AdapterRead) -> None:
    """All ranks of a replica have an adapter, or cannot have it."""
    replica, known = state.replicas.get(event.replica), state.adapters.known.get(event.number)
    if replica is None or known is None:
        return
    if event.problem:
        if replica.adapters.failed(event.number, state.now):
            state.tally.adapters_failed += 1
            _unreadable(state, known, event)
        return
    if replica.adapters.loaded(event.number, state.now, awaited=known.users > 0):
        state.tally.adapters_loaded_s.append(event.took_ns / 1e9)
        if not known.digest:
            state.adapters.read(known, event.digest)
            state.out.append(AdapterTold(known.name, ""))


def forget_unlisted(state: State) -> None:
    """Those that nobody can ask for any more."""
    for known in tuple(state.adapters.known.values()):
        if known.listed or known.users or state.now < known.until_ns:
            continue
        for replica in state.replicas.values():
            replica.adapters.forget(known.number, replica.completed_step)
        if not any(replica.adapters.holds(known.number) for replica in state.replicas.values()):
            state.adapters.remove(known)


def try_again(state: State) -> None:
    """A replica has come: what could not be read may be read by it."""
    for known in state.adapters.known.values():
        known.trouble = ""


def _fetch_in_time(state: State, number: int, replicas: list[Replica], since_ns: int) -> None:
    if not fetch(state, number, replicas) and state.now - since_ns > PATIENCE_NS:
        for replica in replicas:
            replica.adapters.make_one_leave(number, state.now)


def _read_first(state: State, known: Known) -> None:
    """Nobody has read it: one replica shall."""
    serving = [replica for replica in state.replicas.values() if replica.serving]
    if serving and not any(replica.adapters.holds(known.number) for replica in serving):
        _fetch_in_time(state, known.number, serving, known.since_ns)


def _unreadable(state: State, known: Known, event: AdapterRead) -> None:
    if not known.digest:
        known.trouble = event.problem
        state.adapters.version += 1
        state.out.append(AdapterTold(known.name, event.problem))
        return
    if event.digest and known.listed:  # its files are others by now: what they are is another adapter of that name
        state.adapters.unlist(known, state.now)
        state.adapters.add(known.name, known.source, now=state.now, created=known.created)
    serving = [replica for replica in state.replicas.values() if replica.serving]
    if any(replica.adapters.holds(known.number) for replica in serving):
        return
    for request in _waiting_for(state, known.number):
        finish(state, request, "error", f"the adapter {known.name!r} cannot be loaded: {event.problem}")


def _waiting_for(state: State, number: int) -> list[Request]:
    waiting = (state.requests[request] for request in state.adapters.waiting)
    return [request for request in waiting if request.adapter == number]
