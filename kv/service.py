"""The page server's process: the socket in front of the core, and who is still alive behind it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Final

from bus.liveness import DeathWatch
from bus.messages.control import Audit, Audited, Ok, Rejected, ToProcess
from bus.messages.pages import Attach, Denied, Done, Fenced, ToKv
from bus.names import PAGES_DOOR, socket_path
from bus.process import Description, Life
from bus.seqpacket import Connection, PacketServer
from kv.arena import Arena
from kv.audit import faults
from kv.core import Core, Refusal
from kv.owners import Session, WriterKey
from kv.witness import Witness, start_time

log = logging.getLogger(__name__)

MAX_FAULTS: Final = 100  # of one audit; more say nothing new
SETTLE_S: Final = 5.0  # clients notice the hang-up at once and try ten times a second
_WITH_ARENA: Final = frozenset({"scheduler", "worker", "supervisor"})


class PageService:
    """`Service` of kv@host."""

    def __init__(self, life: Life, arena: Arena) -> None:
        self._life, self._arena = life, arena
        self._witness = Witness(arena.tables.writers)
        living = self._witness.living()
        gc.disable()  # a hundred thousand pages are made, none is garbage: looking takes longer than making
        self.core = Core(
            arena.layout, arena.tables, arena.kv_epoch, {known.key: known.writer for known in living},
            settling=arena.adopted,
        )  # fmt: skip
        gc.enable()
        self._watches: dict[WriterKey, DeathWatch] = {}
        for known in living:
            self._watch(known.key, known.pid)
        self._server: PacketServer[ToKv] | None = None

    def start(self) -> None:
        self._server = PacketServer(
            self._life.loop, socket_path(self._life.name, PAGES_DOOR, self._life.run), ToKv,
            on_message=self._on_message, on_malformed=self._on_malformed, on_close=self._on_close,
        )  # fmt: skip
        if self._arena.adopted:
            stats = self.core.stats()
            log.info("took over %d cached pages", sum(pool.cached for pool in stats.pools))
            self._life.loop.after(SETTLE_S, self.core.settle)
        self._life.loop.every(0.5, self._count)
        self._life.ready()

    def describe(self) -> Description:
        stats = self.core.stats()
        used = sum(pool.leased + pool.pinned + pool.quarantined for pool in stats.pools)
        cached = sum(pool.cached for pool in stats.pools)
        text = f"{stats.slabs - stats.slabs_free}/{stats.slabs} slabs, {used} pages in use, {cached} cached"
        return Description(load=self.core.load, detail=text)

    def drain(self) -> None:
        """Others drain first; pages are given back by their owners."""

    def undrain(self) -> None:
        """Nothing to undo."""

    def drained(self) -> bool:
        return True

    def stop(self) -> None:
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
            self._server.send(connection, reply)
        elif isinstance(message, Attach):
            self._attach(connection, message)
        else:
            self._server.send(connection, Denied(message.rid, "attach_first", "say who you are first"))

    def _attach(self, connection: Connection, message: Attach) -> None:
        assert self._server is not None
        try:
            session = self.core.attach(message, connection.pid)
        except Refusal as refusal:
            self._server.send(connection, refusal.reply(message.rid))
            return
        connection.session = session
        if session.role == "worker" and not self._may_write(session):
            log.error("%s is refused: its death would not be seen", session.name)
            self._server.send(connection, Denied(message.rid, "forbidden", "too many writers, or no process to watch"))
            self._server.hang_up(connection)
            return
        log.info("%s attached", session.name, extra={"pid": session.pid, "epoch": session.epoch})
        fds = (self._arena.fd,) if message.role in _WITH_ARENA else ()
        self._server.send(connection, self.core.attached(message.rid), fds)

    # --- who may write ---------------------------------------------------------------------------------------------

    def _may_write(self, session: Session) -> bool:
        """Arrange that its death is seen, by this incarnation and the next one, before it gets the arena."""
        key = session.writer
        try:
            self._watch(key, session.pid)
        except OSError as error:  # a pid of another namespace; no descriptors left
            log.warning("pid %d cannot be watched: %s", session.pid, error)
        else:
            if self._note(session):
                return True
            self._watches.pop(key).close()
        self.core.writer_died(key)
        return False

    def _note(self, session: Session) -> bool:
        return self._witness.note(session.writer, self.core.owners.writers[session.writer], session.pid)

    def _watch(self, key: WriterKey, pid: int) -> None:
        if key not in self._watches:
            self._watches[key] = DeathWatch(self._life.loop, pid, lambda: self._writer_died(key))

    def _writer_died(self, key: WriterKey) -> None:
        self._watches.pop(key).close()
        self._witness.forget(key)
        self.core.writer_died(key)

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
            self.core.end(session)

    # --- telemetry -------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        telemetry, stats = self._life.telemetry, self.core.stats()
        for pool in stats.pools:
            for state in ("free", "leased", "pinned", "cached", "quarantined"):
                telemetry.gauge("headrace_kv_pages", "Pages by state", pool=str(pool.pool), state=state).set(
                    getattr(pool, state)
                )
        telemetry.gauge("headrace_kv_slabs_free", "Slabs of no pool").set(stats.slabs_free)
        for name, help, value in (
            ("headrace_kv_leases_total", "Pages leased", stats.leases_total),
            ("headrace_kv_seals_total", "Pages sealed", stats.seals_total),
            ("headrace_kv_lookups_total", "Look-ups", stats.lookups_total),
            ("headrace_kv_hits_total", "Pages found by look-ups", stats.hits_total),
            ("headrace_kv_misses_total", "Pages not found by look-ups", stats.misses_total),
            ("headrace_kv_evictions_total", "Pages evicted", stats.evictions_total),
        ):
            counter = telemetry.counter(name, help)
            counter.add(value - counter.value)
