"""The core with an encoder behind it: whole sequences, nothing kept, all that was accepted ends once, with a vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.messages.requests import Abort, Accepted, Deltas, Encoded, Finished, Refused, Sampling, Submit
from bus.messages.steps import StepFailed, StepPlan, StepResult
from bus.packed import pack_f32, pack_u32, unpack_f32, unpack_u32
from scheduler.core import events as e
from scheduler.core.core import SchedulerCore
from scheduler.core.state import Limits

CONTEXT, STEP, DIMENSIONS = 64, 48, 2
HOME = e.Home("ingress@0", 1)


def vector_of(tokens: list[int]) -> list[float]:
    return [float(sum(tokens)), float(len(tokens))]


class Bench:
    """A core, and workers of which each computes as a worker would, when told to."""

    def __init__(self, replicas: int = 1, slots: int = 4) -> None:
        self.core = SchedulerCore(Limits(model="m", replicas=replicas, slots=slots))
        self.slots = slots
        self.now = 0
        self.plans: dict[int, list[StepPlan]] = {n: [] for n in range(replicas)}
        self.seen: list[StepPlan] = []
        self.open: dict[int, dict[int, list[int]]] = {n: {} for n in range(replicas)}
        self.poison: set[int] = set()
        self.killed: list[int] = []
        self.got: dict[int, list[float]] = {}
        self.ended: dict[int, Finished] = {}
        self.refused: dict[int, Refused] = {}
        self.accepted: set[int] = set()
        self.pages: list[e.Action] = []
        for number in range(replicas):
            self.up(number)

    def up(self, number: int) -> None:
        self.open[number], self.plans[number] = {}, []
        self.feed(e.ReplicaUp(number, self.slots, STEP, CONTEXT, CONTEXT, 1, DIMENSIONS))

    def feed(self, event: e.Event) -> None:
        self.now += 1_000_000
        for action in self.core.handle(event, self.now):
            match action:
                case e.SendPlan(replica, plan):
                    self.plans[replica].append(plan)
                    self.seen.append(plan)
                case e.ResetReplica(replica):
                    self.open[replica], self.plans[replica] = {}, []
                case e.KillReplica(replica):
                    self.killed.append(replica)
                case e.Reply(_, Encoded() as told):
                    vectors = unpack_f32(told.vectors).reshape(len(told.finished), DIMENSIONS).tolist()
                    for finished, vector in zip(told.finished, vectors, strict=True):
                        assert finished.request not in self.ended, "ends once"
                        self.got[finished.request], self.ended[finished.request] = vector, finished
                case e.Reply(_, Deltas() as told):
                    assert not told.tokens
                    self.ended |= {finished.request: finished for finished in told.finished}
                case e.Reply(_, Refused() as refused):
                    self.refused[refused.request] = refused
                case e.Reply(_, Accepted() as accepted):
                    self.accepted.add(accepted.request)
                case e.LeasePages() | e.SealPages() | e.LookUp() | e.ReleasePages() | e.ReassertPages():
                    self.pages.append(action)
                case _:
                    pass

    def submit(self, request: int, tokens: list[int], **more: object) -> None:
        fields = {"max_tokens": 0, "segment": len(tokens), **more}
        self.feed(e.Submitted(HOME, Submit(request, pack_u32(tokens), Sampling(), **fields)))  # type: ignore[arg-type]

    def step(self, number: int = 0) -> bool:
        if not self.plans[number]:
            return False
        plan, slots = self.plans[number].pop(0), self.open[number]
        for slot in unpack_u32(plan.closes).tolist():
            slots.pop(slot, None)
        for opened in plan.opens:
            slots[opened.slot] = unpack_u32(opened.tokens).tolist()
        rows = unpack_u32(plan.slots).tolist()
        assert not any(plan.samples)
        assert unpack_u32(plan.starts).tolist() == [0] * len(rows)
        assert unpack_u32(plan.counts).tolist() == [len(slots[slot]) for slot in rows], "whole sequences"
        assert sum(len(slots[slot]) for slot in rows) <= STEP or len(rows) == 1
        if any(self.poison.intersection(slots[slot]) for slot in rows):
            self.open[number] = {}
            self.feed(e.StepBroken(number, StepFailed(plan.step, "no")))
            return True
        vectors = [vector_of(slots[slot]) for slot in rows]
        self.feed(
            e.StepDone(number, StepResult(plan.step, b"", b"", 0, 1_000_000, vectors=pack_f32(np.array(vectors))))
        )
        return True

    def settle(self) -> None:
        for _ in range(2_000):
            moved = sum(self.step(number) for number in self.plans)
            if not moved:
                return
        raise AssertionError("it does not come to an end")


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=CONTEXT), min_size=1, max_size=40), st.data())
def test_every_sequence_is_answered_once_whatever_dies_and_nothing_is_kept(
    texts: list[list[int]], data: st.DataObject
) -> None:
    bench = Bench(replicas=2)
    gone: set[int] = set()
    for request, tokens in enumerate(texts, 1):
        batch = data.draw(st.booleans())
        bench.submit(request, tokens, batch=batch)
        match data.draw(st.sampled_from(("step", "step", "nothing", "nothing", "die", "abort", "again"))):
            case "step":
                bench.step(data.draw(st.integers(0, 1)))
            case "die" if not bench.core.state.suspects.any:
                bench.feed(e.ReplicaLost(0, "killed"))
                bench.feed(e.ReplicaFenced(0))
                bench.up(0)
            case "abort" if request not in bench.ended:
                bench.feed(e.Aborted(Abort(request, "client")))
                gone.add(request)
            case "again" if request not in bench.ended:
                bench.submit(request, tokens, batch=batch)
            case _:
                pass
    bench.settle()
    wanted = {request: vector_of(tokens) for request, tokens in enumerate(texts, 1) if request not in gone}
    assert {request: vector for request, vector in bench.got.items() if request not in gone} == wanted
    assert not bench.pages
    assert not bench.core.state.requests
    assert not bench.core.state.untold
    assert all(replica.running == 0 for replica in bench.core.state.replicas.values())


def test_short_ones_share_a_step_and_a_long_one_is_not_cut() -> None:
    bench = Bench(slots=8)
    bench.submit(1, [1] * 10)
    for request in range(2, 6):
        bench.submit(request, [request] * 10)
    bench.submit(6, [6] * CONTEXT)
    bench.settle()
    rows = [len(plan.slots) // 4 for plan in bench.seen if plan.slots]
    assert max(rows) >= 3
    assert len(bench.got) == 6


def test_what_is_too_long_or_of_the_other_kind_is_refused() -> None:
    bench = Bench()
    bench.submit(1, [1] * (CONTEXT + 1))
    bench.submit(2, [1, 2], segment=0, max_tokens=4)
    bench.submit(3, [1, 2], segment=3)
    bench.submit(4, [1, 2], max_tokens=1)
    assert [bench.refused[n].code for n in (1, 2, 3, 4)] == ["too_long", "invalid", "invalid", "invalid"]
    assert "generates nothing" in bench.refused[2].message


def test_a_decoder_encodes_nothing() -> None:
    core = SchedulerCore(Limits(model="m"))
    core.handle(e.ReplicaUp(0, 4, 16, 64, 4), 1)
    core.handle(e.KvUp(100), 2)
    actions = core.handle(e.Submitted(HOME, Submit(1, pack_u32([1, 2]), Sampling(), 0, segment=2)), 3)
    refused = [action.body for action in actions if isinstance(action, e.Reply)]
    assert isinstance(refused[0], Refused)
    assert "encodes nothing" in refused[0].message


@pytest.mark.parametrize("bad", [b"", pack_f32([1.0]), pack_f32([float("nan"), 1.0])])
def test_a_result_that_is_none_fails_the_step_and_the_sequence_is_computed_again(bad: bytes) -> None:
    bench = Bench()
    bench.submit(1, [3, 4])
    plan = bench.plans[0].pop(0)
    bench.feed(e.StepDone(0, StepResult(plan.step, b"", b"", 0, 1, vectors=bad)))
    assert not bench.got
    bench.settle()
    assert bench.got[1] == [7.0, 2.0]


def test_one_that_fails_its_step_again_and_again_is_found_and_the_others_are_answered() -> None:
    bench = Bench(slots=8)
    bench.poison = {29}
    for request in range(1, 8):
        bench.submit(request, [29 if request == 4 else request] * 3)
    for _ in range(40):
        bench.settle()
        bench.feed(e.Tick())
    assert bench.ended[4].reason == "error"
    assert "took its worker down" in bench.ended[4].error
    assert set(bench.got) == {1, 2, 3, 5, 6, 7}


def test_a_deadline_ends_it() -> None:
    bench = Bench(slots=1)
    bench.submit(1, [1] * 40)
    bench.submit(2, [2] * 40, deadline_ns=bench.now + 3_000_000)
    bench.now += 10_000_000
    bench.feed(e.Tick())
    bench.settle()
    assert bench.ended[2].reason == "abort"
    assert "deadline" in bench.ended[2].error
    assert set(bench.got) == {1}


def test_only_the_first_of_a_call_has_a_timeline() -> None:
    core = SchedulerCore(Limits(model="m"))
    core.handle(e.ReplicaUp(0, 4, 16, 64, 64, 1, DIMENSIONS), 1)
    for request, timing in ((1, True), (2, False)):
        submit = Submit(request, pack_u32([1, 2]), Sampling(), 0, segment=2, timing=timing)
        notes = [a for a in core.handle(e.Submitted(HOME, submit), 2) if isinstance(a, e.Note)]
        assert bool(notes) is timing
