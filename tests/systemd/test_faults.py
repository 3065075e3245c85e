"""Under a real systemd: every unit killed, frozen, hung, drained and restarted while answers are on their way. Each
answer is complete and has the tokens it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from installation import Installation, Stream, until

pytestmark = [pytest.mark.machine, pytest.mark.model]

TOKENS = 120
PROMPTS = ["Once upon a time", "def fibonacci(n):", "The three laws of robotics are"]
LASTING = [
    "headrace-kv.service",
    "headrace-metrics.service",
    "headrace-scheduler@smollm2.service",
    "headrace-worker@smollm2.0.0.service",
    "headrace-ingress@0.service",
    "headrace-ingress@1.service",
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture(scope="module")
def undisturbed(here: Installation) -> list[list[int]]:
    """The answers while nothing happens."""
    answers = [here.complete(prompt, TOKENS) for prompt in PROMPTS]
    assert all(len(answer.ids) == TOKENS for answer in answers)
    return [answer.ids for answer in answers]


def streams(here: Installation, pool: ThreadPoolExecutor, tokens: int = TOKENS) -> list[Future[Stream]]:
    """Answers under way: the first of them has begun to arrive."""
    counts = [0] * len(PROMPTS)

    def one(index: int) -> Stream:
        return here.complete(PROMPTS[index], tokens, seen=lambda count: counts.__setitem__(index, count))

    under_way = [pool.submit(one, index) for index in range(len(PROMPTS))]
    until(lambda: all(counts) or all(stream.done() for stream in under_way), 120, "answers arrive")
    return under_way


def ids(under_way: list[Future[Stream]]) -> list[list[int]]:
    return [stream.result(timeout=120).ids for stream in under_way]


def new_process(here: Installation, unit: str, before: int) -> None:
    until(lambda: here.pid(unit) not in (0, before), 120, f"{unit} runs again")
    until(lambda: here.machine.show(unit, "ActiveState")["ActiveState"] == "active", 120, f"{unit} is ready")


@pytest.mark.parametrize("unit", LASTING)
def test_a_killed_unit_costs_no_token(
    here: Installation, pool: ThreadPoolExecutor, undisturbed: list[list[int]], unit: str
) -> None:
    until(here.ready, 120, "every model answers")
    before = here.pid(unit)
    under_way = streams(here, pool)
    here.machine.systemctl("kill", "--signal=KILL", unit)
    assert ids(under_way) == undisturbed
    new_process(here, unit, before)


def test_the_arena_outlives_the_page_server(here: Installation, undisturbed: list[list[int]]) -> None:
    """PID 1 holds it: killed or restarted, kv finds the pages that it had."""
    del undisturbed
    until(here.ready, 120, "every model answers")
    unit = "headrace-kv.service"
    arena = _arena(here)
    for verb in (("kill", "--signal=KILL", unit), ("restart", unit)):
        before = here.pid(unit)
        here.machine.systemctl(*verb)
        new_process(here, unit, before)
        assert _arena(here) == arena
    assert "took over" in here.machine.journal("--namespace=headrace", f"--unit={unit}", "--lines=20")
    until(here.ready, 120, "every model answers")


def test_a_frozen_worker_is_found_by_its_watchdog(
    here: Installation, pool: ThreadPoolExecutor, undisturbed: list[list[int]]
) -> None:
    unit = "headrace-worker@smollm2.0.0.service"
    with _setting(here, unit, "WatchdogSec=2"):  # its scheduler would kill it some seconds later
        until(here.ready, 120, "every model answers")
        before = here.pid(unit)
        under_way = streams(here, pool)
        here.machine.systemctl("freeze", unit)
        assert ids(under_way) == undisturbed
        new_process(here, unit, before)
    assert "watchdog" in here.machine.journal(f"--unit={unit}", "--lines=60").lower()


def test_a_scheduler_that_hangs_is_found_by_its_watchdog(
    here: Installation, pool: ThreadPoolExecutor, undisturbed: list[list[int]]
) -> None:
    unit = "headrace-scheduler@smollm2.service"
    with _setting(here, unit, "WatchdogSec=4"):
        until(here.ready, 120, "every model answers")
        before = here.pid(unit)
        under_way = streams(here, pool)
        here.machine.systemctl("kill", "--signal=STOP", unit)
        assert ids(under_way) == undisturbed
        new_process(here, unit, before)
    assert "watchdog" in here.machine.journal(f"--unit={unit}", "--lines=60").lower()


def test_the_ranks_of_a_replica_start_anew_as_one(here: Installation) -> None:
    until(here.ready, 120, "every model answers")
    expected = here.complete(PROMPTS[0], 40, model="pair").ids
    units = [f"headrace-worker@pair.0.{rank}.service" for rank in (0, 1)]
    before = [here.pid(unit) for unit in units]
    here.machine.systemctl("kill", "--signal=KILL", units[1])
    for unit, pid in zip(units, before, strict=True):
        new_process(here, unit, pid)
    until(here.ready, 120, "every model answers")
    assert here.complete(PROMPTS[0], 40, model="pair").ids == expected
    # The operator's word does the same.
    before = [here.pid(unit) for unit in units]
    here.machine.systemctl("restart", "headrace-tp@pair.0.target")
    for unit, pid in zip(units, before, strict=True):
        new_process(here, unit, pid)
    until(here.ready, 120, "every model answers")


def test_a_rolling_restart_under_load_refuses_nobody(
    here: Installation, pool: ThreadPoolExecutor, undisturbed: list[list[int]]
) -> None:
    until(here.ready, 120, "every model answers")
    stop = False
    answers: list[tuple[int, Stream]] = []

    def client(index: int) -> None:
        while not stop:
            answers.append((index, here.complete(PROMPTS[index], TOKENS)))

    clients = [pool.submit(client, index) for index in range(len(PROMPTS))]
    before = {unit: here.pid(unit) for unit in LASTING}
    try:
        here.headrace("restart", "--all")
    finally:
        stop = True
    for running in clients:
        running.result(timeout=120)
    assert len(answers) > len(PROMPTS)
    assert all(answer.ids == undisturbed[index] for index, answer in answers)
    assert all(answer.breaks == 0 for _, answer in answers)
    assert all(here.pid(unit) not in (0, before[unit]) for unit in LASTING)


def test_a_drain_takes_as_long_as_answers_do(here: Installation, pool: ThreadPoolExecutor) -> None:
    """An ingress may take one second to stop, and pays for more as it goes."""
    with _setting(here, "headrace-ingress@0.service", "TimeoutStopSec=1"), \
         _setting(here, "headrace-ingress@1.service", "TimeoutStopSec=1"):  # fmt: skip
        until(here.ready, 120, "every model answers")
        under_way = streams(here, pool, tokens=700)
        began = time.monotonic()
        here.machine.systemctl("stop", "headrace-ingress@0.service", "headrace-ingress@1.service")
        took_s = time.monotonic() - began
        assert [len(answer) for answer in ids(under_way)] == [700] * len(PROMPTS)
        assert all(stream.result().breaks == 0 for stream in under_way)
        assert took_s > 1.5
        for index in (0, 1):
            assert here.machine.show(f"headrace-ingress@{index}.service", "Result")["Result"] == "success"


def test_stopping_everything_answers_first_and_starts_again(
    here: Installation, pool: ThreadPoolExecutor, undisturbed: list[list[int]]
) -> None:
    here.machine.systemctl("start", "headrace.target")
    until(here.ready, 120, "every model answers")
    arena = _arena(here)
    under_way = streams(here, pool)
    here.headrace("down")
    assert ids(under_way) == undisturbed
    assert all(stream.result().breaks == 0 for stream in under_way)
    states = here.machine.systemctl("list-units", "--all", "--plain", "--no-legend", "headrace-*.service")
    assert " running " not in states
    assert here.machine.run("ls", "/run/headrace").stdout.count(".sock") == 0
    here.machine.systemctl("start", "headrace.target")
    until(here.ready, 120, "every model answers")
    assert _arena(here) != arena
    assert here.complete(PROMPTS[0], TOKENS).ids == undisturbed[0]


def _arena(here: Installation) -> str:
    """Which memory the page server has mapped: its inode."""
    maps = here.machine.run("cat", f"/proc/{here.pid('headrace-kv.service')}/maps").stdout
    return next(line.split()[4] for line in maps.splitlines() if "headrace-arena" in line)


class _setting:
    """A property of a service while a test lasts, as `systemctl edit` sets it; the service is restarted with it."""

    def __init__(self, here: Installation, unit: str, line: str) -> None:
        self._here, self._unit, self._line = here, unit, line
        self._directory = f"/run/systemd/system/{unit}.d"

    def __enter__(self) -> None:
        self._here.machine.write(f"{self._directory}/99-test.conf", f"[Service]\n{self._line}\n")
        self._apply()

    def __exit__(self, *_: object) -> None:
        self._here.machine.run("rm", "-r", self._directory)
        self._apply()

    def _apply(self) -> None:
        self._here.machine.systemctl("daemon-reload")
        self._here.machine.systemctl("restart", self._unit)
