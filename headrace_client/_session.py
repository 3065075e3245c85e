"""The protocol of the clients' door, without sockets: frames in, what they mean out. One session is one connection.

A server that has forgotten us, or died and come back, answers with a nack or another epoch; the session is then over
and the next one says hello again. Repeated messages, and those of a dead incarnation, are dropped.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from bus.build import BUILD
from bus.messages.clients import ToClient
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome
from bus.wire import ANY_PROTOCOL, PROTOCOLS, BadFrame, Codec

SILENT_S: Final = 10.0  # a server beats twice a second while its loop turns
BEAT_S: Final = 1.0


class Up(NamedTuple):
    """Welcome: calls can be made. `pid` is the server's."""

    pid: int


class Down(NamedTuple):
    """This session is over. `final`: this server will not have us, however often we ask."""

    reason: str
    final: bool = False


class Refused(NamedTuple):
    """Our message number `seq` was refused."""

    seq: int
    reason: str


class Session:
    """One connection's state.

    Args:
        name: ours, `client@…`, unique in the world.
        epoch: of this client.
        pid: of this process; the server compares it with the kernel's word.
        now: monotonic seconds.
    """

    def __init__(self, name: str, epoch: int, pid: int, now: float) -> None:
        self.up = False
        self._name, self._epoch, self._pid = name, epoch, pid
        self._codec: Codec[Any] = Codec("clients", ToClient)
        self._protocol = ANY_PROTOCOL  # until the welcome says which
        self._seq_out = self._seq_in = 0
        self._server_epoch = 0
        self._server_busy = False
        self._heard = now

    def say(self, body: msgspec.Struct) -> tuple[int, list[bytes]]:
        """The next message: its number, and its frames."""
        self._seq_out += 1
        return self._seq_out, self._codec.encode(body, self._name, self._epoch, self._seq_out, self._protocol)

    def hello(self) -> list[bytes]:
        """To be said until the answer comes."""
        return self.say(Hello(*PROTOCOLS, BUILD, "client", self._pid, "ready"))[1]

    def heartbeat(self, busy: bool) -> list[bytes]:
        """To be said every `BEAT_S`. A busy client may be silent: it is not left for that."""
        return self.say(Heartbeat(0, busy, "ready"))[1]

    def silent(self, now: float) -> bool:
        """Whether the server has not been heard for too long."""
        return self.up and not self._server_busy and now - self._heard > SILENT_S

    def receive(self, frames: list[bytes], now: float) -> Up | Down | Refused | msgspec.Struct | None:
        """What a message means; None where it means nothing to the caller."""
        try:
            header, body = self._codec.decode(frames)
        except BadFrame as bad:
            return Down(f"the server speaks something else: {bad}", final=bad.reason == "protocol")
        if isinstance(body, Welcome):
            if self.up:
                return None if header.epoch == self._server_epoch else Down("restarted")
            self.up, self._server_epoch, self._seq_in, self._heard = True, header.epoch, header.seq, now
            self._protocol = body.protocol
            return Up(body.pid)
        if isinstance(body, Nack) and (not self.up or body.reason in ("hello_required", "stale")):
            # Before the welcome, "say hello first" answers what a session before this one had under way.
            if body.reason == "hello_required":
                return Down("the server has forgotten us") if self.up else None
            return Down(f"{body.reason}: {body.detail}", final=True)
        if not self.up or header.epoch != self._server_epoch or header.seq <= self._seq_in:
            return None
        if header.protocol != self._protocol and not isinstance(body, Nack):
            return Down(f"the server speaks protocol {header.protocol}, and agreed on {self._protocol}")
        self._seq_in, self._heard = header.seq, now
        if isinstance(body, Heartbeat):
            self._server_busy = body.busy
            return None
        if isinstance(body, Bye):
            return Down(body.reason or "the server said bye")
        if isinstance(body, Nack):
            return Refused(body.seq, f"{body.reason}: {body.detail}")
        known: msgspec.Struct = body
        return known
