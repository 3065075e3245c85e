"""A worker with a standby, and a single ingress, under a real systemd: who takes over keeps its own unit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from installation import PORT, Installation, Stream, installed, until

pytestmark = [pytest.mark.machine, pytest.mark.model]

CONFIG = f"""
[ingress]
http = "127.0.0.1:{PORT}"

[kv]
arena = "256MiB"

[[model]]
name = "smollm2"
source = "catalog:smollm2-135m-instruct"
threads = 1
slots = 8
standby = 1
"""
WORKER, STANDBY = "headrace-worker@smollm2.0.0.service", "headrace-standby@smollm2.0.0.service"
PROMPT, TOKENS = "Once upon a time", 120


@pytest.fixture(scope="module")
def pair() -> Iterator[Installation]:
    with installed(CONFIG) as installation:
        yield installation


def held(pair: Installation) -> dict[str, int]:
    """Names and pids, once both are ready."""
    found: dict[str, int] = {}

    def both() -> bool:
        processes = {process["name"]: process for process in pair.status()["processes"]}
        found.update({name: process["pid"] for name, process in processes.items()})
        roles = [processes.get(f"{role}@smollm2.0.0", {}) for role in ("worker", "standby")]
        return all(process.get("state") == "ready" and process.get("pid") for process in roles)

    until(both, 120, "worker and standby are ready")
    return found


def test_a_standby_takes_over_and_its_worker_s_unit_waits_in_its_place(pair: Installation) -> None:
    expected = pair.complete(PROMPT, TOKENS).ids
    for _ in range(2):  # and back
        before = held(pair)
        with ThreadPoolExecutor(1) as pool:
            began: list[int] = []
            stream = pool.submit(pair.complete, PROMPT, TOKENS, seen=began.append)
            until(lambda: began, 120, "the answer has begun")  # noqa: B023
            pair.machine.run("kill", "-KILL", str(before["worker@smollm2.0.0"]))
            assert stream.result(timeout=120).ids == expected
        after = held(pair)
        assert after["worker@smollm2.0.0"] == before["standby@smollm2.0.0"]
        assert after["standby@smollm2.0.0"] in (pair.pid(WORKER), pair.pid(STANDBY))


def test_all_restart_in_turn_and_the_only_ingress_refuses_nobody(pair: Installation) -> None:
    held(pair)
    stop = False
    answers: list[Stream] = []

    def client() -> None:
        while not stop:
            answers.append(pair.complete(PROMPT, 30))

    units = ["headrace-kv.service", "headrace-scheduler@smollm2.service", "headrace-ingress@0.service", WORKER, STANDBY]
    before = {unit: pair.pid(unit) for unit in units}
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        try:
            pair.headrace("restart", "--all")
        finally:
            stop = True
        for running in clients:
            running.result(timeout=120)
    assert answers
    assert {tuple(answer.ids) for answer in answers} == {tuple(answers[0].ids)}
    assert all(answer.breaks == 0 and answer.finish == "length" for answer in answers)
    assert all(pair.pid(unit) not in (0, before[unit]) for unit in units)
