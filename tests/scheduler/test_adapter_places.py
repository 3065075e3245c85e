"""What a request with an adapter waits for: one of the replicas that could take it now has to have it, on each side."""

from __future__ import annotations

from bus.messages.requests import Sampling, Submit
from scheduler.core.adapters import lacking
from scheduler.core.events import Home
from scheduler.core.replica import Replica
from scheduler.core.request import Request

ADAPTER = 7


def request(adapter: int = ADAPTER) -> Request:
    submit = Submit(request=1, prompt=b"", max_tokens=1, sampling=Sampling())
    return Request(submit, Home("ingress@0", 1), 0, 16, reuse=False, adapter=adapter)


def replica(number: int, *, has: bool, room: bool = True) -> Replica:
    """One that has another adapter, and this one too or not; with a free slot or without."""
    made = Replica(number, slots=1, step_tokens=16, context_tokens=16, page_tokens=16, adapters=2)
    for adapter in (ADAPTER + 1, ADAPTER) if has else (ADAPTER + 1,):
        made.adapters.fetch(adapter, 0, 0)
        made.adapters.loaded(adapter, 0, awaited=False)
    if not room:
        made.free_slots.clear()
    return made


def test_nothing_is_lacking_where_one_of_those_with_room_has_it() -> None:
    assert lacking(request(), [[replica(0, has=False), replica(1, has=True)]]) == []


def test_all_that_have_room_and_not_the_adapter_could_fetch_it() -> None:
    side = [replica(0, has=False), replica(1, has=False), replica(2, has=False, room=False)]
    assert lacking(request(), [side]) == side[:2]


def test_one_that_is_full_is_no_place_though_it_has_the_adapter() -> None:
    """Else the request would wait for it, beside a replica that is idle."""
    idle = replica(1, has=False)
    assert lacking(request(), [[replica(0, has=True, room=False), idle]]) == [idle]


def test_where_all_are_full_it_is_a_slot_that_is_waited_for() -> None:
    assert lacking(request(), [[replica(0, has=False, room=False)]]) == []
    assert lacking(request(), [[]]) == []
    assert lacking(request(), []) == []


def test_each_side_has_to_have_it() -> None:
    """Of two pools the one that prefills, and the one that decodes after it."""
    with_it, without, full = replica(0, has=True), replica(1, has=False), replica(2, has=False, room=False)
    assert lacking(request(), [[with_it], [without]]) == [without]
    assert lacking(request(), [[without], [with_it]]) == [without]
    assert lacking(request(), [[full], [without]]) == [without], "that one side is full says nothing of the other"
    assert lacking(request(), [[with_it], [with_it]]) == []


def test_one_that_is_on_its_way_or_about_to_leave_is_not_there() -> None:
    comes = replica(0, has=False)
    comes.adapters.fetch(ADAPTER, 0, 0)
    assert lacking(request(), [[comes]]) == [comes]
    leaves = replica(0, has=True)
    leaves.adapters.enter(ADAPTER)
    leaves.adapters.enter(ADAPTER + 1)
    leaves.adapters.make_one_leave(ADAPTER + 2, 1 << 40)
    gone = ADAPTER if not leaves.adapters.has(ADAPTER) else ADAPTER + 1
    assert lacking(request(gone), [[leaves]]) == [leaves]
