"""Replicas whose pages are in device memory: as many run as fit it, and what they keep of pages is never stale.

The simulated workers check both: block tables beyond their room, and a page that holds anything but its tokens.
"""

from __future__ import annotations

from simulated import World

from bus.packed import unpack_u32
from scheduler.core import events as e


def test_requests_wait_for_room_in_device_memory() -> None:
    """Given a pool with pages for all and a device for two, when four come, then two run at once and all end right."""
    world = World(slots=4, capacity=60, context=32, device_pages=9)
    world.start()
    for number in range(4):
        world.submit([number] * 12, 4, stops=())
    most = 0
    for _ in range(60):
        world.turn(1)
        most = max(most, world.core.state.running)
    world.settle()
    assert 1 < most < 4
    world.check_done()


def test_who_outgrows_the_device_goes_back_to_the_queue() -> None:
    """Short prompts and long answers: they enter together, and the youngest gives way."""
    world = World(slots=4, capacity=60, context=48, device_pages=13, straight=1)
    world.start()
    for number in range(4):
        world.submit([number], 40, stops=())
    world.settle()
    world.check_done()
    assert world.core.state.tally.preemptions > 0


def test_a_shared_prefix_takes_room_once() -> None:
    """Counted apart, three tables of six pages would not fit eleven."""
    world = World(slots=3, capacity=60, context=32, device_pages=11)
    world.start()
    stem = [1, 2, 3, 4] * 4
    world.submit([*stem, 9], 2, stops=())
    world.settle()
    for number in range(3):
        world.submit([*stem, number], 6, stops=())
    most = 0
    for _ in range(30):
        world.turn(1)
        most = max(most, world.core.state.running)
    world.settle()
    world.check_done()
    assert most > 1
    assert world.core.state.tally.preemptions == 0


def test_a_page_that_another_replica_wrote_is_not_taken_from_an_old_copy() -> None:
    """Given a request that leaves full pages without a name, when another replica is handed these pages and names them,
    and the first one uses them, then it has forgotten its copies."""
    world = World(replicas=2, slots=2, capacity=40, context=32, device_pages=9, extent=4)
    world.start()

    def only(number: int) -> None:
        for replica in range(2):
            world.do(e.ReplicaDrain(replica, replica != number))

    def pages() -> set[int]:
        before = len(world.plans)
        world.settle()
        return {page for plan in world.plans[before:] for page in unpack_u32(plan.pages).tolist()}

    only(0)
    world.submit([0] * 9, 4, stops=(), reuse=False)
    first = pages()
    only(1)
    world.submit([1, 2, 3, 4, 5, 6, 7, 8, 9], 4, stops=())
    assert pages() & first, "nothing was handed out again, and nothing is shown"
    only(0)
    again = world.submit([1, 2, 3, 4, 5, 6, 7, 8, 3], 4, stops=())
    world.settle()
    assert again.cached == 8
    world.check_done()


def test_a_prompt_that_no_device_holds_is_refused() -> None:
    world = World(capacity=60, context=48, device_pages=5)
    world.start()
    refused = world.submit([1] * 30, 4)
    assert refused.refused is not None
    fits = world.submit([1] * 12, 4)
    world.settle()
    assert fits.finished is not None
