"""The listening end of a conversation: a ROUTER that knows its peers.

What is done here, so that no service has to: hello and welcome, refusal of strangers (by the kernel's credentials),
of malformed frames, stale incarnations and repeated messages, heartbeats both ways, and noticing that a peer is gone.

A peer is *joined* by its hello and *left* when it dies (pidfd), says bye, is replaced by a newer incarnation, is
silent while it should be idle, or does not read what it is sent. What cannot be delivered means that the peer is
gone; it says hello again and both sides start over. A peer that is busy may be silent: whether it hangs is decided
by its progress, by the service that knows how long its work should take.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec
import zmq

from bus import listen_fds
from bus.blackbox.form import RECEIVED, SENT
from bus.blackbox.recorder import PEER_BYTES
from bus.build import BUILD
from bus.credentials import Credentials, own_user_only, read_credentials
from bus.curve import CurveServer
from bus.doors import DoorCounts, RoundTrips, quantiles
from bus.identity import Identity
from bus.liveness import DeathWatch
from bus.messages.common import Bye, Heartbeat, Hello, Nack, NackReason, ProcessState, Welcome
from bus.messages.vitals import Door, DoorPeer
from bus.names import VISITORS, socket_path
from bus.releases import Speaker, disagreement, ourselves
from bus.socket import Pump, bind_ipc, bind_tcp, configure
from bus.wire import PROTOCOLS, BadFrame, Channel, Codec, Header, Protocols

log = logging.getLogger(__name__)

In = TypeVar("In")

HEARTBEAT_S: Final = 0.5
SILENT_S: Final = 10.0  # an idle peer beats twice a second; busy ones are judged by progress
OUTBOX_MESSAGES: Final = 10_000  # beyond the socket's own high-water mark


class Peer:
    """A process at the other end. Its fields say what it last said of itself."""

    __slots__ = (
        "_label", "_outbox", "_route", "_seq_in", "_seq_out", "_trips", "_watch", "build", "busy", "credentials",
        "epoch", "name", "pid", "progress", "protocol", "role", "seen_ns", "state", "uid",
    )  # fmt: skip

    def __init__(self, route: bytes, name: str, hello: Hello, epoch: int, protocol: int, uid: int, now_ns: int) -> None:
        self.name = name
        self.role = hello.role
        self.epoch = epoch
        self.pid = hello.pid
        self.credentials: Credentials | None = None  # of a connection on this host
        self.uid = uid  # by the kernel; -1 on another host
        self.build = hello.build
        self.protocol = protocol
        self.state: ProcessState = hello.state
        self.progress = 0
        self.busy = False
        self.seen_ns = now_ns
        self._route = route
        self._label = name.encode()[:PEER_BYTES]  # for the recorder
        self._seq_in = 0
        self._seq_out = 0
        self._outbox: deque[list[bytes]] = deque()
        self._trips = RoundTrips()
        self._watch: DeathWatch | None = None

    def view(self, now_ns: int) -> DoorPeer:
        """For telemetry."""
        return DoorPeer(
            self.name, self.pid, self.uid, self.epoch, self.state, self.busy, now_ns - self.seen_ns, self._seq_in,
            self._seq_out, len(self._outbox), *quantiles(self._trips.took),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Peer {self.name} epoch {self.epoch} pid {self.pid}>"


def _nothing(*_: object) -> None:
    pass


class Server(Generic[In]):
    """A bound ROUTER with typed messages.

    Args:
        life: the process it is in.
        door: which of the process's sockets, see `bus.names`.
        channel, union: the conversation and the messages that may arrive.
        roles: who may say hello.
        on_message, on_join, on_leave: called on the loop. `on_leave` gets the reason.
        address: `tcp://…` instead of the door's socket file; needs `curve`.
        curve: this host's key and the keys of those who may connect.
        admit: why somebody on this host does not get in, by the kernel's credentials; empty where they do.
        mode: permissions of the socket file.

    Raises:
        zmq.ZMQError: the address is taken.
    """

    def __init__(
        self,
        life: Identity,
        door: str,
        channel: Channel,
        union: object,
        *,
        roles: Collection[str],
        on_message: Callable[[Peer, In], None],
        on_join: Callable[[Peer], None] = _nothing,
        on_leave: Callable[[Peer, str], None] = _nothing,
        address: str | None = None,
        curve: CurveServer | None = None,
        admit: Callable[[Credentials, Hello], str] = own_user_only,
        mode: int = 0o600,
    ) -> None:
        self._life, self._door, self._roles = life, door, frozenset(roles)
        self._admit = admit
        self._on_message, self._on_join, self._on_leave = on_message, on_join, on_leave
        self._codec: Codec[Any] = Codec(channel, union)
        self._recorder = life.recorder
        self._routes: dict[bytes, Peer] = {}
        self._peers: dict[str, Peer] = {}
        self.peers: Mapping[str, Peer] = MappingProxyType(self._peers)
        self._stray_seq = 0
        self._remote = address is not None
        self._path: Path | None = None
        self._socket = life.context.socket(zmq.ROUTER)
        configure(self._socket)
        if address is not None:
            if curve is None:
                raise ValueError(f"{address}: tcp is served with CURVE only")
            curve.protect(self._socket)
            bind_tcp(self._socket, address)
        else:
            self._path = socket_path(life.name, door, life.run)
            bind_ipc(self._socket, self._path, mode)
        self._received = life.telemetry.counter(
            "headrace_bus_received_total", "Messages received from peers", door=door
        )
        self._sent = life.telemetry.counter("headrace_bus_sent_total", "Messages sent to peers", door=door)
        self._counts = DoorCounts()
        life.telemetry.doors[door] = self._view
        self._pump = Pump(life.loop, self._socket, self._receive)
        self._stop_beating = life.loop.every(HEARTBEAT_S, self._beat)

    @property
    def endpoint(self) -> str:
        """The address as bound: with the port that the kernel chose, where it was asked to."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(self, peer: Peer, body: msgspec.Struct) -> bool:
        """Send to a peer. False where it is gone (`on_leave` was called, or is about to be)."""
        if self._routes.get(peer._route) is not peer:
            return False
        peer._seq_out += 1
        self._counts.sent += 1
        self._sent.add()
        frames = self._codec.encode(body, self._life.name, self._life.epoch, peer._seq_out, peer.protocol)
        self._recorder.message(SENT, self._codec.number, peer._label, frames[0], frames[1], body)
        frames.insert(0, peer._route)
        if peer._outbox:
            peer._outbox.append(frames)
            return self._flush(peer)
        return self._put(peer, frames)

    def leave(self, peer: Peer, reason: str) -> None:
        """End the conversation with a peer from this side."""
        if self._routes.get(peer._route) is not peer:
            return
        del self._routes[peer._route]
        if self._peers.get(peer.name) is peer:
            del self._peers[peer.name]
        if peer._watch is not None:
            peer._watch.close()
        level = logging.DEBUG if peer.role in VISITORS else logging.INFO  # commands come and go
        log.log(
            level, "%s left: %s", peer.name, reason, extra={"peer": peer.name, "epoch": peer.epoch, "door": self._door}
        )
        self._on_leave(peer, reason)

    def close(self) -> None:
        """Say bye to everyone and close. `on_leave` is not called."""
        for peer in tuple(self._routes.values()):
            self.send(peer, Bye("closed"))
            if peer._watch is not None:
                peer._watch.close()
        self._routes.clear()
        self._peers.clear()
        self._stop_beating()
        self._life.telemetry.doors.pop(self._door, None)
        self._pump.close(linger_ms=500)  # the byes
        if self._path is not None:
            listen_fds.remove(self._path)

    # --- receiving -------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        first = self._socket.recv(zmq.NOBLOCK, copy=False)
        route = first.bytes
        frames = [self._socket.recv(zmq.NOBLOCK)] if first.more else []
        while self._socket.getsockopt(zmq.RCVMORE):
            frames.append(self._socket.recv(zmq.NOBLOCK))
        self._received.add()
        self._counts.received += 1
        try:
            header, body = self._codec.decode(frames)
        except BadFrame as bad:
            known = self._routes.get(route)
            who = known._label if known is not None else b"a stranger"
            self._recorder.refused(self._codec.number, who, sum(map(len, frames)), str(bad))
            self._count_refused(bad.reason)
            self._nack(route, "protocol" if bad.reason == "protocol" else "malformed", str(bad), 0)
            return
        peer = self._routes.get(route)
        who = peer._label if peer is not None else header.source.encode()
        self._recorder.message(RECEIVED, self._codec.number, who, frames[0], frames[1], body)
        if isinstance(body, Hello):
            self._hello(route, first, header, body)
            return
        if peer is None:
            self._nack(route, "hello_required", "say hello first", header.seq)
        elif header.source != peer.name or header.epoch != peer.epoch:
            self._count_refused("stale")
            self._nack(route, "stale", f"this connection is {peer.name} epoch {peer.epoch}", header.seq)
        elif header.protocol != peer.protocol:
            self._nack(route, "protocol", f"protocol {peer.protocol} was agreed on, not {header.protocol}", header.seq)
        elif header.seq <= peer._seq_in:
            self._count_refused("repeated")
        else:
            peer._seq_in = header.seq
            peer.seen_ns = self._life.loop.now_ns()
            self._deliver(peer, body)

    def _deliver(self, peer: Peer, body: Any) -> None:
        if isinstance(body, Heartbeat):
            peer.progress, peer.busy, peer.state = body.progress, body.busy, body.state
            peer._trips.heard(body, peer.seen_ns)
        elif isinstance(body, Bye):
            self.leave(peer, body.reason or "bye")
        elif isinstance(body, Nack):
            log.warning("%s refused a message: %s: %s", peer.name, body.reason, body.detail)
            self.leave(peer, f"refused: {body.reason}")
        else:
            self._on_message(peer, body)

    def _hello(self, route: bytes, first: zmq.Frame, header: Header, hello: Hello) -> None:
        theirs = Protocols(hello.protocol_min, hello.protocol_max)
        if (protocol := PROTOCOLS.agree(theirs)) is None:
            problem = disagreement(ourselves(self._life.name), Speaker(header.source, hello.build, theirs))
            self._trouble(header.source, hello.role, problem)
            return self._nack(route, "protocol", problem, header.seq)
        if hello.role not in self._roles:
            return self._nack(route, "forbidden", f"role {hello.role!r} has no business here", header.seq)
        who = None if self._remote else read_credentials(first)
        if not self._remote and (problem := self._credential_problem(who, hello)):
            asker = f"user {who.uid if who is not None else '?'} at {self._door}"
            if self._life.troubles.say(asker, f"refused {header.source}: {problem}", self._life.loop.now_ns()):
                log.warning("refused %s: %s", header.source, problem)  # once, not for each knock
            return self._nack(route, "forbidden", problem, header.seq)
        uid = who.uid if who is not None else -1
        known = self._routes.get(route)
        if known is not None and known.name == header.source and known.epoch == header.epoch:
            known._seq_in = header.seq  # its hello crossed our welcome
            return self._welcome(known)
        previous = self._peers.get(header.source)
        if previous is not None and not _may_replace(who, previous.credentials):
            return self._nack(route, "forbidden", f"{header.source} is another user's", header.seq)
        if previous is not None and previous.epoch > header.epoch:
            return self._nack(route, "stale", f"epoch {previous.epoch} of {header.source} is connected", header.seq)
        if previous is not None:
            self.leave(previous, "replaced" if previous.epoch < header.epoch else "reconnected")
        if known is not None:
            self.leave(known, "renamed")
        peer = Peer(route, header.source, hello, header.epoch, protocol, uid, self._life.loop.now_ns())
        peer._seq_in = header.seq
        peer.credentials = who
        self._routes[route] = self._peers[peer.name] = peer
        if not self._remote:
            peer._watch = DeathWatch(self._life.loop, hello.pid, lambda: self.leave(peer, "died"))
        level = logging.DEBUG if peer.role in VISITORS else logging.INFO
        log.log(level, "%s joined", peer.name, extra={"peer": peer.name, "epoch": peer.epoch, "door": self._door})
        self._life.troubles.over(f"{peer.name} at {self._door}")
        self._welcome(peer)
        self._on_join(peer)
        return None

    def _credential_problem(self, who: Credentials | None, hello: Hello) -> str:
        """Why the kernel's credentials do not fit the hello, or do not get in; empty where all is well."""
        if who is None:
            return "the connection carries no credentials"
        if problem := self._admit(who, hello):
            return problem
        return "" if who.pid == hello.pid else f"hello says pid {hello.pid}, the kernel says {who.pid}"

    def _welcome(self, peer: Peer) -> None:
        self.send(peer, Welcome(BUILD, self._life.pid, self._life.state, peer.protocol))

    def _nack(self, route: bytes, reason: NackReason, detail: str, seq: int) -> None:
        self._count_refused(reason)
        self._stray_seq += 1
        frames = self._codec.encode(Nack(reason, detail[:500], seq), self._life.name, self._life.epoch, self._stray_seq)
        try:
            self._socket.send_multipart([route, *frames], zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # a stranger that went away, or that does not read: it is owed nothing
        self._pump.look_again()

    def _trouble(self, source: str, role: str, problem: str) -> None:
        """Said once, not every two seconds; a process is also shown for as long as it asks. A command just ends."""
        if role in VISITORS or self._life.troubles.say(f"{source} at {self._door}", problem, self._life.loop.now_ns()):
            log.warning("refused %s: %s", source, problem)

    def _count_refused(self, reason: str) -> None:
        self._counts.refuse(reason)
        self._life.telemetry.counter(
            "headrace_bus_refused_total", "Messages refused, by reason", door=self._door, reason=reason
        ).add()

    # --- sending ---------------------------------------------------------------------------------------------------

    def _put(self, peer: Peer, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            peer._outbox.append(frames)
            if len(peer._outbox) > OUTBOX_MESSAGES:
                self._counts.dropped += 1
                self._gone(peer, "does not read")
                return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._gone(peer, "disconnected")
            return False
        self._pump.look_again()
        return True

    def _gone(self, peer: Peer, reason: str) -> None:
        # Not at once: whoever is sending is in the middle of something.
        self._life.loop.soon(lambda: self.leave(peer, reason))

    def _flush(self, peer: Peer) -> bool:
        while peer._outbox:
            frames = peer._outbox.popleft()
            before = len(peer._outbox)
            if not self._put(peer, frames):
                return False
            if len(peer._outbox) > before:  # still full: what was put back belongs in front
                peer._outbox.rotate(1)
                return True
        return True

    def _beat(self) -> None:
        heartbeat = self._life.heartbeat()
        now = self._life.loop.now_ns()
        for peer in tuple(self._routes.values()):
            if not peer.busy and now - peer.seen_ns > SILENT_S * 1e9:
                self.leave(peer, "silent")
            else:
                self.send(peer, peer._trips.beat(heartbeat, now))

    # --- telling ---------------------------------------------------------------------------------------------------

    def _view(self) -> Door:
        now, peers = self._life.loop.now_ns(), self._peers.values()
        return self._counts.door(
            self._door, "ROUTER", (peer.view(now) for peer in peers), len(peers), (peer._trips for peer in peers),
            queue_limit=OUTBOX_MESSAGES,
        )  # fmt: skip


def _may_replace(who: Credentials | None, holder: Credentials | None) -> bool:
    """Whether the connection of a name may be taken over: not from another user, but by those who run the stack."""
    if who is None or holder is None or who.uid == holder.uid:
        return True
    return not own_user_only(who)
