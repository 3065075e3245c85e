"""The plan of a rolling restart: who after whom, and when one is back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.config import Config, ModelConfig
from bus.messages.common import ProcessState
from bus.messages.control import UnitStatus
from bus.names import SUPERVISOR, parse_process, worker_of
from cli.rolling import Step, judge, steps_for
from cli.supervisor.plan import desired_units

NAMES = [
    SUPERVISOR,
    *(
        unit.name
        for unit in desired_units(
            Config(
                model=(
                    ModelConfig("a", "path:/x", replicas=2, tensor_parallel=2, standby=1),
                    ModelConfig("b", "path:/x"),
                )
            )
        )
    ),
]


def test_servers_go_before_those_who_speak_to_them_and_standbys_before_workers() -> None:
    assert [step.members for step in steps_for(NAMES)] == [
        (SUPERVISOR,),
        ("kv@host",),
        ("metrics@host",),
        ("scheduler@a",),
        ("scheduler@b",),
        ("standby@a.0.0",),
        ("standby@a.0.1",),
        ("standby@a.1.0",),
        ("standby@a.1.1",),
        ("worker@a.0.0", "worker@a.0.1"),
        ("worker@a.1.0", "worker@a.1.1"),
        ("worker@b.0.0",),
        ("ingress@0",),
        ("batch@host",),
    ]


@given(st.permutations(NAMES), st.integers(0, len(NAMES)))
def test_each_goes_once_in_the_same_order_of_roles_however_they_are_listed(shuffled: list[str], count: int) -> None:
    names = shuffled[:count]
    steps = steps_for(names)
    flat = [name for step in steps for name in step.members]
    assert sorted(flat) == sorted(names)
    roles = [parse_process(name).role for name in flat]
    order = ["supervisor", "kv", "metrics", "scheduler", "standby", "worker", "ingress", "batch"]
    assert roles == sorted(roles, key=order.index)
    for name in flat:
        if name.startswith("standby@") and worker_of(name) in flat:
            assert flat.index(name) < flat.index(worker_of(name)), "the new release must be waiting by then"


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("worker@a.0.1", "scheduler@a"),
        ("scheduler@a", "scheduler@a"),
        ("standby@a.0.0", ""),
        ("kv@host", ""),
        ("ingress@0", ""),
    ],
)
def test_a_step_that_takes_replicas_away_names_the_scheduler_that_counts_them(name: str, scheduler: str) -> None:
    assert Step((name,)).scheduler == scheduler


def unit(name: str, pid: int, state: ProcessState = "ready") -> UnitStatus:
    return UnitStatus(name, pid, state, 0, 1.0, "")


RANKS = Step(("worker@a.0.0", "worker@a.0.1"))


@pytest.mark.parametrize(
    ("units", "verdict"),
    [
        ([unit("worker@a.0.0", 21), unit("worker@a.0.1", 22)], "back"),
        ([unit("worker@a.0.0", 11), unit("worker@a.0.1", 12)], "under way"),  # nothing has happened yet
        ([unit("worker@a.0.0", 21), unit("worker@a.0.1", 12)], "under way"),  # half of it
        ([unit("worker@a.0.0", 21), unit("worker@a.0.1", 22, "starting")], "under way"),
        ([unit("worker@a.0.0", 21)], "under way"),
        ([unit("worker@a.0.0", 21), unit("worker@a.0.1", 0, "failed")], "failed"),
        ([unit("worker@a.0.0", 0, "failed"), unit("worker@a.0.1", 12, "draining")], "failed"),
        ([], "under way"),
    ],
)
def test_a_step_is_back_when_every_member_is_another_process_and_ready(units: list[UnitStatus], verdict: str) -> None:
    before = {"worker@a.0.0": 11, "worker@a.0.1": 12}
    assert judge(RANKS, before, {each.name: each for each in units}) == verdict


def test_a_process_that_was_not_there_before_is_back_when_it_is_ready() -> None:
    assert judge(Step(("ingress@1",)), {}, {"ingress@1": unit("ingress@1", 5)}) == "back"
