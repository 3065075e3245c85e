"""The scheduler's process: what it says on its sockets, and what it makes of those who come and go."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, message
from simulated import truth

from bus.messages.control import CancelRequest, Drain, GetFleet, Ok, Rejected, Undrain
from bus.messages.steps import Leaving, StepFailed, StepResult
from bus.packed import pack_u32
from kv.service import PageService

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9]
EXPECTED = truth(PROMPT, 8, set(), 0, 64)[0]


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as directory:  # short: sockets live there
        yield Path(directory)


@pytest.fixture
def house(run: Path) -> Iterator[House]:
    house = House(run)
    house.start_kv()
    house.start_scheduler()
    yield house
    house.close()


def test_an_ingress_is_told_the_model_when_a_worker_has_registered(house: House) -> None:
    ingress = house.ingress()
    assert ingress.facts[0].root == b""
    assert ingress.facts[0].replicas_ready == 0
    house.worker()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    facts = ingress.facts[-1]
    assert (facts.page_tokens, facts.context_tokens, facts.vocabulary, len(facts.root)) == (4, 64, 40, 16)


def test_a_request_is_refused_before_any_replica_is_ready(house: House) -> None:
    ingress = house.ingress()
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.refused)
    assert ingress.refused[1].code == "not_ready"


def test_a_request_is_answered_with_its_tokens(house: House) -> None:
    house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == EXPECTED
    assert ingress.finished[1].reason == "length"


def test_a_prompt_that_was_seen_before_is_found_in_kv(house: House) -> None:
    house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    for number in (1, 2):
        ingress.submit(message(number, PROMPT, ingress.facts[-1]))
        house.until(lambda number=number: number in ingress.finished)  # type: ignore[misc]
        house.turn(0.1)  # nobody holds its pages any more
    assert ingress.finished[1].cached_tokens == 0
    assert ingress.finished[2].cached_tokens == 8
    assert ingress.tokens[2] == EXPECTED


def test_after_everything_all_pages_are_free_or_cached(house: House) -> None:
    house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    for number in range(1, 9):
        ingress.submit(message(number, [number, *PROMPT], ingress.facts[-1]))
    ingress.abort(8)
    house.until(lambda: all(number in ingress.finished for number in range(1, 8)))
    scheduler, kv = house.services["scheduler"], house.services["kv"]
    house.until(lambda: scheduler.core.state.pool.used == 0)  # type: ignore[union-attr]
    house.turn(0.1)
    assert isinstance(kv, PageService)
    (pool,) = kv.core.stats().pools
    assert pool.pinned == 0
    assert pool.leased == scheduler.core.state.pool.free  # type: ignore[union-attr]


def test_a_worker_that_comes_back_goes_on_where_the_request_was(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    worker.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: worker.plans > 0)
    worker.link.close()
    house.until(lambda: ingress.facts[-1].replicas_ready == 0)
    house.worker(epoch=2)
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == EXPECTED


def test_a_new_scheduler_resets_its_workers_and_takes_up_what_is_resubmitted(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    assert worker.resets == [1]
    facts = ingress.facts[-1]
    house.services["scheduler"].stop()
    house.until(lambda: not worker.link.up and not ingress.link.up)
    house.start_scheduler(epoch=2)
    house.until(lambda: ingress.link.up)
    ingress.tokens[1] = EXPECTED[:3]
    ingress.submit(message(1, PROMPT, facts, emitted=tuple(EXPECTED[:3])))
    house.until(lambda: 1 in ingress.finished)
    assert worker.resets == [1, 1]
    assert ingress.tokens[1] == EXPECTED
    assert ingress.finished[1].completion_tokens == 8


def test_kv_may_restart_under_way(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    worker.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1], max_tokens=30))
    house.until(lambda: worker.plans > 0)
    house.services["kv"].stop()
    worker.held = False
    worker.turn()
    house.turn(0.1)
    house.start_kv(epoch=2)  # an arena that knows nothing: all is lost, and computed again
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == truth(PROMPT, 30, set(), 0, 64)[0]


def test_a_replica_is_ready_when_all_its_ranks_agree(run: Path) -> None:
    house = House(run, tensor_parallel=2)
    house.start_kv()
    house.start_scheduler()
    try:
        ingress = house.ingress()
        first = house.worker(0, 0, ranks=2, group=5)
        house.until(lambda: bool(ingress.facts))
        house.turn(0.2)
        assert ingress.facts[-1].replicas_ready == 0
        second = house.worker(0, 1, ranks=2, group=5)
        house.until(lambda: ingress.facts[-1].replicas_ready == 1)
        ingress.submit(message(1, PROMPT, ingress.facts[-1]))
        house.until(lambda: 1 in ingress.finished)
        house.until(lambda: first.plans == second.plans > 0)
        second.link.close()
        house.until(lambda: ingress.facts[-1].replicas_ready == 0)
    finally:
        house.close()


def test_a_worker_of_another_model_file_is_refused(house: House) -> None:
    house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    stranger = house.worker(epoch=2, weights=b"others")
    house.until(lambda: "mismatch" in stranger.nacks)


def test_an_ingress_that_restarts_gets_what_it_lacks(house: House) -> None:
    worker = house.worker()
    old = house.ingress()
    house.until(lambda: old.facts[-1].replicas_ready == 1)
    facts = old.facts[-1]
    worker.held = True
    old.submit(message(1, PROMPT, facts))
    house.until(lambda: 1 in old.accepted)
    old.link.close()
    new = house.ingress(epoch=2)
    new.submit(message(1, PROMPT, facts))
    house.until(lambda: 1 in new.accepted)
    worker.held = False
    worker.turn()
    house.until(lambda: 1 in new.finished)
    assert new.tokens[1] == EXPECTED
    assert 1 not in old.finished


def other_process(run: Path, *, held: bool = False) -> subprocess.Popen[bytes]:
    """A worker in a process of its own; a held one takes plans and does nothing with them."""
    code = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from house import House
house = House(Path(sys.argv[1]))
house.worker().held = bool(int(sys.argv[3]))
house.turn(60)
"""
    return subprocess.Popen([sys.executable, "-c", code, str(run), str(Path(__file__).parent), str(int(held))])


def test_a_worker_that_hangs_is_killed(run: Path) -> None:
    house = House(run, hang_s=0.9)
    house.start_kv()
    scheduler = house.start_scheduler()
    hung = other_process(run, held=True)
    try:
        ingress = house.ingress()
        house.until(lambda: ingress.facts[-1].replicas_ready == 1)
        ingress.submit(message(1, PROMPT, ingress.facts[-1]))
        house.until(lambda: hung.poll() is not None)
        assert hung.returncode == -9
        house.until(lambda: ingress.facts[-1].replicas_ready == 0)
        house.worker(epoch=2)
        house.until(lambda: 1 in ingress.finished)
        assert ingress.tokens[1] == EXPECTED
        assert not scheduler.core.state.replicas[0].limbo
    finally:
        hung.kill()
        hung.wait()
        house.close()


def test_what_a_dead_incarnation_of_a_worker_still_says_changes_nothing(house: House) -> None:
    old = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    old.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: old.plans > 0)
    scheduler = house.services["scheduler"]
    steps = [flight.step for flight in scheduler.core.state.replicas[0].flights]  # type: ignore[union-attr]
    new = house.worker(epoch=2)
    new.held = True
    house.until(lambda: new.plans > 0)
    old.link._closed = True  # it does not notice, and says what it has to say
    for step in range(steps[0], steps[0] + 6):
        old.link._put(StepResult(step, pack_u32([3]), pack_u32([39]), 0, 1))
        old.link._put(StepFailed(step, "long ago"))
    house.turn(0.3)
    assert ingress.tokens == {}
    assert new.resets == [scheduler.core.state.replicas[0].flights[0].step]  # type: ignore[union-attr]
    new.held = False
    new.turn()
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == EXPECTED


def test_a_stopped_worker_without_work_is_found_and_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no step, so nothing is late; but it is silent, and then it does not come back."""
    monkeypatch.setattr("bus.server.SILENT_S", 2.0)
    monkeypatch.setattr("scheduler.core.failure.LOST_PATIENCE_NS", 300_000_000)
    house = House(run)
    house.start_kv()
    house.start_scheduler()
    stopped = other_process(run)
    try:
        ingress = house.ingress()
        house.until(lambda: ingress.facts[-1].replicas_ready == 1)
        stopped.send_signal(signal.SIGSTOP)
        house.until(lambda: stopped.poll() is not None)
        assert stopped.returncode == -signal.SIGKILL
        house.worker(epoch=2)
        house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    finally:
        stopped.kill()
        stopped.wait()
        house.close()


def test_operators_drain_a_replica_and_cancel_a_request(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    scheduler = house.services["scheduler"]
    assert scheduler.control(Drain(1, "worker@other.0.0")) == Rejected(1, "worker@other.0.0 is no worker of m")
    assert isinstance(scheduler.control(Drain(2, "worker@m.0.0")), Ok)
    house.until(lambda: ingress.facts[-1].replicas_ready == 0)
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.turn(0.2)
    assert worker.plans == 0
    assert isinstance(scheduler.control(CancelRequest(3, 1)), Ok)
    house.until(lambda: 1 in ingress.finished)
    assert ingress.finished[1].reason == "abort"
    assert isinstance(scheduler.control(CancelRequest(4, 1)), Rejected)
    assert isinstance(scheduler.control(Undrain(5, "worker@m.0.0")), Ok)
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    assert scheduler.control(GetFleet(6)) is None


def test_a_worker_that_drains_by_itself_gets_nothing_new_and_is_left_with_no_slot_open(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.finished)
    house.until(lambda: not worker.worker.state)
    worker.me.state = "draining"
    house.until(lambda: ingress.facts[-1].replicas_ready == 0)
    worker.me.state = "ready"
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)


def test_a_worker_that_leaves_gives_its_requests_back_between_two_steps(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    worker.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: worker.plans > 0)
    resets = len(worker.resets)
    worker.link.send(Leaving())
    house.until(lambda: ingress.facts[-1].replicas_ready == 0)
    assert len(worker.resets) == resets, "plans are under way"
    worker.held = False
    worker.turn()
    house.until(lambda: len(worker.resets) > resets)
    worker.link.close()
    successor = house.worker(epoch=2)
    house.until(lambda: 1 in ingress.finished)
    assert ingress.finished[1].reason == "length"
    assert successor.plans


def test_a_scheduler_that_ends_at_once_refuses_nobody(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    worker.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.accepted)
    scheduler = house.services["scheduler"]
    assert not scheduler.drained()
    scheduler.hand_over()
    assert scheduler.drained(), "the ingresses have everything"


def test_a_draining_scheduler_refuses_what_is_new_and_finishes_the_rest(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    worker.held = True
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.accepted)
    scheduler = house.services["scheduler"]
    scheduler.drain()
    ingress.submit(message(2, PROMPT, ingress.facts[-1]))
    house.until(lambda: 2 in ingress.refused)
    assert ingress.refused[2].code == "draining"
    assert not scheduler.drained()
    worker.held = False
    worker.turn()
    house.until(scheduler.drained)
    house.until(lambda: 1 in ingress.finished)


def test_what_happens_is_counted_and_shown(house: House) -> None:
    worker = house.worker()
    ingress = house.ingress()
    house.until(lambda: ingress.facts[-1].replicas_ready == 1)
    ingress.submit(message(1, PROMPT, ingress.facts[-1]))
    house.until(lambda: 1 in ingress.finished)
    worker.held = True
    ingress.submit(message(2, PROMPT, ingress.facts[-1]))
    house.until(lambda: worker.plans > 8)
    house.turn(0.5)
    life = next(life for life in house.lives if life.role == "scheduler")
    series = {s.name: s for s in life.telemetry.series() if not s.name.startswith("headrace_bus")}
    assert series["headrace_output_tokens_total"].value == 8
    ended = {dict(s.labels)["reason"]: s.value for s in life.telemetry.series() if s.name == "headrace_requests_total"}
    assert ended == {"stop": 0, "length": 1, "abort": 0, "error": 0}, "there before the first one, or a rate misses it"
    assert series["headrace_compute_seconds_total"].value > 0
    assert series["headrace_running_requests"].value == 1
    assert series["headrace_inter_token_seconds"].buckets[-1] == 7
    assert series["headrace_replicas_ready"].value == 1
    view = life.telemetry.live_view
    assert view is not None
    (live,) = view().requests
    assert (live.request, live.state, live.replica, live.cached_tokens) == (2, "decode", 0, 8)
    kinds = [event.kind for event in life.telemetry.take_events() if event.request == 1]
    assert kinds == ["queued", "held", "held", "admitted", "chunk", "first_token", "finished"]
    status = house.services["scheduler"].describe().models[0]
    assert (status.state, status.replicas_ready, status.running) == ("ready", 1, 1)
