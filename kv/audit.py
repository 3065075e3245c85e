"""Whether all that kv believes of its pages fits together, and fits the headers in the arena. Pure; it changes nothing.

What the core keeps twice, for speed, is counted again from the other side. In a healthy kv nothing is ever found, at
any moment; `headrace audit` and the tests ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kv.core import Core
from kv.headers import Headers
from kv.layout import FREE, LEASED, LOST, NO_POOL, SEALED, Tables
from kv.pool import UNKNOWN_OWNER, Owner, Pool
from kv.slabs import PageKey

_STATES = {FREE: "free", LEASED: "leased", SEALED: "sealed"}


def faults(core: Core, tables: Tables) -> Iterator[str]:
    """What does not fit, one sentence each.

    Args:
        tables: of the arena that the core works on.
    """
    yield from _slabs(core, tables)
    headers = Headers(tables.headers)
    holders = _holders(core)
    for pool in core.pools.values():
        yield from _cells(pool)
        yield from _headers(pool, headers, holders)
        yield from _index(pool)
    yield from _leases(core, holders)
    yield from _pins(core)


def _slabs(core: Core, tables: Tables) -> Iterator[str]:
    """A slab belongs to one pool or to none, and the slab table says so."""
    owned = Counter(slab for pool in core.pools.values() for slab in pool.slabs)
    for slab in [slab for slab, count in owned.items() if count > 1]:
        yield f"slab {slab} belongs to {owned[slab]} pools"
    lost = int((tables.slab_pool == LOST).sum())
    if len(owned) + core.slabs.free + lost != core.layout.slabs:
        yield f"{core.layout.slabs} slabs, but {len(owned)} in pools, {core.slabs.free} unused and {lost} out of use"
    for number, pool in core.pools.items():
        for slab in pool.slabs:
            if (said := int(tables.slab_pool[slab])) != number:
                yield f"slab {slab} belongs to pool {number}, the slab table says {'none' if said == NO_POOL else said}"


def _cells(pool: Pool) -> Iterator[str]:
    """free + leased + sealed = total, and no page is two of them."""
    usable = {cell for slab in pool.slabs for cell in pool.grid.cells_of(slab)}
    free = pool.free_cells()
    seen = Counter([*free, *pool.leased, *pool.sealed])
    where = f"pool {pool.number}"
    for cell in [cell for cell, count in seen.items() if count > 1]:
        yield f"{where}: page {cell} is in {seen[cell]} states at once"
    if strays := seen.keys() - usable:
        yield f"{where}: pages outside of its slabs: {sorted(strays)[:8]}"
    if lacking := usable - seen.keys():
        yield f"{where}: pages in no state: {sorted(lacking)[:8]}"
    if pool.total != len(usable):
        yield f"{where}: {len(usable)} pages, {pool.total} counted"
    if not pool.quarantined <= pool.leased.keys():
        yield f"{where}: pages in quarantine that are not leased: {sorted(pool.quarantined - pool.leased.keys())[:8]}"


def _headers(pool: Pool, headers: Headers, holders: dict[PageKey, list[Owner]]) -> Iterator[str]:
    """The arena says the same: it is what the next incarnation will believe."""
    states = dict.fromkeys(pool.free_cells(), FREE)
    states |= dict.fromkeys(pool.leased, LEASED) | dict.fromkeys(pool.sealed, SEALED)
    for cell, state in states.items():
        header, where = headers.read(pool.grid.header_of(cell)), f"pool {pool.number}: page {cell}"
        owners = holders.get((pool.number, cell), [])
        if header is None:
            if state != FREE and UNKNOWN_OWNER not in owners:  # one that a kill has torn has no known owner
                yield f"{where} is {_STATES[state]}, its header cannot be read"
        elif header.state != state:
            yield f"{where} is {_STATES[state]}, its header says {_STATES.get(header.state, header.state)}"
        elif state == LEASED:
            if pool.leased[cell] != header.generation:
                yield f"{where}: generation {pool.leased[cell]}, its header says {header.generation}"
            if owners and (header.owner, header.owner_epoch) not in owners:
                yield f"{where} is leased by another than its header says"
        elif state == SEALED:
            page = pool.sealed[cell]
            if (page.generation, page.digest, page.parent) != (header.generation, header.digest, header.parent):
                yield f"{where}: its header names another content or generation"


def _index(pool: Pool) -> Iterator[str]:
    """Every sealed page is found by its digest; those up for eviction are leaves that nobody holds."""
    where = f"pool {pool.number}"
    if len(pool.index) != len(pool.sealed):
        yield f"{where}: {len(pool.sealed)} sealed pages, {len(pool.index)} in the index"
    parents = {page.parent for page in pool.sealed.values()}
    for cell, page in pool.sealed.items():
        if pool.index.get(page.digest) != cell:
            yield f"{where}: page {cell} is not found by its digest"
        if pool.may_go(cell) != (page.pins == 0 and page.digest not in parents):
            may = "may" if pool.may_go(cell) else "may not"
            yield f"{where}: page {cell} with {page.pins} pins {may} be evicted"


def _leases(core: Core, holders: dict[PageKey, list[Owner]]) -> Iterator[str]:
    """Every leased page has one owner: a session that lives or may come back, a quarantine with writers, or kv itself,
    which fills it from disk."""
    for number, pool in core.pools.items():
        for cell in pool.leased:
            owners = holders.get((number, cell), [])
            if len(owners) != 1:
                yield f"pool {number}: page {cell} is leased and has {len(owners)} owners"
    for number, cell in holders:
        if number not in core.pools or cell not in core.pools[number].leased:
            yield f"pool {number}: page {cell} has an owner and is not leased"
    waiting = {key for quarantine in core.owners.quarantines for key in quarantine.pages}
    kept = {(number, cell) for number, pool in core.pools.items() for cell in pool.quarantined}
    if waiting != kept:
        yield f"{len(kept)} pages are in quarantine, quarantines hold {len(waiting)}"
    for quarantine in core.owners.quarantines:
        if not quarantine.writers <= core.owners.writers.keys() | core.owners.living:
            yield f"a quarantine of {len(quarantine.pages)} pages waits for processes that are gone"


def _pins(core: Core) -> Iterator[str]:
    """A page is pinned as often as sessions say."""
    counted: Counter[PageKey] = Counter()
    for session in core.owners.sessions.values():
        counted.update(session.pins)
    for number, pool in core.pools.items():
        for cell, page in pool.sealed.items():
            if page.pins != counted.pop((number, cell), 0):
                yield f"pool {number}: page {cell} has {page.pins} pins that no session accounts for"
        if pool.pinned != (held := sum(page.pins > 0 for page in pool.sealed.values())):
            yield f"pool {number}: {held} pages are pinned, {pool.pinned} counted"
    for number, cell in +counted:
        yield f"pool {number}: page {cell} is pinned by a session and not sealed"


def _holders(core: Core) -> dict[PageKey, list[Owner]]:
    holders: dict[PageKey, list[Owner]] = {}
    for session in core.owners.sessions.values():
        for key in session.leases:
            holders.setdefault(key, []).append(session.owner)
    for owner, keys in core.orphans.items():
        for key in keys:
            holders.setdefault(key, []).append(owner)
    for quarantine in core.owners.quarantines:
        for key in quarantine.pages:
            holders.setdefault(key, []).append(quarantine.owner)
    for key in core.fills.running:
        holders.setdefault(key, []).append(core.owner)
    return holders
