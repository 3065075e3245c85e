"""kv alone under SIGKILL: server, schedulers and workers are killed at random microseconds, again and again.

    python tests/kv/torture.py [--loops N] [--seed S] [--no-disk]

Real processes and the real server, with an arena that is far too small and a small disk tier, so that pages change
hands all the time. A scheduler leases pages, has them written by its worker, seals, looks up, fetches from disk, and
when kv dies says again what it holds; a worker writes in pieces, with commit words, and goes on for a while after its
scheduler has died. Every page that anybody finds or holds must have exactly the bytes of its digest, at any time.
Segments lose their ends and have bits flipped while kv is down. After every kill of a worker its commit words are
checked, and now and then everybody is killed: then no page is held, free and cached ones add up, and the arena itself
is read and compared.

Processes are forked from this one, which takes a few milliseconds instead of half a second.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

import numpy as np
import numpy.typing as npt

from bus.blackbox.recorder import NOTHING
from bus.blocks import next_digest
from bus.config import load_config
from bus.identity import Identity
from bus.memfd import create_memfd
from bus.messages.pages import (
    Done,
    Fenced,
    Found,
    FromKv,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    Prefetch,
    Reassert,
    Reasserted,
    Release,
    Seal,
    Sealed,
    Stats,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from bus.seqpacket import HungUp, PacketClient
from kv.client import ArenaMap, PagesDenied, attach_blocking, call, held
from kv.layout import HEADER, LEASED, SEALED, grid_for, name_hash, plan_layout, tables
from kv.main import main as kv_main

ARENA: Final = 8 << 20
SLAB: Final = 1 << 20
DISK: Final = 64 << 20
ROOT: Final = b"t" * 16
SHAPE: Final = KvShape(4, 1, 16, 128, "float32")  # 64 KiB: 80 pages in the arena, some 900 on disk
PIECES: Final = 4  # of 4 tokens each
CHAINS: Final = 100  # known to everybody: few enough to be found now and then, too many for arena and disk
BLOCKS: Final = 24
SLOWEST_S: Final = 20.0

HELD: Final = 10  # pages that a scheduler keeps pinned
EVERYBODY: Final = ["kv@host", "worker@a", "worker@b", "scheduler@a", "scheduler@b"]

COUNTERS: Final = ("loops", "kills", "sealed", "found", "from_disk", "held", "commit_words", "lost", "wrong")


def digests(chain: int) -> list[bytes]:
    """A chain that every process knows."""
    parent, made = ROOT, []
    for block in range(BLOCKS):
        parent = next_digest(parent, bytes([chain, block]))
        made.append(parent)
    return made


def content(digest: bytes) -> npt.NDArray[np.uint8]:
    """The bytes of a block: no two have a run of eight in common."""
    return np.frombuffer(np.random.default_rng(list(digest)).bytes(SHAPE.page_bytes), np.uint8)


class Shared:
    """Memory that all processes of the torture see: what was counted, and what each page is meant to become."""

    def __init__(self, cells: int) -> None:
        self._counters = np.frombuffer(mmap.mmap(-1, 4096), np.uint64)
        # By page: generation and digest, written before the first byte, so that commit words can be checked.
        self.intents = np.frombuffer(
            mmap.mmap(-1, cells * 32), np.dtype([("generation", "<u8"), ("digest", "V16"), ("_pad", "V8")])
        )

    def add(self, name: str, count: int = 1) -> None:
        self._counters[COUNTERS.index(name)] += np.uint64(count)

    def forgive(self, name: str) -> None:
        self._counters[COUNTERS.index(name)] = 0

    def __getitem__(self, name: str) -> int:
        return int(self._counters[COUNTERS.index(name)])


class Client:
    """A session with kv that blocks."""

    def __init__(self, run: Path, name: str, epoch: int, role: str, owner: str = "") -> None:
        me = cast(Identity, SimpleNamespace(run=run, name=name, epoch=epoch, recorder=NOTHING))
        client, arena = attach_blocking(me, cast(Any, role), owner)
        assert arena is not None
        self.client: PacketClient[FromKv] = client
        self.arena: ArenaMap = arena
        self._rid = 1
        self.pool = call(self.client, OpenPool(self.next(), ROOT, SHAPE), PoolOpened)
        self.grid = self.arena.page_grid(self.pool, SHAPE.page_bytes)

    def next(self) -> int:
        self._rid += 1
        return self._rid

    def verify(self, shared: Shared, chain: list[bytes], found: Found) -> None:
        """What a look-up returned has the right bytes."""
        for page, digest in zip(unpack_u32(found.pages).tolist(), chain, strict=False):
            shared.add("found")
            if not np.array_equal(self.grid[page], content(digest)):
                shared.add("wrong")
                print(f"page {page} does not hold {digest.hex()}", file=sys.stderr, flush=True)

    def look_up(self, shared: Shared, chain: list[bytes]) -> int:
        """Find a chain in memory and on disk, verify it, let it go. Returns how many blocks were there."""
        found = call(self.client, Lookup(self.next(), self.pool.pool, b"".join(chain)), Found)
        if found.ahead:
            rest = chain[len(found.pages) // 4 :]
            came = call(self.client, Prefetch(self.next(), self.pool.pool, b"".join(rest), 500), Found)
            self.verify(shared, rest, came)
            shared.add("from_disk", len(came.pages) // 4)
            found = Found(found.rid, found.pages + came.pages, found.generations + came.generations)
        self.verify(shared, chain, found)
        self.release(found.pages, found.generations)
        return len(found.pages) // 4

    def release(self, pages: bytes, generations: bytes) -> None:
        call(self.client, Release(self.next(), self.pool.pool, pages, generations), Done)


# --- the victims


def serve(run: Path, arena_fd: int) -> None:
    """The page server."""
    os.environ["HEADRACE_RUN"], os.environ["HEADRACE_ARENA_FD"] = str(run), str(arena_fd)
    sys.exit(kv_main("kv@host", load_config(run / "headrace.toml"), run / "headrace.toml"))


def work(run: Path, name: str, epoch: int, shared: Shared) -> None:
    """A worker: writes what its scheduler says, page by page, piece by piece. What it has begun it ends, even when the
    scheduler is long dead; only then does it tell kv that it writes no more for it."""
    rng = random.Random(epoch)
    owner = f"scheduler@{name}"
    path = run / f"{name}.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(4)
    me = again(lambda: Client(run, f"worker@{name}.0.0", epoch, "worker", owner))
    while True:
        orders, _ = listener.accept()
        with orders, contextlib.suppress(OSError):  # a scheduler that dies
            owner_epoch = int.from_bytes(orders.recv(8), "little")
            # Where kv has died meanwhile, the next one must hear it, and from a writer that it knows.
            while not attempt(lambda: call(me.client, Fenced(me.next(), owner, owner_epoch), Done)):  # noqa: B023
                me = again(lambda: Client(run, f"worker@{name}.0.0", epoch, "worker", owner))
            orders.send(b"!")
            while order := orders.recv(1 << 16):
                write(me, shared, order, rng)
                orders.send(b".")


def write(me: Client, shared: Shared, order: bytes, rng: random.Random) -> None:
    """Pages, their generations, their digests. Sometimes slowly: its scheduler may die and come back meanwhile."""
    count = len(order) // 24
    pages, generations = unpack_u32(order[: 4 * count]), unpack_u32(order[4 * count : 8 * count])
    pause_s = rng.choice([0.0, 0.0002, 0.0002, 0.005])
    for at, page in enumerate(pages.tolist()):
        digest = order[8 * count + 16 * at :][:16]
        shared.intents["generation"][page] = 0
        shared.intents["digest"][page] = np.void(digest)
        shared.intents["generation"][page] = generations[at]
        data, piece = content(digest), SHAPE.page_bytes // PIECES
        for part in range(PIECES):
            me.grid[page, part * piece : (part + 1) * piece] = data[part * piece : (part + 1) * piece]
            valid = np.array([SHAPE.page_tokens // PIECES * (part + 1)], np.uint32)
            me.arena.commit(me.pool, pages[at : at + 1], generations[at : at + 1], valid, 0)
            time.sleep(pause_s)


class WorkerGone(Exception):
    """The worker hung up: it is dead."""


class Scheduler:
    """Finds chains, and has made what it does not find. Outlives kv and its worker.

    Attributes:
        pins: pages that it holds, with generation and digest.
        unsure: those of which it does not know whether they were sealed when kv died.
        leases: pages that its worker may be writing.
    """

    def __init__(self, run: Path, name: str, epoch: int, shared: Shared) -> None:
        self.run, self.name, self.epoch, self.shared = run, name, epoch, shared
        self.rng = random.Random(epoch)
        self.pins: dict[int, tuple[int, bytes]] = {}
        self.unsure: set[int] = set()
        self.leases: dict[int, int] = {}
        self.me = again(self.attach)
        self.worker: socket.socket | None = None

    def attach(self) -> Client:
        return Client(self.run, f"scheduler@{self.name}", self.epoch, "scheduler")

    def live(self) -> NoReturn:
        kv_died = False
        while True:
            try:
                if kv_died:
                    self.me = again(self.attach)
                    self.tell()
                    kv_died = False
                self.turn()
            except WorkerGone:
                self.worker = None
            except (OSError, HungUp):
                kv_died = True

    def turn(self) -> None:
        self.give_back(list(self.leases.items()))  # of an order that its worker did not survive
        self.leases.clear()
        if self.rng.random() < 0.05:
            self.want_everything()
        chain = digests(self.rng.randrange(CHAINS))[: self.rng.randint(1, BLOCKS)]
        there = self.me.look_up(self.shared, chain)
        if missing := chain[there:][: self.rng.randint(1, 8)]:
            self.make([ROOT, *chain][there], missing)
        self.check_pins()

    def make(self, parent: bytes, missing: list[bytes]) -> None:
        """Have blocks computed, and seal them."""
        leased = call(self.me.client, Lease(self.me.next(), self.me.pool.pool, len(missing)), Leased)
        pages, generations = unpack_u32(leased.pages).tolist(), unpack_u32(leased.generations).tolist()
        mine = missing[: len(pages)]
        self.leases.update(zip(pages, generations, strict=True))
        self.order(leased.pages + leased.generations + b"".join(mine))
        # Whether it is sealed when no answer comes, the next kv will tell. Until then it is taken for a pin.
        self.leases.clear()
        self.unsure = set(pages)
        self.pins.update({p: (g, d) for p, g, d in zip(pages, generations, mine, strict=True)})
        parents = b"".join([parent, *mine][: len(mine)])
        handles = leased.pages, leased.generations
        sealed = call(
            self.me.client, Seal(self.me.next(), self.me.pool.pool, *handles, b"".join(mine), parents), Sealed
        )
        self.unsure.clear()
        codes = unpack_u32(sealed.codes).tolist()
        self.shared.add("sealed", codes.count(0))
        copies = zip(unpack_u32(sealed.pages).tolist(), unpack_u32(sealed.generations).tolist(), strict=True)
        for page, generation, code, copy in zip(pages, generations, codes, copies, strict=True):
            if code:  # somebody was faster: theirs is pinned for us, ours still leased
                del self.pins[page]
                self.give_back([(page, generation), copy])
        while len(self.pins) > HELD:
            self.let_go(next(iter(self.pins)))

    def order(self, order: bytes) -> None:
        if self.worker is None:
            self.worker = again(lambda: connected(self.run / f"{self.name}.sock"))
            self.tell_worker(self.epoch.to_bytes(8, "little"))
        self.tell_worker(order)

    def tell_worker(self, message: bytes) -> None:
        """And wait until it has done that."""
        assert self.worker is not None
        try:
            self.worker.send(message)
            if self.worker.recv(1):
                return
        except OSError:
            pass
        raise WorkerGone

    def want_everything(self) -> None:
        """Memory is short for others for a moment."""
        leased = call(self.me.client, Lease(self.me.next(), self.me.pool.pool, 4096), Leased)
        self.me.release(leased.pages, leased.generations)

    def check_pins(self) -> None:
        """What it holds stays what it is, whoever dies."""
        for page, (_, digest) in self.pins.items():
            self.shared.add("held")
            if not np.array_equal(self.me.grid[page], content(digest)):
                self.shared.add("wrong")
                print(f"page {page}, which is held, is not {digest.hex()} any more", file=sys.stderr, flush=True)

    def let_go(self, page: int) -> None:
        generation, _ = self.pins.pop(page)
        self.give_back([(page, generation)])

    def give_back(self, handles: list[tuple[int, int]]) -> None:
        self.me.release(pack_u32([page for page, _ in handles]), pack_u32([generation for _, generation in handles]))

    def tell(self) -> None:
        """To the next kv: what is still ours."""
        pins = pack_u32(list(self.pins)), pack_u32([generation for generation, _ in self.pins.values()])
        leases = pack_u32(list(self.leases)), pack_u32(list(self.leases.values()))
        answer = call(self.me.client, Reassert(self.me.next(), self.me.pool.pool, *pins, *leases), Reasserted)
        for page in unpack_u32(answer.lost).tolist():
            self.leases.pop(page, None)
            if self.pins.pop(page, None) is not None and page not in self.unsure:
                self.shared.add("lost")
                print(f"page {page}, which was held, is lost", file=sys.stderr, flush=True)
        self.unsure.clear()


def connected(path: Path) -> socket.socket:
    there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.connect(str(path))
    return there


def attempt(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, HungUp):
        return False
    return True


def again(action: Callable[[], Any]) -> Any:
    """Try until it works: others may be dead, or being born."""
    deadline = time.monotonic() + SLOWEST_S
    while True:
        try:
            return action()
        except (OSError, HungUp, PagesDenied):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


# --- the torturer


class Torture:
    """Forks the victims, kills them, and looks at what they leave behind."""

    def __init__(self, seed: int, *, disk: bool) -> None:
        self.rng = random.Random(seed)
        self.run = Path(tempfile.mkdtemp(prefix="hrt", dir="/tmp"))
        more = f'disk = "{DISK >> 20}MiB"\ndisk_path = "{self.run}/pages"\n' if disk else ""
        (self.run / "headrace.toml").write_text(f'[kv]\narena = "{ARENA >> 20}MiB"\nslab = "{SLAB >> 20}MiB"\n{more}')
        self.fd = create_memfd("headrace-arena", ARENA, "off")
        self.memory = mmap.mmap(self.fd, ARENA)
        self.layout = plan_layout(ARENA, SLAB)
        self.grid = grid_for(self.layout, SHAPE.page_bytes)
        self.shared = Shared(self.grid.cells)
        self.pids: dict[str, int] = {}
        self.epoch = 0

    def fork(self, name: str, life: Callable[[], None]) -> None:
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            _live(life, self.run / f"{name}.log")
        self.pids[name] = pid

    def everybody_lives(self) -> None:
        """Whoever is dead is born again, in any order."""
        self.reap()
        self.epoch += 1
        for name in self.rng.sample(EVERYBODY, len(EVERYBODY)):
            if name not in self.pids:
                self.fork(name, self.life_of(name))

    def life_of(self, name: str) -> Callable[[], None]:
        role, _, instance = name.partition("@")
        if role == "kv":
            return lambda: serve(self.run, self.fd)
        if role == "worker":
            return lambda: work(self.run, instance, self.epoch, self.shared)
        return lambda: Scheduler(self.run, instance, self.epoch, self.shared).live()

    def reap(self) -> None:
        """Nobody dies but by our hand."""
        for name, pid in list(self.pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            log = (self.run / f"{name}.log").read_text(errors="replace") if ended else ""
            if ended:
                del self.pids[name]
                raise AssertionError(f"{name} ended with status {status}\n{log[-3000:]}")

    def kill(self, *names: str) -> None:
        for name in names:
            if (pid := self.pids.pop(name, 0)) > 0:
                os.kill(pid, signal.SIGKILL)
                self.shared.add("kills")
                if self.rng.random() < 0.5:
                    time.sleep(self.rng.uniform(0, 0.0005))  # both at once, or nearly
                os.waitpid(pid, 0)

    def loop(self) -> None:
        """Everybody lives; some die at a random moment: in mid-write, in mid-rebuild, or before anything began."""
        self.everybody_lives()
        if self.rng.random() < 0.7:
            self.everybody_works()
        time.sleep(self.rng.choice([0.0005, 0.01, 0.1]) * self.rng.random())
        victims = self.rng.sample(EVERYBODY, self.rng.choice([1, 1, 1, 2, 2, 3, 5]))
        self.kill(*victims)
        if any(name.startswith("worker") for name in victims):
            self.check_commit_words({name.partition("@")[2] for name in victims})
        if "kv@host" in victims and self.rng.random() < 0.3:
            self.damage_disk()
        self.shared.add("loops")

    def damage_disk(self) -> None:
        """A segment ends somewhere, or has a bit flipped, or a block of it was never written."""
        segments = sorted((self.run / "pages").glob("*.pages"))
        if not segments:
            return
        path = self.rng.choice([segments[-1], self.rng.choice(segments)])
        size = path.stat().st_size
        at = self.rng.randrange(min(size, 2 << 20) or 1)
        with path.open("r+b") as file:
            way = self.rng.randrange(3)
            if way == 0:
                file.truncate(at)
            elif size > at:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at if way == 1 else at // 512 * 512)
                file.write(bytes([byte ^ 1 << self.rng.randrange(8)]) if way == 1 else bytes(512))

    def everybody_works(self, what: tuple[str, ...] = ("found", "sealed"), pages: int = 1) -> None:
        """Wait until so many pages more were found and sealed, or somebody is dead already."""
        until, deadline = sum(self.shared[name] for name in what) + pages, time.monotonic() + SLOWEST_S
        while sum(self.shared[name] for name in what) < until and len(self.pids) == len(EVERYBODY):
            assert time.monotonic() < deadline, "nothing gets done"
            time.sleep(0.0005)
            self.reap()

    def check_commit_words(self, names: set[str]) -> None:
        """Some workers are dead. Of every page that one of them was writing, as many tokens are there as its commit
        word says."""
        owners = {name_hash(f"scheduler@{name}") for name in names}
        headers = self.headers()
        for page, (generation, digest, _) in enumerate(self.shared.intents.tolist()):
            header = headers[self.grid.header_of(page)]
            word = int(header["commit"][0])
            if generation and header["state"] == LEASED and header["owner"] in owners and (
                header["generation"] == generation == word >> 32
            ):  # fmt: skip
                size = SHAPE.page_bytes * (word & 0xFFFFFFFF) // SHAPE.page_tokens
                self.shared.add("commit_words")
                there = self.bytes_of(page)[:size] == content(digest)[:size].tobytes()
                # Its scheduler may live, and have given the page back: then it is somebody else's, who writes there.
                now = self.headers()[self.grid.header_of(page)]
                if not there and (now["generation"], now["owner"]) == (header["generation"], header["owner"]):
                    self.shared.add("wrong")
                    print(f"the commit word of page {page} lies", file=sys.stderr)

    def headers(self) -> npt.NDArray[np.void]:
        return np.frombuffer(tables(memoryview(self.memory), self.layout).headers, HEADER).copy()

    def bytes_of(self, page: int) -> bytes:
        begin = self.layout.data_offset + page * self.grid.stride
        return self.memory[begin : begin + SHAPE.page_bytes]

    def audit(self) -> None:
        """Everybody but kv dies. Then nobody holds a page, all of them add up, and every one in the index is right, by
        the headers and bytes of the arena themselves."""
        self.everybody_lives()
        checker = again(lambda: Client(self.run, "scheduler@checker", self.epoch, "scheduler"))
        self.kill(*[name for name in EVERYBODY if name != "kv@host"])
        self.at_rest(checker)
        known = {digest for chain in range(CHAINS) for digest in digests(chain)}
        headers = self.headers()
        seen: set[bytes] = set()
        for page in (page for slab in range(self.layout.slabs) for page in self.grid.cells_of(slab)):
            header = headers[self.grid.header_of(page)]
            assert header["state"] != LEASED, f"page {page} is leased, and nobody lives who could have leased it"
            if header["state"] == SEALED:
                digest = header["digest"].tobytes()
                assert digest in known, f"page {page} has a digest that nobody made"
                assert digest not in seen, f"{digest.hex()} is in two pages"
                seen.add(digest)
                if self.bytes_of(page) != content(digest).tobytes():
                    self.shared.add("wrong")
                    print(f"page {page}, which is cached, is not {digest.hex()}", file=sys.stderr)
        for chain in self.rng.sample(range(CHAINS), 20):
            checker.look_up(self.shared, digests(chain))
        checker.client.close()

    def at_rest(self, checker: Client) -> None:
        """Nobody holds a page, and free and cached ones are all there are."""
        deadline = time.monotonic() + SLOWEST_S
        while True:
            stats = call(checker.client, StatsQuery(checker.next()), Stats)
            if not held(stats) and not any(pool.filling for pool in stats.pools):
                break
            assert time.monotonic() < deadline, f"somebody still holds pages: {stats.pools}"
            time.sleep(0.01)
        for pool in stats.pools:
            assert pool.free + pool.cached == pool.total, pool

    def close(self) -> None:
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        os.close(self.fd)
        shutil.rmtree(self.run, ignore_errors=True)


def _live(life: Callable[[], None], log: Path) -> NoReturn:
    """The life of a forked process; it ends here, and nothing of its parent's is run."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the torturer
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        life()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except (OSError, HungUp, PagesDenied) as gone:
        print(f"without kv: {gone}", file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Torture, and say what came of it. Exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audit-every", type=int, default=50)
    parser.add_argument("--no-disk", action="store_true")
    arguments = parser.parse_args()
    torture = Torture(arguments.seed, disk=not arguments.no_disk)
    began = time.monotonic()
    try:
        torture.everybody_lives()
        torture.everybody_works(("sealed",) if arguments.no_disk else ("from_disk",), 100)
        for loop in range(1, arguments.loops + 1):
            torture.loop()
            if loop % arguments.audit_every == 0 or loop == arguments.loops:
                torture.audit()
        if (torture.run / "kv@host.log").read_text().count("not everybody has said"):
            torture.shared.forgive("lost")  # the machine was so busy that a scheduler came seconds too late
    finally:
        torture.close()
    result = {name: torture.shared[name] for name in COUNTERS} | {"seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(result))
    return 1 if result["wrong"] or result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
