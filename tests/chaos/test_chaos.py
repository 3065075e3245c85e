"""The short proof: kills over all roles and kinds of stacks, under a load of every kind of request.

The long one is `make test-chaos KILLS=1000`.
"""

from __future__ import annotations

import pytest

from chaos.catalogue import brief
from chaos.report import table
from chaos.slices import Task, perform

pytestmark = [pytest.mark.system, pytest.mark.model]

TASKS = [
    Task("kernels", 101, kills=10, mean_s=1.5, spared=frozenset({"kv"})),  # so that its pages are many rounds old
    Task("pools", 102, kills=6, mean_s=1.5),
    pytest.param(
        Task("ranks", 103, kills=4, mean_s=1.5), marks=pytest.mark.slow
    ),  # `tests/system/matrix.py` kills these too
]


@pytest.mark.parametrize("task", TASKS, ids=("kernels", "pools", "ranks"))
def test_every_answer_is_what_it_would_have_been(task: Task) -> None:
    done = perform(task, brief(), print)
    assert not done.violations, table([done])
    assert sum(done.killed.values()) >= task.kills
    assert done.tokens
