"""The connecting end of a conversation: a DEALER that keeps at it.

A link is *up* between a welcome and the moment its server dies (pidfd), forgets it (restarted), falls silent, or says
bye. It then opens a fresh socket, so that nothing meant for the dead incarnation reaches the next one, and says hello
until it is welcomed again. Whoever uses a link decides in `on_up` what to say again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
import zmq

from bus.blackbox.form import RECEIVED, SENT
from bus.build import BUILD
from bus.curve import CurveClient
from bus.doors import RoundTrips
from bus.identity import Identity
from bus.liveness import DeathWatch
from bus.loop import Cancel
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome
from bus.names import ipc, socket_path
from bus.server import HEARTBEAT_S, SILENT_S
from bus.socket import Pump, configure
from bus.wire import ANY_PROTOCOL, PROTOCOLS, BadFrame, Channel, Codec, Header

log = logging.getLogger(__name__)

In = TypeVar("In")

# A hello that is not answered is said again, by another connection: soon, since the first one after a bye may have met
# the server that was just closing, then each time after twice as long, up to this.
FIRST_KNOCK_S: Final = 0.1
KNOCK_S: Final = 2.0
FORGOTTEN_S: Final = 0.1  # a server that asks for a hello gets it after so long: never a ping-pong


def _nothing(*_: object) -> None:
    pass


class Link(Generic[In]):
    """A connection to one door of one process.

    Args:
        life: the process it is in.
        server_name: process that has the door, for example `scheduler@smollm2`.
        door, channel, union: which socket, which conversation, which messages may arrive.
        on_message: called for each message that is not part of keeping the link, and for a `Nack` of one of ours. One
            of our hello is kept in `refusal`.
        on_up: after a welcome. The link can send.
        on_down: with the reason. What was sent and not answered may or may not have arrived.
        address: `tcp://…` instead of the door's socket file; needs `curve`.
    """

    def __init__(
        self,
        life: Identity,
        server_name: str,
        door: str,
        channel: Channel,
        union: object,
        *,
        on_message: Callable[[In], None],
        on_up: Callable[[], None] = _nothing,
        on_down: Callable[[str], None] = _nothing,
        address: str | None = None,
        curve: CurveClient | None = None,
    ) -> None:
        self._life, self.server_name, self._door = life, server_name, door
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._codec: Codec[Any] = Codec(channel, union)
        self._recorder, self._label = life.recorder, server_name.encode()
        self._remote = address is not None
        if self._remote and curve is None:
            raise ValueError(f"{address}: tcp is spoken with CURVE only")
        self._address = address or ipc(socket_path(server_name, door, life.run))
        self._curve = curve
        self.up = False
        self.peer_epoch = 0
        self.peer_progress = 0
        self.peer_busy = False
        self._trips = RoundTrips()
        self.protocol = ANY_PROTOCOL  # until a welcome says which
        self._seen_ns = 0
        self._seq_out = 0
        self._seq_in = 0
        self._watch: DeathWatch | None = None
        self._closed = False
        self.refusal = ""  # why the server does not welcome us; empty where it does, or has not answered
        self._cancel_knock: Cancel = _nothing
        self._knocks = 0  # hellos since the link was up
        self._open()
        self._knock_in(0.0)
        self._stop_beating = life.loop.every(HEARTBEAT_S, self._beat)

    def send(self, body: msgspec.Struct) -> bool:
        """Send to the server. False where the link is not up, or the server does not read (it is then taken down)."""
        if not self.up:
            return False
        if self._put(body):
            return True
        self._life.loop.soon(lambda: self._down("does not read"))
        return False

    @property
    def silent_ns(self) -> int:
        """Since when nothing was heard of the server; 0 where it is not up."""
        return self._life.loop.now_ns() - self._seen_ns if self.up else 0

    def close(self) -> None:
        """Say bye and close. `on_down` is not called."""
        if self._closed:
            return
        if self.up:
            self._put(Bye("closed"))
        self._closed = True
        self.up = False
        self._stop_beating()
        self._cancel_knock()
        if self._watch is not None:
            self._watch.close()
        self._pump.close(linger_ms=500)  # the bye

    # --- keeping the connection ------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._socket = self._life.context.socket(zmq.DEALER)
        configure(self._socket)
        if self._curve is not None:
            self._curve.protect(self._socket)
        self._socket.connect(self._address)
        self._seq_out = self._seq_in = 0
        self._trips = RoundTrips()
        self.protocol = ANY_PROTOCOL
        self._pump = Pump(self._life.loop, self._socket, self._receive)

    def _down(self, reason: str) -> None:
        if not self.up:
            return
        self.up = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._pump.close()
        self._open()
        self._knock_in(0.0)
        log.info("%s is gone: %s", self.server_name, reason, extra={"peer": self.server_name, "door": self._door})
        self._on_down(reason)

    def _knock_in(self, seconds: float) -> None:
        self._cancel_knock()
        self._cancel_knock = self._life.loop.after(seconds, self._knock)

    def _knock(self) -> None:
        """One hello at a time: it waits in the socket until somebody listens. A fresh socket forgets an old one."""
        if self.up or self._closed:
            return
        if self._seq_out:
            self._pump.close()
            self._open()
        self._knock_in(min(KNOCK_S, FIRST_KNOCK_S * 2.0**self._knocks))
        self._knocks = min(self._knocks + 1, 30)
        self._put(Hello(*PROTOCOLS, BUILD, self._life.role, self._life.pid, self._life.state))

    def _beat(self) -> None:
        if not self.up:
            return
        if not self.peer_busy and self._life.loop.now_ns() - self._seen_ns > SILENT_S * 1e9:
            self._down("silent")
        else:
            self._put(self._trips.beat(self._life.heartbeat(), self._life.loop.now_ns()))

    def _put(self, body: msgspec.Struct) -> bool:
        self._seq_out += 1
        frames = self._codec.encode(body, self._life.name, self._life.epoch, self._seq_out, self.protocol)
        self._recorder.message(SENT, self._codec.number, self._label, frames[0], frames[1], body)
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # the server does not read
            return False
        self._pump.look_again()
        return True

    # --- receiving -------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        frames = self._socket.recv_multipart(zmq.NOBLOCK)
        try:
            header, body = self._codec.decode(frames)
        except BadFrame as bad:
            self._recorder.refused(self._codec.number, self._label, sum(map(len, frames)), str(bad))
            self._life.telemetry.counter(
                "headrace_bus_refused_total", "Messages refused, by reason", door=self._door, reason=bad.reason
            ).add()
            log.warning("%s sent a frame that is refused: %s", self.server_name, bad)
            return
        self._recorder.message(RECEIVED, self._codec.number, self._label, frames[0], frames[1], body)
        if isinstance(body, Welcome):
            self._welcomed(header, body)
        elif isinstance(body, Nack) and (not self.up or body.reason in ("hello_required", "stale", "protocol")):
            self._refused(body)
        elif not self.up or header.epoch != self.peer_epoch or header.seq <= self._seq_in:
            pass  # from a dead incarnation, or before the welcome, or repeated
        elif header.protocol != self.protocol and not isinstance(body, Nack):
            self._down(f"protocol {self.protocol} was agreed on, not {header.protocol}")
        else:
            self._seq_in = header.seq
            self._seen_ns = self._life.loop.now_ns()
            if isinstance(body, Heartbeat):
                self.peer_progress, self.peer_busy = body.progress, body.busy
                self._trips.heard(body, self._seen_ns)
            elif isinstance(body, Bye):
                self._down(body.reason or "bye")
            else:
                self._on_message(body)

    def _welcomed(self, header: Header, welcome: Welcome) -> None:
        if self.up and header.epoch == self.peer_epoch:
            return  # answer to a hello that was repeated
        if self.up:
            self._down("restarted")
            return
        self.up, self.peer_epoch, self.peer_busy, self._seq_in = True, header.epoch, False, header.seq
        self.protocol = welcome.protocol
        self._seen_ns = self._life.loop.now_ns()
        self.refusal = ""
        self._cancel_knock()
        self._knocks = 0
        self._life.troubles.over(self.server_name)
        if not self._remote:
            self._watch = DeathWatch(self._life.loop, welcome.pid, lambda: self._down("died"))
        log.info("%s is up", self.server_name, extra={"peer": self.server_name, "epoch": header.epoch})
        self._on_up()

    def _refused(self, nack: Nack) -> None:
        if self.up:
            self._down(f"refused: {nack.reason}")
        elif nack.reason == "hello_required":
            self._knock_in(FORGOTTEN_S)
        else:
            self.refusal = f"{nack.reason}: {nack.detail}"
            problem = f"{self.server_name} refuses us: {self.refusal}"
            if self._life.troubles.say(self.server_name, problem, self._life.loop.now_ns()):
                log.error("%s", problem)  # once, not each time
