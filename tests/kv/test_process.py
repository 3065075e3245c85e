"""The page server as a process: descriptors, hang-ups, kill -9 of the server and of writers, garbage on its socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pagehost import ROOT, SHAPE, Client, Host, Named, eventually

from bus.identity import Visitor
from bus.loop import PollLoop
from bus.messages.pages import (
    Attach,
    Denied,
    Done,
    Fenced,
    FromKv,
    Lease,
    Leased,
    PoolOpened,
    Reassert,
    Reasserted,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.packed import unpack_u32
from bus.seqpacket import HungUp, PacketClient
from bus.wire import PROTOCOLS, Protocols
from kv.client import LAYOUT_VERSION, PageClient, PagesDenied, attach_blocking, call, held, layout_of_arena

pytestmark = pytest.mark.system


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("r"))
    host.start()
    yield host
    host.stop()


def test_what_is_sealed_outlives_the_server(host: Host) -> None:
    """kill -9, five times: every sealed page is found again with its bytes, through a mapping that never changed."""
    client = Client(host)
    client.write_and_seal(list(range(64)), fill=10)
    for _ in range(5):
        host.kill()
        assert client.grid[0].size == SHAPE.page_bytes  # the mapping stays valid
        with pytest.raises((HungUp, OSError)):
            client.client.call(StatsQuery(1))
        host.start()
        client = Client(host, epoch=1)
        assert client.found(list(range(64))) == [10, 11, 12, 13]


def test_a_killed_writer_leaves_nothing_behind(host: Host) -> None:
    """A scheduler dies with leased pages while its worker lives: quarantine, until the worker is gone too."""
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {tests!r})
        from pagehost import Named, attach_blocking, call, OpenPool, PoolOpened, Lease, Leased, ROOT, SHAPE
        client, _ = attach_blocking(Named({name!r}, Path({run!r})), {role!r}, {owner!r})
        if {role!r} == "scheduler":
            pool = call(client, OpenPool(1, ROOT, SHAPE), PoolOpened)
            call(client, Lease(2, pool.pool, 7), Leased)
        print("there", flush=True)
        time.sleep(60)
    """)

    def child(name: str, role: str, owner: str = "") -> subprocess.Popen[str]:
        text = code.format(tests=str(Path(__file__).parent), run=str(host.run), name=name, role=role, owner=owner)
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    worker = child("worker@m.0.0", "worker", "scheduler@m")
    scheduler = child("scheduler@m", "scheduler")
    assert host.stats().leased == 7
    scheduler.kill()
    eventually(lambda: host.stats().quarantined == 7)
    host.kill()  # the server forgets everything but the arena
    host.start()
    time.sleep(0.5)  # the worker has not come back to it, but it lives, so it may still write
    assert host.stats().quarantined == 7
    worker.send_signal(signal.SIGKILL)
    eventually(lambda: host.stats().free == host.stats().total)
    scheduler.wait()
    worker.wait()


def test_a_new_server_evicts_as_soon_as_all_who_live_have_told(host: Host) -> None:
    """Memory is full of cached pages. Who holds some of them is known by the arena; who is dead is not waited for."""
    first = Client(host)
    for turn in range(4):
        first.write_and_seal((np.arange(16 * first.pool.capacity // 4) + turn * 10_000).tolist(), fill=1)
    assert host.stats().pinned == first.pool.capacity
    host.kill()
    host.start()
    other = Client(host, name="scheduler@other")

    def leased() -> int:
        answer = call(other.client, Lease(other.next(), other.pool.pool, 10), Leased)
        return len(answer.pages) // 4

    assert leased() == 0
    first = Client(host)  # the same incarnation: it holds nothing any more, and says so
    call(first.client, Reassert(first.next(), first.pool.pool, b"", b"", b"", b""), Reasserted)
    assert leased() == 10
    first.client.close()
    other.client.close()
    Client(host, epoch=2, name="scheduler@other").client.close()  # so the first is dead
    eventually(lambda: host.held() == 0)
    host.kill()
    host.start()
    for name in ("scheduler@m", "scheduler@other"):  # they live, and hold nothing
        once = Client(host, epoch=2, name=name)
        call(once.client, Reassert(once.next(), once.pool.pool, b"", b"", b"", b""), Reasserted)
    other = Client(host, name="scheduler@third")
    assert leased() == 10


def test_garbage_is_refused_and_costs_nobody_anything(host: Host) -> None:
    path = str(host.run / "kv@host.pages.sock")
    client = Client(host)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(path)
        for packet in (b"\xc1", b"\x00" * 1000, b"\x93\x01\x02", os.urandom(60_000)):
            raw.send(packet)
            assert raw.recv(1 << 17)
    stranger: PacketClient[FromKv] = PacketClient(Path(path), FromKv)
    answer = stranger.call(Lease(1, 1, 5))
    assert isinstance(answer, Denied)
    assert answer.reason == "attach_first"
    old: PacketClient[FromKv] = PacketClient(Path(path), FromKv)
    answer = old.call(Attach(1, "scheduler@m", 0, "scheduler"))
    assert isinstance(answer, Denied)
    assert answer.reason == "stale"
    client.write_and_seal(list(range(32)), fill=50)
    assert client.found(list(range(32))) == [50, 51]


def test_the_asynchronous_client_comes_back_by_itself(host: Host) -> None:
    loop = PollLoop()
    identity = Named("scheduler@m", host.run)
    identity.loop = loop
    events: list[str] = []
    pages = PageClient(identity, "scheduler", on_up=lambda: events.append("up"), on_down=lambda: events.append("down"))

    def turn(until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not until():
            assert time.monotonic() < deadline
            loop.turn(0.02)

    turn(lambda: pages.up)
    opened: list[PoolOpened] = []
    assert pages.open_pool(ROOT, SHAPE, opened.append)
    turn(lambda: bool(opened))
    leases: list[Leased] = []
    for _ in range(50):
        assert pages.lease(opened[0].pool, 3, leases.append)
    turn(lambda: len(leases) == 50)
    assert len({page for lease in leases for page in unpack_u32(lease.pages).tolist()}) == 150
    host.kill()
    turn(lambda: not pages.up)
    assert not pages.lease(opened[0].pool, 1, leases.append)
    host.start()
    turn(lambda: pages.up)
    assert events == ["up", "down", "up"]
    lost: list[bytes] = []
    mine = b"".join(lease.pages for lease in leases), b"".join(lease.generations for lease in leases)
    pages.open_pool(ROOT, SHAPE, opened.append)
    pages.reassert(opened[0].pool, b"", b"", *mine, lambda answer: lost.append(answer.lost))
    turn(lambda: bool(lost))
    assert lost == [b""]
    assert host.stats().leased == 150
    pages.close()
    eventually(lambda: host.stats().quarantined == 150)  # this process lives, and may give them to a worker
    Client(host, epoch=2)
    assert host.stats().free == host.stats().total


def test_a_worker_that_hangs_up_and_lives_may_still_write(host: Host) -> None:
    """Its process is what counts, not its connection; this test's process stands for it."""
    worker, _ = attach_blocking(Named("worker@m.0.0", host.run), "worker", "scheduler@m")
    client = Client(host)
    call(client.client, Lease(client.next(), client.pool.pool, 3), Leased)
    worker.close()
    client.client.close()
    eventually(lambda: host.stats().quarantined == 3)
    worker, _ = attach_blocking(Named("worker@m.0.0", host.run), "worker", "scheduler@m")
    assert host.stats().quarantined == 3
    call(worker, Fenced(9, "scheduler@m", 2), Done)
    assert host.stats().quarantined == 3  # the scheduler lives, too
    Client(host, epoch=2)
    assert host.held() == 0


def test_the_death_of_a_scheduler_is_seen_after_its_hang_up(host: Host) -> None:
    """A process of its own leases pages, hangs up, and lives on for a while: its pages wait for its end."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pagehost import ROOT, SHAPE, Named
        from bus.messages.pages import Lease, Leased, OpenPool, PoolOpened
        from kv.client import attach_blocking, call
        client, _ = attach_blocking(Named("scheduler@m", Path(sys.argv[1])), "scheduler")
        pool = call(client, OpenPool(1, ROOT, SHAPE), PoolOpened).pool
        call(client, Lease(2, pool, 4), Leased)
        client.close()
        print("hung up", flush=True)
        sys.stdin.read()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(host.run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"hung up\n"
    eventually(lambda: host.stats().quarantined == 4)
    host.kill()  # the next incarnation knows of it by the arena
    host.start()
    time.sleep(0.2)
    assert host.held() == 4
    process.kill()
    process.wait()
    eventually(lambda: host.held() == 0)


def test_long_lists_are_cut_into_messages(host: Host) -> None:
    loop = PollLoop()
    identity = Named("scheduler@m", host.run)
    identity.loop = loop
    pages = PageClient(identity, "scheduler", on_up=lambda: None)
    answers: list[object] = []

    def answer() -> Any:
        deadline = time.monotonic() + 15
        while not answers:
            assert time.monotonic() < deadline
            loop.turn(0.02)
        return answers.pop()

    while not pages.up:
        loop.turn(0.02)
    small = KvShape(1, 1, 16, 32, "float32")
    pages.open_pool(b"s" * 16, small, answers.append)
    pool = answer().pool
    pages.lease(pool, 1 << 30, answers.append)
    leased = answer()
    count = len(leased.pages) // 4
    assert count > 1000
    digests = np.random.default_rng(1).integers(0, 256, 16 * 10_000, dtype=np.uint8).tobytes()
    mine, parents = digests[: 16 * count], (ROOT + digests)[: 16 * count]
    many = leased.pages * 5, leased.generations * 5, mine * 5, parents * 5  # the same ones again are stale
    pages.seal(pool, *many, answers.append)
    codes = unpack_u32(answer().codes)
    assert codes.tolist() == [0] * count + [2] * 4 * count
    pages.lookup(pool, mine + digests[16 * count :], answers.append)
    assert answer().pages == leased.pages
    pages.reassert(pool, leased.pages * 9, leased.generations * 9, b"", b"", answers.append)
    assert answer().lost == b""
    pages.release(pool, leased.pages * 9, leased.generations * 9)
    pages.stats(answers.append)
    assert held(answer()) == 0
    pages.close()


def test_a_refusal_is_answered_as_nothing(host: Host) -> None:
    """kv failing to help is a miss: no caller waits for ever."""
    loop = PollLoop()
    identity = Named("scheduler@m", host.run)
    identity.loop = loop
    refused: list[Denied] = []
    pages = PageClient(identity, "scheduler", on_up=lambda: None, on_refused=refused.append)
    answers: list[Any] = []
    while not pages.up:
        loop.turn(0.02)
    nowhere = 63
    pages.lease(nowhere, 3, answers.append)
    pages.seal(nowhere, bytes(8), bytes(8), bytes(32), bytes(32), answers.append)
    pages.lookup(nowhere, bytes(64), answers.append)
    pages.reassert(nowhere, bytes(4), bytes(4), bytes(8), bytes(8), answers.append)
    pages.open_pool(b"short", SHAPE, answers.append)
    deadline = time.monotonic() + 15
    while len(answers) < 4 or not refused:
        assert time.monotonic() < deadline
        loop.turn(0.02)
    leased, sealed, found, told = answers
    assert leased.pages == found.pages == b""
    assert unpack_u32(sealed.codes).tolist() == [2, 2]
    assert len(told.lost) == 12
    assert refused[0].reason == "shape"
    pages.close()


def test_clients_of_a_release_that_cannot_work_with_this_one_are_told_why_and_what_to_do(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv.client.BUILD", "10.0.0")
    with monkeypatch.context() as patch:
        patch.setattr("kv.client.PROTOCOLS", Protocols(7, 8))
        with pytest.raises(PagesDenied, match=r"worker@m\.0\.0 \(headrace 10\.0\.0\) knows 7 to 8") as refused:
            attach_blocking(Named("worker@m.0.0", host.run), "worker", "scheduler@m")
        assert refused.value.reason == "protocol"
        assert "restart kv@host with headrace 10.0.0: headrace restart kv@host" in str(refused.value)
    monkeypatch.setattr("kv.client.LAYOUT_VERSION", LAYOUT_VERSION + 1)
    with pytest.raises(PagesDenied, match=f"reads arenas of layout {LAYOUT_VERSION + 1}") as refused:
        attach_blocking(Named("worker@m.0.0", host.run), "worker", "scheduler@m")
    assert "headrace down, then headrace up" in str(refused.value)
    assert layout_of_arena(Visitor("cli", PollLoop(), host.run)) == LAYOUT_VERSION, "whoever only asks may ask"
    monkeypatch.undo()
    Client(host).client.close()


def test_protocols_that_overlap_attach_and_are_told_the_newest_common_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv.client.PROTOCOLS", Protocols(PROTOCOLS.oldest, PROTOCOLS.newest + 5))
    Client(host).client.close()
