"""What doors count, and round trips: right whatever the two clocks say, and over real sockets."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bus.doors import MAX_PEERS, DoorCounts, RoundTrips, quantiles
from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.common import Heartbeat
from bus.messages.control import FromProcess, ToProcess
from bus.messages.vitals import DoorPeer
from bus.server import Server

NANOSECONDS = st.integers(0, 10**10)


@given(
    st.lists(st.tuples(NANOSECONDS, NANOSECONDS, NANOSECONDS), min_size=1, max_size=30), st.integers(-(10**15), 10**15)
)
def test_a_round_trip_is_the_time_on_the_way_whatever_the_clocks_say(
    beats: list[tuple[int, int, int]], skew: int
) -> None:
    """Here beats, there hears it after `there` ns, beats `held` ns later, here hears that after `back` ns."""
    here, there = RoundTrips(), RoundTrips()
    now, expected, said = 10**16, list[int](), Heartbeat(1, True, "ready")
    for on_the_way, held, back in beats:
        there.heard(here.beat(said, now), now + on_the_way + skew)
        now += on_the_way + held
        answer = there.beat(said, now + skew)
        now += back
        here.heard(answer, now)
        expected.append(on_the_way + back)
    assert list(here.took) == expected
    assert quantiles(here.took)[0] == sorted(expected)[len(expected) // 2]


def test_the_first_heartbeat_says_nothing_yet_and_one_of_an_older_release_never() -> None:
    trips = RoundTrips()
    trips.heard(Heartbeat(0, False, "ready"), 5)
    assert trips.beat(Heartbeat(3, True, "draining"), 9) == Heartbeat(3, True, "draining", 9, 0, 0)
    trips.heard(Heartbeat(0, False, "ready", 1, 99, 0), 7)  # an echo of what was never sent
    assert list(trips.took) == []
    assert quantiles(()) == (0, 0)


@given(st.integers(0, 3 * MAX_PEERS))
def test_of_very_many_peers_so_many_are_shown(count: int) -> None:
    peers = [DoorPeer(f"p{n}", n, 0, 1, "ready", False, 0, 0, 0, 1) for n in range(count)]
    door = DoorCounts().door("steps", "ROUTER", peers, count)
    assert (door.peers_total, len(door.peers)) == (count, min(count, MAX_PEERS))


def test_a_real_door_knows_who_is_there_and_how_long_messages_take() -> None:
    run = Path(tempfile.mkdtemp(prefix="hr-d-", dir="/tmp"))
    loop = PollLoop()
    host, guest = Visitor("supervisor", loop, run), Visitor("cli", loop, run)
    server: Server[ToProcess] = Server(host, "control", "control", ToProcess, roles={"cli"}, on_message=lambda *_: None)
    link: Link[FromProcess] = Link(guest, host.name, "control", "control", FromProcess, on_message=lambda _: None)
    stranger: Link[FromProcess] = Link(
        Visitor("tui", loop, run), host.name, "control", "control", FromProcess, on_message=lambda _: None
    )
    view = host.telemetry.doors["control"]
    for _ in range(2_000):
        loop.turn(0.05)
        door = view()
        if door.peers and door.peers[0].rtt_p50_ns and door.refused:
            break
    (peer,) = door.peers
    assert (peer.name, peer.pid, peer.uid) == (guest.name, guest.pid, Path("/proc/self").stat().st_uid)
    assert 0 < peer.rtt_p50_ns <= peer.rtt_p99_ns < 10**9
    assert door.received >= peer.last_seq >= 2
    assert door.sent == peer.sent_seq
    assert dict(door.refused)["forbidden"] >= 1
    for each in (link, stranger):
        each.close()
    server.close()
    assert host.telemetry.doors == {}
    loop.close()
