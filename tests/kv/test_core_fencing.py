"""When a dead owner's pages are free again: the order of deaths, fences and reconnections does not matter."""

from __future__ import annotations

import pytest
from pageclients import Clients, packed

from bus.messages.pages import Attach, Done, Fenced, Lease, Reassert, Reasserted
from bus.packed import unpack_u32
from kv.client import held
from kv.core import Refusal
from kv.owners import Session


def quarantined(clients: Clients) -> int:
    return sum(pool.quarantined for pool in clients.core.stats().pools)


def fence(clients: Clients, worker: Session, epoch: int) -> None:
    clients.ask(worker, Fenced(clients.next(), "scheduler@a", epoch), Done)


def test_a_dead_owners_leases_wait_for_every_writer() -> None:
    clients = Clients()
    first, second = clients.worker("worker@a.0.0"), clients.worker("worker@a.1.0")
    scheduler = clients.scheduler()
    clients.lease(scheduler, clients.open(scheduler), 5)
    clients.dies(scheduler)
    assert quarantined(clients) == 5
    fence(clients, first, 2)
    assert quarantined(clients) == 5
    clients.core.writer_died(second.writer)
    assert held(clients.core.stats()) == 0


def test_a_fence_holds_also_when_the_owner_is_buried_later() -> None:
    """The worker hears of the new scheduler before kv hears of the old one's end."""
    clients = Clients()
    worker, old = clients.worker(), clients.scheduler(epoch=1)
    clients.lease(old, clients.open(old), 5)
    fence(clients, worker, 2)
    clients.scheduler(epoch=2)
    assert held(clients.core.stats()) == 0


def test_a_fence_says_nothing_of_the_epoch_it_names() -> None:
    clients = Clients()
    worker, scheduler = clients.worker(), clients.scheduler(epoch=2)
    clients.lease(scheduler, clients.open(scheduler), 5)
    fence(clients, worker, 2)
    clients.dies(scheduler)
    assert quarantined(clients) == 5
    fence(clients, worker, 3)
    assert held(clients.core.stats()) == 0


def test_a_fence_outlives_kv() -> None:
    clients = Clients()
    worker, scheduler = clients.worker(), clients.scheduler(epoch=1)
    clients.lease(scheduler, clients.open(scheduler), 5)
    fence(clients, worker, 2)
    clients.killed_and_made_again()
    clients.core.settle()
    assert held(clients.core.stats()) == 0


def test_a_hang_up_of_a_worker_proves_nothing() -> None:
    clients = Clients()
    worker, scheduler = clients.worker(), clients.scheduler()
    clients.lease(scheduler, clients.open(scheduler), 5)
    clients.core.end(worker)
    clients.dies(scheduler)
    assert quarantined(clients) == 5
    worker = clients.worker()  # the same process comes back
    assert quarantined(clients) == 5
    clients.core.writer_died(worker.writer)
    assert held(clients.core.stats()) == 0


def test_a_new_incarnation_of_a_worker_does_not_speak_for_the_old_one() -> None:
    clients = Clients()
    old, scheduler = clients.worker(epoch=1), clients.scheduler(epoch=1)
    clients.lease(scheduler, clients.open(scheduler), 5)
    clients.dies(scheduler)
    new = clients.worker(epoch=2)
    fence(clients, new, 9)
    assert quarantined(clients) == 5
    clients.core.writer_died(old.writer)
    assert held(clients.core.stats()) == 0


def test_workers_of_others_are_not_waited_for() -> None:
    clients = Clients()
    clients.worker("worker@b.0.0", owner="scheduler@b")
    scheduler = clients.scheduler()
    clients.lease(scheduler, clients.open(scheduler), 5)
    clients.dies(scheduler)
    assert held(clients.core.stats()) == 0


def test_an_owner_that_lives_after_all_takes_its_leases_back_from_quarantine() -> None:
    """Its connection broke and its workers went on writing: nothing is lost."""
    clients = Clients()
    worker, scheduler = clients.worker(), clients.scheduler()
    pool = clients.open(scheduler)
    pages = clients.lease(scheduler, pool, 5)
    clients.core.end(scheduler)
    scheduler = clients.scheduler()
    clients.open(scheduler)
    answer = clients.ask(scheduler, Reassert(clients.next(), pool.pool, b"", b"", *packed(pages)), Reasserted)
    assert answer.lost == b""
    assert quarantined(clients) == 0
    clients.core.writer_died(worker.writer)
    assert held(clients.core.stats()) == 5


def test_a_connection_made_again_before_the_hang_up_keeps_everything() -> None:
    clients = Clients()
    old = clients.scheduler()
    pool = clients.open(old)
    clients.lease(old, pool, 5)
    new = clients.scheduler()
    assert clients.refused(old, Lease(clients.next(), pool.pool, 1)) == "stale"
    clients.core.end(old)
    assert held(clients.core.stats()) == 5
    clients.lease(new, pool, 1)
    clients.dies(new)
    assert held(clients.core.stats()) == 0


def test_an_outdated_session_cannot_take_pages_that_nobody_would_give_back() -> None:
    clients = Clients()
    old = clients.scheduler(epoch=1)
    pool = clients.open(old)
    clients.scheduler(epoch=2)
    assert clients.refused(old, Lease(clients.next(), pool.pool, 3)) == "stale"
    assert held(clients.core.stats()) == 0
    with pytest.raises(Refusal):
        clients.core.attach(Attach(1, "scheduler@a", 1, "scheduler"), 1)


def test_leases_whose_answer_was_lost_with_kv_are_free_when_the_owner_has_told_all_it_holds() -> None:
    clients = Clients()
    clients.worker()
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    known, _ = clients.lease(scheduler, pool, 3), clients.lease(scheduler, pool, 4)
    clients.killed_and_made_again()
    scheduler = clients.scheduler()
    clients.open(scheduler)
    answer = clients.ask(scheduler, Reassert(clients.next(), pool.pool, b"", b"", *packed(known)), Reasserted)
    assert answer.lost == b""
    assert held(clients.core.stats()) == 3


def test_what_is_not_told_before_settling_is_lost_when_nobody_can_write_it() -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    pages = clients.lease(scheduler, pool, 3)
    clients.killed_and_made_again()
    clients.core.settle()
    scheduler = clients.scheduler()
    clients.open(scheduler)
    answer = clients.ask(scheduler, Reassert(clients.next(), pool.pool, b"", b"", *packed(pages)), Reasserted)
    assert sorted(unpack_u32(answer.lost).tolist()) == sorted(page for page, _ in pages)


def test_a_silent_owner_may_give_its_pages_to_a_worker_that_comes_now() -> None:
    """It hung up with no worker there. It lives, so the worker that comes next may be told to write its pages."""
    clients = Clients()
    scheduler = clients.scheduler()
    clients.lease(scheduler, clients.open(scheduler), 5)
    clients.core.end(scheduler)
    assert quarantined(clients) == 5
    worker = clients.worker()
    clients.core.holder_died(scheduler.owner)
    assert quarantined(clients) == 5
    clients.worker("worker@a.1.0")  # came when the owner was dead
    clients.core.writer_died(worker.writer)
    assert held(clients.core.stats()) == 0


def test_an_owner_that_tells_late_loses_no_lease() -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    pages = clients.lease(scheduler, pool, 5)
    clients.killed_and_made_again(holders={scheduler.owner: {pool.pool}})
    clients.core.settle()
    assert quarantined(clients) == 5
    scheduler = clients.scheduler()
    clients.open(scheduler)
    answer = clients.ask(scheduler, Reassert(clients.next(), pool.pool, b"", b"", *packed(pages[:3])), Reasserted)
    assert answer.lost == b""
    assert (quarantined(clients), held(clients.core.stats())) == (0, 3)  # of the others it knows nothing
    clients.dies(scheduler)
    assert held(clients.core.stats()) == 0


def test_a_new_incarnation_proves_the_older_ones_dead() -> None:
    clients = Clients()
    old = clients.scheduler(epoch=1)
    pool = clients.open(old)
    clients.lease(old, pool, 5)
    clients.killed_and_made_again(holders={old.owner: {pool.pool}})
    clients.core.settle()
    assert quarantined(clients) == 5
    clients.scheduler(epoch=2)
    assert held(clients.core.stats()) == 0
