"""What the page server counts, and what it says of itself beyond that."""

from __future__ import annotations

from msgspec.structs import replace

from bus.messages.pages import Stats, ToKv
from bus.messages.vitals import Door, DoorPeer, PagesView
from bus.names import PAGES_DOOR
from bus.process import Life
from bus.seqpacket import Connection, PacketServer
from kv.core import Core
from kv.disk.tier import DiskTier
from kv.onlooker import Onlooker
from kv.owners import Session


class Measures:
    """Instruments and views of kv@host."""

    def __init__(
        self, life: Life, core: Core, onlooker: Onlooker, tier: DiskTier | None, server: PacketServer[ToKv]
    ) -> None:
        self._telemetry, self._loop = life.telemetry, life.loop
        self._core, self._onlooker, self._tier, self._server = core, onlooker, tier, server
        life.telemetry.doors[PAGES_DOOR] = self._door
        life.telemetry.slow_views.append(self._view)

    def count(self) -> None:
        """Bring the instruments up to date."""
        telemetry, stats = self._telemetry, self._core.stats()
        if self._tier is not None:
            self._count_disk(self._tier, stats)
        for pool in stats.pools:
            for state in ("free", "leased", "pinned", "cached", "quarantined", "filling"):
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
            self._counted(name, help, value)

    def _count_disk(self, tier: DiskTier, stats: Stats) -> None:
        gauge = self._telemetry.gauge
        gauge("headrace_kv_disk_bytes", "Bytes that segments take").set(tier.bytes)
        gauge("headrace_kv_disk_limit_bytes", "Bytes that they may take").set(tier.disk.limit)
        gauge("headrace_kv_disk_pages", "Pages on disk").set(stats.disk_pages)
        gauge("headrace_kv_disk_waiting_pages", "Pages that are to be written").set(self._core.spills.waiting)
        gauge("headrace_kv_disk_read_bytes_per_second", "As measured").set(self._core.fills.bytes_per_s)
        gauge("headrace_kv_disk_usable", "1 where it is used", way="read").set(not tier.reads.why)
        gauge("headrace_kv_disk_usable", "1 where it is used", way="write").set(not tier.writes.why)
        self._counted("headrace_kv_disk_writes_total", "Pages written to disk", stats.disk_writes_total)
        self._counted("headrace_kv_disk_reads_total", "Pages that came back, verified", stats.disk_reads_total)
        self._counted("headrace_kv_disk_lost_total", "Pages evicted before they were written", stats.disk_lost_total)
        for kind, value in (("read", tier.reads.total), ("write", tier.writes.total), ("damaged", tier.damaged)):
            self._counted("headrace_kv_disk_errors_total", "What the disk did wrong", value, kind=kind)

    def _view(self) -> PagesView:
        view, tier = self._onlooker.view(), self._tier
        if tier is None:
            return view
        return replace(
            view, disk_path=str(tier.disk.directory), disk_bytes=tier.bytes, disk_limit_bytes=tier.disk.limit,
            disk_pages=self._core.copies.pages, disk_waiting_pages=self._core.spills.waiting, disk_state=tier.trouble,
        )  # fmt: skip

    def _door(self) -> Door:
        connections, now = self._server.connections, self._loop.now_ns()
        return self._server.counts.door(
            PAGES_DOOR, "SEQPACKET", (_peer(each, now) for each in connections), len(connections), queue_limit=1
        )

    def _counted(self, name: str, help: str, value: int, **labels: str) -> None:
        counter = self._telemetry.counter(name, help, **labels)
        counter.add(value - counter.value)


def _peer(connection: Connection, now_ns: int) -> DoorPeer:
    session: Session | None = connection.session
    name, epoch = (session.name, session.epoch) if session is not None else ("(not attached)", 0)
    silent_ns = now_ns - connection.seen_ns if connection.seen_ns else 0
    return DoorPeer(
        name, connection.pid, connection.uid, epoch, "ready", bool(connection.unsent), silent_ns, connection.received,
        connection.sent, len(connection.unsent),
    )  # fmt: skip
