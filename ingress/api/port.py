"""The TCP port that the ingress processes of one host share, and that nobody else may.

SO_REUSEPORT lets any process of the same user listen on a port as well, a second headrace too, and the kernel then
deals connections out among strangers. So the processes of one run directory hold a shared lock on a file there: who
finds nobody else holding it tries the port without SO_REUSEPORT first, which fails if anyone listens.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import time
from pathlib import Path
from typing import Final, Protocol

import psutil

from bus import listen_fds

BACKLOG: Final = 1024
HANDSHAKE_S: Final = 0.5  # for handshakes to end; less than the second after which a peer that was ignored asks again
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_SO_DETACH_FILTER: Final = 27
# Classic BPF on a TCP segment: of the flags, in byte 13, SYN without ACK. Drop it, else pass it on.
_IGNORE_SYN: Final = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and SYN | ACK
    (0x15, 0, 1, 0x02),  # jeq SYN
    (0x06, 0, 0, 0),  # ret 0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret all
)
_TURN_S: Final = 10.0  # a sibling holds the turn only while it binds


Listening = socket.socket


class PortTaken(OSError):
    """Somebody else listens there; `strerror` says who, where that can be seen."""


class Port(Protocol):
    """A listening socket that others may have as well, and how it is left to them.

    Attributes:
        number: of the port.
        socket: listens, or after `hold` only keeps the port.
        handshake_s: how long connections that are on the way are still this process's, once it has left.
    """

    number: int
    socket: Listening
    handshake_s: float

    def next(self) -> Listening | None:
        """A connection that waits and that nobody else can have; None where there is none."""
        ...

    def ignore(self) -> None:
        """Take no new connections."""
        ...

    def heed(self) -> None:
        """The opposite of `ignore`."""
        ...

    def hold(self) -> Listening:
        """Go on without listening; what listened is the caller's to close."""
        ...

    def listen(self) -> None:
        """Take connections, at first or after `hold`."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class HandedPort:
    """The service manager's socket, which every ingress has: one queue, and it outlives all of them. A connection that
    waits when one of them leaves is taken by another, or by the next."""

    handshake_s = 0.0

    def __init__(self, listener: socket.socket) -> None:
        self.socket = listener
        self.number: int = listener.getsockname()[1]

    def next(self) -> socket.socket | None:
        """None: what waits is not this process's own."""
        return None

    def ignore(self) -> None:
        """Nothing: it is the siblings' socket too."""

    def heed(self) -> None:
        """Nothing, see `ignore`."""

    def hold(self) -> socket.socket:
        """Another descriptor of the same socket stays here, unused."""
        listening, self.socket = self.socket, self.socket.dup()
        return listening

    def listen(self) -> None:
        """Nothing: it listens all the time."""

    def close(self) -> None:
        """Close this process's descriptor of it."""
        self.socket.close()


class SharedPort:
    """A process's share of the port: its listening socket, and a descriptor whose lock says that this run directory
    has the port.

    Attributes:
        number: of the port.
        socket: listens, or after `hold` only keeps the port from others.
    """

    handshake_s = HANDSHAKE_S

    def __init__(self, listener: socket.socket, lock: int) -> None:
        self.socket = listener
        self.number: int = listener.getsockname()[1]
        self._lock = lock

    def next(self) -> socket.socket | None:
        """A connection from the queue; None where there is none, or it cannot be taken."""
        try:
            return self.socket.accept()[0]
        except OSError:
            return None

    def ignore(self) -> None:
        """Drop what opens a connection, and nothing else: who sent it sends it again after a second, and by then finds
        a socket that is not this one. Handshakes under way come to their end."""
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _IGNORE_SYN))
        with contextlib.suppress(OSError):  # a kernel that has no filters: a few may then find a closed door
            self.socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_IGNORE_SYN), ctypes.addressof(program))
            )

    def heed(self) -> None:
        """The opposite of `ignore`."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def hold(self) -> socket.socket:
        """Go on without listening; the listening socket is the caller's to close.

        A socket that is bound and does not listen gets no connections, and keeps strangers from the port all the same.
        """
        host = self.socket.getsockname()[0]
        listening, self.socket = self.socket, _bind(host, self.number, shared=True, reuse=False)
        return listening

    def listen(self) -> None:
        """Take connections, at first or after `hold`."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.listen(BACKLOG)
        self.socket.setblocking(False)

    def close(self) -> None:
        """Give both back."""
        self.socket.close()
        os.close(self._lock)


def listen(host: str, port: int, run: Path) -> Port:
    """Listen on `host:port`, together with other processes of the run directory `run`; `port` 0 takes a free one.
    Where the service manager has made the socket, it is that one.

    Raises:
        PortTaken: somebody else listens there.
        OSError: the address cannot be used.
    """
    if port and (fd := listen_fds.take_port(port)) is not None:
        return HandedPort(socket.socket(fileno=fd))
    turn = os.open(run / f"http-{port}.turn.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock = os.open(run / f"http-{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_turn(turn)
        if _alone(lock) and port:
            _bind(host, port, shared=False).close()
        fcntl.flock(lock, fcntl.LOCK_SH)
        listener = _bind(host, port, shared=True)
    except BaseException:
        os.close(lock)
        raise
    finally:
        os.close(turn)
    shared = SharedPort(listener, lock)
    shared.listen()
    return shared


def _take_turn(turn: int) -> None:
    until = time.monotonic() + _TURN_S
    while True:
        try:
            return fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(None, "another ingress is stuck while it binds the port") from None
            time.sleep(0.01)


def _alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bind(host: str, port: int, *, shared: bool, reuse: bool = True) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it, connections of the last run in TIME_WAIT would keep the port for a minute; with it, a socket that
        # does not listen keeps it from nobody.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if port and error.errno == errno.EADDRINUSE:
            raise PortTaken(error.errno, f"{error.strerror}{_holder(port)}") from None
        raise
    return listener


def _holder(port: int) -> str:
    """Who listens, as far as this user may see."""
    try:
        for connection in psutil.net_connections("tcp"):
            where = connection.laddr
            if where and where.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""
