"""A ZeroMQ socket on a `Loop`: options set on purpose, and the descriptor pump. No protocol here.

The descriptor of a ZeroMQ socket is edge-triggered: it speaks once for any number of messages, and a send may
swallow the edge. So the pump reads until there is nothing, and looks again after each send (without that line
0 of 20,000 replies were seen).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from bus import listen_fds
from bus.loop import Loop
from bus.wire import MAX_MESSAGE_BYTES

HIGH_WATER_MARK: Final = 10_000  # messages per peer; above the largest burst, so EAGAIN means a peer that is stuck
_FAIRNESS: Final = 256  # messages in one go before others get a turn


def configure(socket: zmq.Socket[bytes]) -> None:
    """Options every bus socket has. Set before bind or connect.

    IMMEDIATE stays off: with it libzmq drops what a server sent last when it closes (57 of 150 byes were lost).
    """
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.LINGER, 0)  # what a dead peer did not read must not hold up an exit
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 10)  # to a server that is just being started again, mostly
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 50)
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # EHOSTUNREACH instead of a silent drop


def bind_ipc(socket: zmq.Socket[bytes], path: Path, mode: int = 0o600) -> None:
    """Listen at a socket file: the service manager's, where it made one, else our own, that only this user can reach
    unless `mode` says otherwise. libzmq replaces a stale file of a dead process."""
    if (fd := listen_fds.take_path(path)) is not None:
        socket.setsockopt(zmq.USE_FD, fd)  # which closes it with the socket
        socket.bind(f"ipc://{path}")
        with contextlib.suppress(OSError):  # a unit has one mode for all its files; this one is ours
            path.chmod(mode)
        return
    previous = os.umask(0o777 & ~mode)
    try:
        socket.bind(f"ipc://{path}")
    finally:
        os.umask(previous)


def bind_tcp(socket: zmq.Socket[bytes], address: str) -> None:
    """Listen at `tcp://HOST:PORT`: the service manager's socket on that port, where it made one, else our own."""
    port = address.rpartition(":")[2]
    if port.isdigit() and (fd := listen_fds.take_port(int(port))) is not None:
        socket.setsockopt(zmq.USE_FD, fd)
    socket.bind(address)


class Pump:
    """Calls `on_readable` for messages of `socket` until there are none, fairly, on `loop`.

    Args:
        receive: receives and handles one message; raises `zmq.Again` when there is none.
    """

    def __init__(self, loop: Loop, socket: zmq.Socket[bytes], receive: Callable[[], None]) -> None:
        self._loop, self._socket, self._receive = loop, socket, receive
        self._fd: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._looking = False
        self._closed = False
        loop.add_reader(self._fd, self._drain)
        self.look_again()

    def look_again(self) -> None:
        """After each send, and after anything else that may have swallowed the edge."""
        if not self._looking and not self._closed:
            self._looking = True
            self._loop.soon(self._looked)

    def close(self, linger_ms: int = 0) -> None:
        """Stop, and close the socket; what was sent last may take `linger_ms` to leave."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=linger_ms)

    def _looked(self) -> None:
        self._looking = False
        self._drain()

    def _drain(self) -> None:
        for _ in range(_FAIRNESS):
            if self._closed:
                return
            try:
                self._receive()
            except zmq.Again:
                return
        self.look_again()
