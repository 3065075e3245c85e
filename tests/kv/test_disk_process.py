"""The disk tier of a real page server: what nobody holds is soon on disk, outlives a reboot, and is verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pagehost import ROOT, Client, Host, eventually

from bus.blocks import chain
from bus.messages.pages import Clear, Done, Found, Lease, Leased, Lookup, Prefetch, Release, Stats, StatsQuery
from bus.packed import pack_u32, unpack_u32
from kv.client import call

pytestmark = pytest.mark.system


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    run = tmp_path_factory.mktemp("r")
    host = Host(run, f'disk = "64MiB"\ndisk_path = "{run}/pages"\n')
    host.start()
    yield host
    host.stop()


def keep(host: Host, client: Client, tokens: list[int], fill: int) -> None:
    """Pages that nobody holds any more, and that are on disk."""
    before = host.all_stats().disk_writes_total
    pages = client.write_and_seal(tokens, fill)
    found = look_up(client, tokens)
    for _ in range(2):
        call(client.client, Release(client.next(), client.pool.pool, found.pages, found.generations), Done)
    eventually(lambda: host.all_stats().disk_writes_total == before + len(pages))


def look_up(client: Client, tokens: list[int]) -> Found:
    return call(client.client, Lookup(client.next(), client.pool.pool, chain(ROOT, pack_u32(tokens), 16)), Found)


def prefetch(client: Client, tokens: list[int], wait_ms: int = 5000) -> list[int]:
    """First byte of each page that comes."""
    digests = chain(ROOT, pack_u32(tokens), 16)
    found = call(client.client, Prefetch(client.next(), client.pool.pool, digests, wait_ms), Found)
    pages = unpack_u32(found.pages).tolist()
    assert all((client.grid[page] == client.grid[page, 0]).all() for page in pages)
    return [int(client.grid[page, 0]) for page in pages]


def written(client: Client) -> int:
    return call(client.client, StatsQuery(client.next()), Stats).disk_writes_total


def segments(host: Host) -> list[Path]:
    return sorted((host.run / "pages").glob("*.pages"))


def test_what_was_cached_is_there_after_a_reboot(host: Host) -> None:
    """Twice, with kill -9 each time: the second boot reads what the first one has closed."""
    tokens = list(range(640))
    keep(host, Client(host), tokens, fill=10)
    for _ in range(2):
        host.reboot()
        client = Client(host)
        eventually(lambda: host.all_stats().disk_pages == 40)
        found = look_up(client, tokens)
        assert (found.pages, found.ahead) == (b"", 40)
        assert found.ahead_us > 0
        assert prefetch(client, tokens) == list(range(10, 50))
        stats = host.all_stats()
        assert (stats.pools[0].pinned, stats.pools[0].leased, stats.disk_reads_total) == (40, 0, 40)
    assert prefetch(client, list(range(5, 645))) == []


def test_pages_come_back_when_memory_was_needed_for_others(host: Host) -> None:
    client = Client(host)
    tokens = list(range(320))
    keep(host, client, tokens, fill=70)
    lease = call(client.client, Lease(client.next(), client.pool.pool, 4096), Leased)
    assert (host.stats().free, host.stats().cached, len(lease.evicted)) == (0, 0, 20 * 16)
    assert prefetch(client, tokens) == []  # every page is leased: none comes, and that is said at once
    call(client.client, Release(client.next(), client.pool.pool, lease.pages, lease.generations), Done)
    assert look_up(client, tokens).ahead == 20
    assert prefetch(client, tokens) == list(range(70, 90))
    assert host.all_stats().disk_lost_total == 0


def test_a_damaged_record_is_a_miss_and_the_page_is_written_again(host: Host) -> None:
    tokens = list(range(160))
    keep(host, Client(host), tokens, fill=30)
    host.kill()
    (path,) = segments(host)
    data = bytearray(path.read_bytes())
    record = 2 * 4096
    data[6 * record + 5000] ^= 1  # the seventh page
    path.write_bytes(data)
    host.reboot()
    client = Client(host)
    eventually(lambda: host.all_stats().disk_pages == 10)
    assert prefetch(client, tokens) == list(range(30, 36))
    assert look_up(client, tokens).ahead == 0  # the chain ends at the gap
    assert host.all_stats().disk_pages == 9


def test_time_is_up_and_the_answer_is_what_is_there(host: Host) -> None:
    tokens = list(range(640))
    keep(host, Client(host), tokens, fill=10)
    host.reboot()
    client = Client(host)
    eventually(lambda: host.all_stats().disk_pages == 40)
    came = prefetch(client, tokens, wait_ms=0)
    assert came == list(range(10, 10 + len(came)))
    eventually(lambda: host.all_stats().pools[0].filling == 0)
    assert prefetch(client, tokens) == list(range(10, 50))


def test_the_limit_holds_and_the_oldest_go(host: Host) -> None:
    client = Client(host)
    for turn in range(50):  # of 256 records of 8 KiB: 100 MiB
        tokens = (np.arange(256 * 16) + turn * 10_000).tolist()
        client.write_and_seal(tokens, fill=turn % 100)
        found = look_up(client, tokens)
        for _ in range(2):
            call(client.client, Release(client.next(), client.pool.pool, found.pages, found.generations), Done)
        eventually(lambda: written(client) == 256 * (turn + 1))  # noqa: B023
    assert sum(path.stat().st_blocks * 512 for path in segments(host)) <= 64 << 20
    stats = host.all_stats()
    assert 4 * 1500 < stats.disk_pages < 50 * 256
    assert stats.disk_lost_total == 0


def test_clear_empties_the_disk_too(host: Host) -> None:
    client = Client(host)
    keep(host, client, list(range(64)), fill=5)
    assert segments(host)
    call(client.client, Clear(client.next()), Done)
    eventually(lambda: not segments(host))
    host.reboot()
    assert look_up(Client(host), list(range(64))).ahead == 0


def test_a_drain_writes_what_is_cached(host: Host) -> None:
    """`headrace down`: schedulers are gone, kv is last. Even what no time was left for is on disk then."""
    client = Client(host)
    for turn in range(15):
        tokens = (np.arange(100 * 16) + turn * 10_000).tolist()
        client.write_and_seal(tokens, fill=turn)
    client.client.close()
    assert host.process is not None
    host.process.terminate()
    assert host.process.wait(timeout=20) == 0
    host.reboot()
    eventually(lambda: host.all_stats().disk_pages == 1500)
