"""An audit finds what does not fit: each kind of fault is made by hand. That it finds nothing else, `test_core_laws`
says after every step of every sequence of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bus.messages.pages import Attach, Lease, Leased, OpenPool, Seal
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from kv.audit import faults
from kv.core import Core
from kv.layout import Tables, plan_layout, tables
from kv.owners import Quarantine, Session
from kv.pool import Pool


@dataclass
class House:
    """A scheduler with leased pages, and a sealed one that it holds."""

    core: Core
    tables: Tables
    session: Session
    leased: list[int]
    sealed: int

    @property
    def pool(self) -> Pool:
        return self.core.pools[1]

    def found(self) -> str:
        return "\n".join(faults(self.core, self.tables))


@pytest.fixture
def house() -> House:
    layout = plan_layout((2 << 20) + 4 * (64 << 10), 64 << 10)
    views = tables(bytearray(layout.data_offset), layout)
    core = Core(layout, views, 1)
    session = core.attach(Attach(1, "scheduler@a", 1, "scheduler"), 1)
    core.handle(session, OpenPool(1, b"r" * 16, KvShape(1, 1, 16, 32, "float32")))
    leased = core.handle(session, Lease(2, 1, 4))
    assert isinstance(leased, Leased)
    cells, generations = unpack_u32(leased.pages).tolist(), unpack_u32(leased.generations).tolist()
    core.handle(session, Seal(3, 1, pack_u32(cells[:1]), pack_u32(generations[:1]), b"d" * 16, b"r" * 16))
    return House(core, views, session, cells[1:], cells[0])


def test_all_is_well(house: House) -> None:
    assert house.found() == ""


def two_states(house: House) -> None:
    house.pool._free[0].append(house.leased[0])


def no_state(house: House) -> None:
    house.pool._free[0].pop()


def two_owners(house: House) -> None:
    house.core.owners.quarantines.append(Quarantine((1, 1), {(1, house.leased[0])}, set()))


def no_owner(house: House) -> None:
    house.session.leases.clear()


def a_lease_on_a_free_page(house: House) -> None:
    house.session.leases.add((1, house.pool.free_cells()[0]))


def a_pin_too_many(house: House) -> None:
    house.pool.sealed[house.sealed].pins += 1


def a_pin_of_nobody(house: House) -> None:
    house.session.pins[1, house.leased[0]] = 1


def a_page_that_is_not_found(house: House) -> None:
    house.pool.index.clear()


def a_held_page_that_may_go(house: House) -> None:
    house.pool._order.offer(house.sealed, again=False)


def another_generation(house: House) -> None:
    house.pool.leased[house.leased[0]] += 1


def a_header_that_denies(house: House) -> None:
    house.pool._headers.write(house.pool.grid.header_of(house.leased[0]), 0, 1, 1)


def a_header_of_another_owner(house: House) -> None:
    generation = house.pool.leased[house.leased[0]]
    house.pool._headers.write(house.pool.grid.header_of(house.leased[0]), 1, 1, generation, 9, 9)


def a_torn_header(house: House) -> None:
    at = house.pool.grid.header_of(house.sealed) * 256
    house.tables.headers[at + 64] ^= 1


def a_slab_of_two_pools(house: House) -> None:
    house.tables.slab_pool[0] = 2


def a_quarantine_without_writers(house: House) -> None:
    key = (1, house.leased[0])
    house.session.leases.discard(key)
    house.pool.quarantined.add(key[1])
    house.core.owners.quarantines.append(Quarantine(house.session.owner, {key}, {(1, 1)}))


FAULTS = [
    (two_states, "in 2 states"), (no_state, "in no state"), (two_owners, "has 2 owners"), (no_owner, "has 0 owners"),
    (a_lease_on_a_free_page, "has an owner and is not leased"), (a_pin_too_many, "2 pins that no session accounts for"),
    (a_pin_of_nobody, "pinned by a session and not sealed"), (a_page_that_is_not_found, "not found by its digest"),
    (a_held_page_that_may_go, "with 1 pins may be evicted"), (another_generation, "its header says 1"),
    (a_header_that_denies, "its header says free"), (a_header_of_another_owner, "leased by another"),
    (a_torn_header, "cannot be read"), (a_slab_of_two_pools, "the slab table says 2"),
    (a_quarantine_without_writers, "waits for processes that are gone"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), FAULTS, ids=[make.__name__ for make, _ in FAULTS])
def test_a_fault_is_found(house: House, make: Callable[[House], None], says: str) -> None:
    make(house)
    assert says in house.found()
