"""Endpoints and their peers as table rows. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.filters import Value
from admin_tui.glyphs import COLOURS, Condition, Glyphs
from admin_tui.look import Look
from admin_tui.panel import OLD_S, Scene, age_of_said
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, rate, sanitize
from bus.messages.details import Endpoint
from bus.messages.vitals import DoorPeer

COLUMNS: Final = (
    Column("owner", "OWNER", 0),
    Column("door", "DOOR", 9),
    Column("kind", "TYPE", 9, screen=130),
    Column("peers", "PEERS", 5, True),
    Column("in", "IN/S", 7, True),
    Column("out", "OUT/S", 7, True),
    Column("queue", "QUEUE", 6, True),
    Column("full", "FULL", 5, True, screen=130),
    Column("refused", "REFUSED", 9, True),
    Column("dropped", "GIVEN UP", 8, True, screen=110),
    Column("rtt", "RTT P50/P99", 15, True, screen=90),
)
SORTS: Final = ("owner", "in", "out", "queue", "refused", "peers", "rtt")
PEER_COLUMNS: Final = (
    Column("peer", "PEER", 0),
    Column("state", "STATE", 10),
    Column("pid", "PID", 7, True),
    Column("uid", "UID", 6, True, screen=110),
    Column("epoch", "EPOCH", 9, True, screen=110),
    Column("silent", "SILENT", 7, True),
    Column("last", "LAST IN", 11, True, screen=130),
    Column("sent", "LAST OUT", 11, True, screen=130),
    Column("queue", "QUEUE", 6, True),
    Column("rtt", "RTT P50/P99", 15, True, screen=90),
)
PEER_SORTS: Final = ("peer", "silent", "queue", "rtt")
SILENT_NS: Final = 3_000_000_000  # heartbeats come every second
FULL: Final = 0.5
_CONDITIONS: Final[dict[str, Condition]] = {
    "starting": "warming", "ready": "ready", "draining": "draining", "stopped": "off", "failed": "dead",
}  # fmt: skip


def key(endpoint: Endpoint) -> str:
    """A door is named within its process."""
    return f"{endpoint.owner} {endpoint.door.door}"


def facts(endpoint: Endpoint) -> dict[str, Value]:
    """An endpoint as filters and sorting see it; round trips in ms."""
    door = endpoint.door
    return {
        "owner": endpoint.owner,
        "door": door.door,
        "kind": door.kind,
        "peers": door.peers_total,
        "in": endpoint.in_per_s,
        "out": endpoint.out_per_s,
        "queue": door.queue,
        "full": fullness(endpoint),
        "refused": sum(number for _, number in door.refused),
        "dropped": door.dropped,
        "rtt": door.rtt_p99_ns / 1e6,
    }


def fullness(endpoint: Endpoint) -> float:
    """Of the peer that is behind most, how near it is to be given up; -1 where there is no limit."""
    door = endpoint.door
    if not door.queue_limit:
        return -1.0
    return max((peer.queue for peer in door.peers), default=door.queue) / door.queue_limit


def faulty(endpoint: Endpoint) -> bool:
    """Whether somebody should look: it refuses now, somebody does not read, or a peer is silent."""
    silent = any(peer.silent_ns > SILENT_NS for peer in endpoint.door.peers)
    return endpoint.refused_per_s > 0 or fullness(endpoint) > FULL or silent


def rows(scene: Scene, look: Look) -> list[Row]:
    """Endpoints by owner and door, or the largest of what is sorted by first."""
    reply = scene.world.details.bus
    if reply is None:
        return []
    kept = [(f, e) for e in reply.endpoints if look.keeps(f := facts(e), faulty=faulty(e))]
    kept.sort(key=lambda pair: pair[0][look.sort], reverse=look.reverse != (look.sort != "owner"))
    ages = {e.owner: age_of_said(scene, "bus", reply.at_ns, e.heard_ns) for _, e in kept}
    return [Row(key(e), partial(_row, f, e, ages[e.owner], scene.glyphs)) for f, e in kept]


def _row(f: dict[str, Value], endpoint: Endpoint, age_s: float, glyphs: Glyphs) -> Cells:
    door, late = endpoint.door, glyphs.states["late"]
    stale = age_s > OLD_S
    text = palette.FAINT if stale else palette.TEXT
    full = float(f["full"])
    refused = count(float(f["refused"])) + (f" {late}" if endpoint.refused_per_s > 0 else "")
    owner = Text(sanitize(endpoint.owner, 64), COLOURS["late"] if faulty(endpoint) else text)
    if stale:
        owner.append(f" {late} {duration(age_s)} old", palette.WARN)
    return {
        "owner": owner,
        "door": Text(sanitize(door.door, 16), text),
        "kind": Text(sanitize(door.kind, 12), palette.SOFT),
        "peers": Text(known(door.peers_total), text),
        "in": Text(_per_s(endpoint.in_per_s), text),
        "out": Text(_per_s(endpoint.out_per_s), text),
        "queue": Text(count(door.queue), palette.WARN if door.queue else palette.SOFT),
        "full": Text(percent(full), palette.WARN if full > FULL else palette.SOFT),
        "refused": Text(refused, palette.WARN if endpoint.refused_per_s > 0 else palette.SOFT),
        "dropped": Text(count(door.dropped), palette.WARN if door.dropped else palette.SOFT),
        "rtt": _round_trip(door.rtt_p50_ns, door.rtt_p99_ns, text),
    }


def known(number: int) -> str:
    """A number, where anybody can know it."""
    return NOTHING if number < 0 else count(number)


def _per_s(per_s: float) -> str:
    return NOTHING if per_s < 0 else rate(per_s)


def _round_trip(p50_ns: int, p99_ns: int, colour: str) -> Text:
    if not p99_ns:
        return Text(NOTHING, palette.SOFT)
    return Text(f"{duration(p50_ns / 1e9)}/{duration(p99_ns / 1e9)}", colour)


def endpoint_of(scene: Scene, row: str | None) -> Endpoint | None:
    """The endpoint of a row."""
    reply = scene.world.details.bus
    return next((e for e in reply.endpoints if key(e) == row), None) if reply else None


def peers(scene: Scene, row: str | None, look: Look) -> list[Row]:
    """The processes at the other end of a door."""
    endpoint = endpoint_of(scene, row)
    if endpoint is None:
        return []
    kept = [
        (f, peer)
        for peer in endpoint.door.peers
        if look.keeps(f := _peer_facts(peer), faulty=peer.silent_ns > SILENT_NS or peer.queue > 0)
    ]
    kept.sort(key=lambda pair: pair[0][look.sort], reverse=look.reverse != (look.sort != "peer"))
    return [Row(f"{peer.name} {peer.epoch} {peer.pid}", partial(_peer, peer, scene.glyphs)) for _, peer in kept]


def _peer_facts(peer: DoorPeer) -> dict[str, Value]:
    return {
        "peer": peer.name, "pid": peer.pid, "uid": peer.uid, "epoch": peer.epoch, "state": peer.state,
        "silent": peer.silent_ns / 1e9, "queue": peer.queue, "rtt": peer.rtt_p99_ns / 1e6,
    }  # fmt: skip


def _peer(peer: DoorPeer, glyphs: Glyphs) -> Cells:
    condition = "late" if peer.silent_ns > SILENT_NS else _CONDITIONS[peer.state]
    silent = palette.WARN if peer.silent_ns > SILENT_NS else palette.SOFT
    return {
        "peer": Text(sanitize(peer.name, 64), palette.TEXT),
        "state": Text(f"{glyphs.states[condition]} {condition}", COLOURS[condition]),
        "pid": Text(str(peer.pid or NOTHING), palette.SOFT),
        "uid": Text(str(peer.uid) if peer.uid >= 0 else NOTHING, palette.SOFT),
        "epoch": Text(str(peer.epoch), palette.SOFT),
        "silent": Text(duration(peer.silent_ns / 1e9), silent),
        "last": Text(count(peer.last_seq), palette.SOFT),
        "sent": Text(count(peer.sent_seq), palette.SOFT),
        "queue": Text(count(peer.queue), palette.WARN if peer.queue else palette.SOFT),
        "rtt": _round_trip(peer.rtt_p50_ns, peer.rtt_p99_ns, palette.TEXT),
    }


def described(endpoint: Endpoint | None) -> tuple[str, str]:
    """Title and note of the box of peers."""
    if endpoint is None:
        return "no door", ""
    door = endpoint.door
    hidden = door.peers_total - len(door.peers)
    refused = ", ".join(f"{sanitize(reason, 24)} {count(number)}" for reason, number in door.refused if number)
    note = f"refused since it started: {refused}" if refused else "nothing refused"
    note += "" if door.peers_total else "; nobody is connected"
    return f"peers of {endpoint.owner} {door.door}" + (f", {hidden} more" if hidden > 0 else ""), note
