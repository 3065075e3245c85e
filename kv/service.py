"""The page server's process: the socket in front of the core, and who is still alive behind it."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Final

from bus.liveness import DeathWatch
from bus.messages.control import Audit, Audited, Ok, Rejected, ToProcess
from bus.messages.pages import Attach, Denied, Done, Fenced, PoolOpened, Prefetch, ToKv
from bus.names import PAGES_DOOR, socket_path
from bus.process import Description, Life
from bus.releases import Speaker, disagreement, ourselves
from bus.seqpacket import Connection, PacketServer
from bus.wire import PROTOCOLS, Protocols
from kv.arena import Arena
from kv.audit import faults
from kv.core import Core, Refusal
from kv.disk.place import DiskPlace
from kv.disk.tier import DiskTier
from kv.layout import VERSION
from kv.measures import Measures
from kv.onlooker import Onlooker
from kv.owners import Session, WriterKey
from kv.witness import Witness, start_time

log = logging.getLogger(__name__)

MAX_FAULTS: Final = 100  # of one audit; more say nothing new
SETTLE_S: Final = 5.0  # clients notice the hang-up at once and try ten times a second
MAX_WAIT_MS: Final = 60_000
_WITH_ARENA: Final = frozenset({"scheduler", "worker", "supervisor"})


class PageService:
    """`Service` of kv@host.

    Args:
        disk: where pages are kept beyond the arena, if anywhere.
    """

    def __init__(self, life: Life, arena: Arena, disk: DiskPlace | None = None) -> None:
        self._life, self._arena = life, arena
        self._witness = Witness(arena.tables.writers)
        living, holders = self._witness.living(), self._witness.holders()
        gc.disable()  # a hundred thousand pages are made, none is garbage: looking takes longer than making
        self.core = Core(
            arena.layout, arena.tables, arena.kv_epoch, {known.key: known.writer for known in living},
            settling=arena.adopted, holders={known.key: known.pools for known in holders},
            somebody=self._witness.damaged, keeping=disk is not None,
        )  # fmt: skip
        if self._witness.damaged:
            log.error("the table of writers is damaged: pages of dead owners stay out of use while this arena lives")
        gc.enable()
        self._tier = DiskTier(life, arena, self.core, disk, self._send_answers) if disk is not None else None
        self._onlooker = Onlooker(self.core, life.name)
        self._connections: dict[Session, Connection] = {}
        self._watches: dict[WriterKey, DeathWatch] = {}
        for known in living:
            self._watch(known.key, known.pid, self._writer_died)
        for holder in holders:
            with contextlib.suppress(OSError):  # then the next that has its name ends it
                self._watch(holder.key, holder.pid, self._holder_died)
        self._server: PacketServer[ToKv] | None = None

    def start(self) -> None:
        self._server = PacketServer(
            self._life.loop, socket_path(self._life.name, PAGES_DOOR, self._life.run), ToKv,
            on_message=self._on_message, on_malformed=self._on_malformed, on_close=self._on_close,
            recorder=self._life.recorder,
        )  # fmt: skip
        if self._arena.adopted:
            stats = self.core.stats()
            log.info("took over %d cached pages", sum(pool.cached for pool in stats.pools))
            if self.core.settling:
                self._life.loop.after(SETTLE_S, self._settle)
        self._measures = Measures(self._life, self.core, self._onlooker, self._tier, self._server)
        self._life.loop.every(0.5, self._count)
        if self._tier is not None:
            self._tier.start()
        self._life.ready()

    def describe(self) -> Description:
        stats = self.core.stats()
        used = sum(pool.leased + pool.pinned + pool.quarantined for pool in stats.pools)
        cached = sum(pool.cached for pool in stats.pools)
        text = f"{stats.slabs - stats.slabs_free}/{stats.slabs} slabs, {used} pages in use, {cached} cached"
        if self._tier is not None:
            text += f", {stats.disk_pages} on {self._tier.text}"
        return Description(load=self.core.load, detail=text)

    def drain(self) -> None:
        """Others drain first; pages are given back by their owners."""

    def undrain(self) -> None:
        """Nothing to undo."""

    def drained(self) -> bool:
        """Where nobody is left to serve, the host is going down as often as not, and memory with it: what is cached is
        written first."""
        served = any(session.role == "scheduler" for session in self.core.owners.sessions.values())
        return served or self._tier is None or self._tier.quiet

    def hand_over(self) -> None:
        """Nothing to do: the pages outlive this process."""

    def stop(self) -> None:
        if self._tier is not None:
            self._tier.close()
        for watch in self._watches.values():
            watch.close()
        if self._server is not None:
            self._server.close()

    def control(self, message: ToProcess) -> Ok | Rejected | Audited | None:
        return self._audit(message.rid) if isinstance(message, Audit) else None

    def _audit(self, rid: int) -> Audited:
        found = [*faults(self.core, self._arena.tables), *self._dead_sessions()]
        for fault in found[:MAX_FAULTS]:
            log.error("audit: %s", fault)
        self._life.telemetry.gauge("headrace_kv_audit_faults", "Faults that the last audit found").set(len(found))
        return Audited(rid, sum(pool.total for pool in self.core.stats().pools), tuple(found[:MAX_FAULTS]))

    def _dead_sessions(self) -> Iterator[str]:
        """A process's death closes its connection, and that ends its session: none outlives it for long."""
        for session in self.core.owners.sessions.values():
            if not start_time(session.pid):
                yield f"{session.name} (pid {session.pid}) is dead; {len(session.leases)} pages are leased to it"

    # --- packets ---------------------------------------------------------------------------------------------------

    def _on_message(self, connection: Connection, message: ToKv) -> None:
        assert self._server is not None
        session: Session | None = connection.session
        if session is not None:
            self._life.progressed()
            reply = self.core.handle(session, message)
            if isinstance(message, Fenced) and isinstance(reply, Done):
                self._note(session)
            elif isinstance(reply, PoolOpened) and session.role == "scheduler":
                self._witness.note_pool(session.owner, reply.pool)
            if reply is not None:
                self._server.send(connection, reply)
            elif isinstance(message, Prefetch):
                rid, wait_ms = message.rid, min(max(message.wait_ms, 0), MAX_WAIT_MS)
                self._life.loop.after(wait_ms / 1e3, lambda: self._expire(session, rid))
            if self._tier is not None:
                self._tier.pump()
        elif isinstance(message, Attach):
            self._attach(connection, message)
        else:
            self._server.send(connection, Denied(message.rid, "attach_first", "say who you are first"))

    def _attach(self, connection: Connection, message: Attach) -> None:
        assert self._server is not None
        protocol = PROTOCOLS.agree(theirs := Protocols(message.protocol_min, message.protocol_max))
        if protocol is None:
            problem = disagreement(ourselves(self._life.name), Speaker(message.name, message.build, theirs))
            self._refuse(connection, message, problem)
            return
        if message.role in _WITH_ARENA and message.layout != VERSION:
            self._refuse(
                connection, message,
                f"{message.name} (headrace {message.build}) reads arenas of layout {message.layout}, this one has "
                f"{VERSION}: run everything with one release: headrace down, then headrace up",
            )  # fmt: skip
            return
        try:
            session = self.core.attach(message, connection.pid)
        except Refusal as refusal:
            self._server.send(connection, refusal.reply(message.rid))
            return
        connection.session, connection.label = session, session.name.encode()
        if session.role in ("scheduler", "worker"):
            self._onlooker.attached(session.name)
        self._connections[session] = connection
        if (session.role == "worker" and not self._may_write(session)) or (
            session.role == "scheduler" and not self._may_hold(session)
        ):
            log.error("%s is refused: its death would not be seen", session.name)
            self._server.send(
                connection, Denied(message.rid, "forbidden", "too many processes, or no process to watch")
            )
            self._server.hang_up(connection)
            return
        log.info("%s attached", session.name, extra={"pid": session.pid, "epoch": session.epoch})
        fds = (self._arena.fd,) if message.role in _WITH_ARENA else ()
        self._life.troubles.over(session.name)
        self._server.send(connection, self.core.attached(message.rid, protocol), fds)

    def _refuse(self, connection: Connection, message: Attach, problem: str) -> None:
        assert self._server is not None
        if self._life.troubles.say(message.name, problem, self._life.loop.now_ns()):
            log.warning("refused %s: %s", message.name, problem)  # once, not each time
        self._server.send(connection, Denied(message.rid, "protocol", problem))

    # --- who may write, and give others pages to write -------------------------------------------------------------

    def _may_write(self, session: Session) -> bool:
        """Arrange that its death is seen, by this incarnation and the next one, before it gets the arena."""
        if self._watched(session, self._writer_died) and self._note(session):
            return True
        self._unwatch(session.writer)
        self.core.writer_died(session.writer)
        return False

    def _may_hold(self, session: Session) -> bool:
        """The same for a scheduler."""
        if self._watched(session, self._holder_died) and self._witness.note_holder(session.owner, session.pid):
            return True
        self._unwatch(session.owner)
        self.core.holder_died(session.owner)
        return False

    def _note(self, session: Session) -> bool:
        return self._witness.note(session.writer, self.core.owners.writers[session.writer], session.pid)

    def _watched(self, session: Session, on_death: Callable[[WriterKey], None]) -> bool:
        try:
            self._watch(session.owner, session.pid, on_death)
        except OSError as error:  # a pid of another namespace; no descriptors left
            log.warning("pid %d cannot be watched: %s", session.pid, error)
            return False
        return True

    def _watch(self, key: WriterKey, pid: int, on_death: Callable[[WriterKey], None]) -> None:
        if key not in self._watches:
            self._watches[key] = DeathWatch(self._life.loop, pid, lambda: on_death(key))

    def _unwatch(self, key: WriterKey) -> None:
        if (watch := self._watches.pop(key, None)) is not None:
            watch.close()
        self._witness.forget(key)

    def _writer_died(self, key: WriterKey) -> None:
        self._unwatch(key)
        self.core.writer_died(key)

    def _holder_died(self, key: WriterKey) -> None:
        self._unwatch(key)
        self.core.holder_died(key)

    def _settle(self) -> None:
        if self.core.settling:
            log.warning("not everybody has said within %.0f s which pages it holds", SETTLE_S)
            self.core.settle()

    def _on_malformed(self, connection: Connection, detail: str) -> None:
        assert self._server is not None
        self._life.telemetry.counter(
            "headrace_bus_refused_total", "Messages refused, by reason", door=PAGES_DOOR, reason="malformed"
        ).add()
        self._server.send(connection, Denied(0, "malformed", detail[:500]))

    def _on_close(self, connection: Connection) -> None:
        session: Session | None = connection.session
        if session is not None:
            log.info("%s is gone", session.name, extra={"pid": session.pid, "epoch": session.epoch})
            del self._connections[session]
            self.core.end(session)

    # --- what is answered later ------------------------------------------------------------------------------------

    def _expire(self, session: Session, rid: int) -> None:
        self.core.fills.expire(session, rid)
        self._send_answers()

    def _send_answers(self) -> None:
        assert self._server is not None
        for session, reply in self.core.answers():
            if (connection := self._connections.get(session)) is not None:
                self._server.send(connection, reply)

    def _count(self) -> None:
        if self._tier is not None:
            self._tier.tick()
        self._measures.count()
