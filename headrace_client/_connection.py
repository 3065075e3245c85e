"""One connection to one ingress, on asyncio: a DEALER socket driven by its descriptor, and the server's life watched.

Which server, and what happens to calls when it is gone, is the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
import zmq

from bus.messages.common import Bye
from bus.wire import MAX_MESSAGE_BYTES
from headrace_client._errors import ConnectionFailed
from headrace_client._session import BEAT_S, Down, Refused, Session, Up

_KNOCK_S: Final = 0.1
_FAIRNESS: Final = 256


class Curve(Protocol):
    """Keys for tcp; `bus.curve.CurveClient` is one."""

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Put them on a socket before it connects."""
        ...


class Connection:
    """Open until `on_down` or `close`.

    Args:
        address: `ipc://…` or `tcp://…`.
        on_message: for everything that answers a call, and `Refused`.
        on_down: with the reason, once; what was not answered may or may not have been heard.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        session: Session,
        curve: Curve | None,
        *,
        on_message: Callable[[msgspec.Struct | Refused], None],
        on_down: Callable[[str], None],
        busy: Callable[[], bool],
    ) -> None:
        self.address = address
        self._session = session
        self._on_message, self._on_down, self._busy = on_message, on_down, busy
        self._loop = asyncio.get_running_loop()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self._looking = False
        self._pidfd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # EAGAIN instead of a queue towards nobody
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.SNDHWM, 10_000)
        self._socket.setsockopt(zmq.RCVHWM, 10_000)
        if curve is not None:
            curve.protect(self._socket)
        self._socket.connect(address)
        self._fd: int = self._socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._loop.add_reader(self._fd, self._drain)

    async def open(self, patience_s: float) -> None:
        """Say hello until the server welcomes us.

        Raises:
            ConnectionFailed: it does not, or it refuses us.
        """
        if (problem := _deaf(self.address)) is not None:
            raise ConnectionFailed(problem)
        self._knock()
        try:
            await asyncio.wait_for(asyncio.shield(self._welcomed), patience_s)
        except TimeoutError:
            raise ConnectionFailed(f"{self.address} does not answer") from None
        if self._closed:  # in the turn between its welcome and this one
            raise ConnectionFailed(f"{self.address} went away")
        self._beat()

    def send(self, body: msgspec.Struct) -> int:
        """Send; the message's number. Where it cannot be sent the connection goes down."""
        seq, frames = self._session.say(body)
        self._put(frames)
        return seq

    def close(self) -> None:
        """Say bye and close; `on_down` is not called."""
        if self._closed:
            return
        if self._session.up:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.send_multipart(self._session.say(Bye("closed"))[1], zmq.NOBLOCK)
        self._shut(linger_ms=200)

    def _shut(self, linger_ms: int = 0) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._welcomed.done():
            self._welcomed.cancel()
        self._loop.remove_reader(self._fd)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._socket.close(linger=linger_ms)

    def _down(self, reason: str, final: bool = False) -> None:
        if self._closed:
            return
        if not self._welcomed.done():
            if final:
                self._welcomed.set_exception(ConnectionFailed(f"{self.address} refuses this client: {reason}"))
            return
        self._shut()
        self._on_down(reason)

    def _knock(self) -> None:
        if not self._closed and not self._session.up:
            self._put(self._session.hello())
            self._timer = self._loop.call_later(_KNOCK_S, self._knock)

    def _beat(self) -> None:
        if self._closed:
            return None
        if self._session.silent(self._loop.time()):
            return self._down("the server is silent")
        self._put(self._session.heartbeat(self._busy()))
        self._timer = self._loop.call_later(BEAT_S, self._beat)
        return None

    def _put(self, frames: list[bytes]) -> None:
        if self._closed:
            return
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            if self._session.up:
                self._loop.call_soon(self._down, "the server does not read")
            return
        self._look_again()

    # The descriptor is edge-triggered, and a send may swallow the edge: look after each send, read until empty.

    def _look_again(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._looked)

    def _looked(self) -> None:
        self._looking = False
        self._drain()

    def _drain(self) -> None:
        for _ in range(_FAIRNESS):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard(self._session.receive(frames, self._loop.time()))
        self._look_again()

    def _heard(self, event: Any) -> None:
        match event:
            case None:
                pass
            case Up(pid):
                self._watch(pid)
                if not self._welcomed.done():
                    self._welcomed.set_result(None)
            case Down(reason, final):
                self._down(reason, final)
            case _:
                self._on_message(event)

    def _watch(self, pid: int) -> None:
        """On one host the kernel tells at once when the server dies; over tcp its silence does."""
        if not self.address.startswith("ipc://"):
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._loop.call_soon(self._down, "the server died")
            return
        self._loop.add_reader(self._pidfd, self._died)

    def _died(self) -> None:
        self._drain()  # what it said before
        self._down("the server died")


def _deaf(address: str) -> str | None:
    """Why nobody listens at an ipc address; None where somebody may. Socket files outlive their process."""
    if not address.startswith("ipc://"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.removeprefix("ipc://"))
        except BlockingIOError:
            return None
        except OSError as error:
            return f"{address}: {error.strerror}"
    return None
