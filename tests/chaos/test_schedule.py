"""The schedule: the same for the same seed, nobody forgotten, nobody struck that is to be spared."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import hypothesis.strategies as st
from hypothesis import given

from chaos.schedule import schedule
from chaos.slices import tasks

NAMES = {
    "worker": ["worker@m.0.0", "worker@m.1.0"], "scheduler": ["scheduler@m"], "kv": ["kv@host"],
    "ingress": ["ingress@0", "ingress@1"], "metrics": ["metrics@host"], "supervisor": ["supervisor@host"],
}  # fmt: skip


@given(st.integers(0, 2**32))
def test_a_seed_is_a_schedule(seed: int) -> None:
    assert list(islice(schedule(NAMES, seed, 2.0), 30)) == list(islice(schedule(NAMES, seed, 2.0), 30))


@given(st.integers(0, 2**32), st.sampled_from(sorted(NAMES)))
def test_forty_blows_strike_every_role_but_those_spared(seed: int, spared: str) -> None:
    names = {role: found for role, found in NAMES.items() if role != spared}
    struck = Counter(name for blow in islice(schedule(names, seed, 2.0), 40) for name in blow.victims)
    assert {name.partition("@")[0] for name in struck} == names.keys()


@given(st.integers(0, 2**32))
def test_two_at_once_are_of_different_roles_and_killed(seed: int) -> None:
    for blow in islice(schedule(NAMES, seed, 2.0), 100):
        roles = [name.partition("@")[0] for name in blow.victims]
        assert len(set(roles)) == len(roles) <= 2
        assert blow.how == "kill" or len(roles) == 1
        assert blow.how != "hang" or roles == ["worker"]


@given(st.integers(1, 400), st.integers(0, 9))
def test_slices_add_up_to_the_run(kills: int, seed: int) -> None:
    layouts, spared = ["one", "two", "ranks"], frozenset({"metrics"})
    cut = list(tasks(kills, seed, 40, layouts, 2.0, spared))
    assert sum(task.kills for task in cut) == kills
    assert len({task.seed for task in cut}) == len(cut)
    assert all(spared <= task.spared for task in cut)
    assert list(tasks(kills, seed, 40, layouts, 2.0, spared)) == cut
