"""Messages over a Unix SEQPACKET socket: one packet, one message; descriptors may ride along.

Used for the page server only (`bus.messages.pages` says why). The kernel tells who is at the other end, and its hang-up
says that the connection ended: nothing here guesses. A socket buffer holds no more than some hundred small packets or
six large ones, so both sides queue what does not fit, within bounds, instead of taking a slow reader for a dead one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from bus import listen_fds
from bus.blackbox.form import RECEIVED, SENT
from bus.blackbox.recorder import NOTHING, Recorder
from bus.doors import DoorCounts
from bus.messages.pages import MAX_PACKET_BYTES, Denied
from bus.wire import CHANNELS

log = logging.getLogger(__name__)

_PAGES: Final = CHANNELS["pages"]

In = TypeVar("In")

_MAX_FDS: Final = 4
_MAX_CONNECTIONS: Final = 1024
_MAX_QUEUED: Final = 4096  # packets that wait for room in the socket
_CREDENTIALS: Final = struct.Struct("3i")
_FAIRNESS: Final = 64
_SOCKET_BUFFER: Final = 4 << 20  # the kernel gives what its limit allows
_RETRY_S: Final = 0.001
_BACK_OFF_S: Final = 0.1
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Loop(Protocol):
    """The little that is needed of an event loop; `bus.loop.Loop` has it."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, fd: int) -> None: ...
    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]: ...


class HungUp(ConnectionError):
    """The other end is gone, or does not speak our language."""


class PacketTooLarge(ValueError):
    """A message that no packet can hold: the sender must cut it."""


class Connection:
    """One accepted client.

    Attributes:
        pid, uid: of the process that connected, by the kernel's word.
        session: the service's own.
        label: what the recorder calls it; the service may know better.
        unsent: the reply that waits for room in the socket. While there is one, no further request is read.
        received, sent, seen_ns: packets both ways, and when the last one came; 0 before one did.
    """

    __slots__ = ("label", "pid", "received", "seen_ns", "sent", "session", "sock", "uid", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid, self.uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self.received = self.sent = self.seen_ns = 0
        self.session: Any = None
        self.label = b"pid %d" % self.pid
        self.unsent: deque[bytes] = deque()


class PacketServer(Generic[In]):
    """Listens; messages of `union` arrive at `on_message`, broken ones at `on_malformed`.

    Args:
        on_close: a client's connection is gone.
        recorder: of the process it is in.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path,
        union: object,
        *,
        on_message: Callable[[Connection, In], None],
        on_malformed: Callable[[Connection, str], None],
        on_close: Callable[[Connection], None],
        recorder: Recorder = NOTHING,
    ) -> None:
        self._loop, self._path, self._recorder = loop, path, recorder
        self._on_message, self._on_malformed, self._on_close = on_message, on_malformed, on_close
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(union, strict=True)
        self._encoder = msgspec.msgpack.Encoder()
        self._connections: set[Connection] = set()
        self.counts = DoorCounts()
        self._listener = _listen(path)
        loop.add_reader(self._listener.fileno(), self._accept)

    def send(self, connection: Connection, body: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send a reply. Where there is no room for it, it waits, and the client's next request with it."""
        if connection not in self._connections:
            return
        self.counts.sent += 1
        connection.sent += 1
        packet = self._encoder.encode(body)
        self._recorder.message(SENT, _PAGES, connection.label, b"", packet, body)
        try:
            _send(connection.sock, packet, fds)
        except BlockingIOError:
            if fds:
                self._give_up(connection, "no room for the first reply")
                return
            connection.unsent.append(packet)
            self._loop.remove_reader(connection.sock.fileno())
            self._loop.after(_RETRY_S, lambda: self._flush(connection))
        except (OSError, PacketTooLarge) as error:
            self._give_up(connection, str(error))

    @property
    def connections(self) -> Collection[Connection]:
        """Those that are open."""
        return self._connections

    def hang_up(self, connection: Connection) -> None:
        """End a connection."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._loop.remove_reader(connection.sock.fileno())
            connection.sock.close()
            self._on_close(connection)

    def close(self) -> None:
        """Stop listening and hang up on everyone; `on_close` is not called."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        listen_fds.remove(self._path)
        for connection in self._connections:
            self._loop.remove_reader(connection.sock.fileno())
            connection.sock.close()
        self._connections.clear()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors left: the listener stays readable, and we would spin
            log.error("cannot accept: %s", error)
            self._loop.remove_reader(self._listener.fileno())
            self._loop.after(_BACK_OFF_S, self._listen_again)
            return
        sock.setblocking(False)
        connection = Connection(sock)
        if connection.uid not in (0, os.geteuid()) or len(self._connections) >= _MAX_CONNECTIONS:
            self.counts.refuse("forbidden")
            log.warning("refused user %d (pid %d)", connection.uid, connection.pid)
            sock.close()
            return
        _widen(sock)
        self._connections.add(connection)
        self._listen_to(connection)

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _listen_to(self, connection: Connection) -> None:
        self._loop.add_reader(connection.sock.fileno(), lambda: self._receive(connection))

    def _receive(self, connection: Connection) -> None:
        for _ in range(_FAIRNESS):
            if connection not in self._connections or connection.unsent:
                return
            try:
                packet = connection.sock.recv(MAX_PACKET_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.hang_up(connection)
                return
            self.counts.received += 1
            connection.received += 1
            connection.seen_ns = time.monotonic_ns()
            if len(packet) > MAX_PACKET_BYTES:
                self.counts.refuse("malformed")
                self._on_malformed(connection, "packet too large")
                continue
            try:
                message = self._decoder.decode(packet)
            except _UNDECODABLE as error:
                self.counts.refuse("malformed")
                self._recorder.refused(_PAGES, connection.label, len(packet), str(error))
                self._on_malformed(connection, str(error))
                continue
            self._recorder.message(RECEIVED, _PAGES, connection.label, b"", packet, message)
            self._on_message(connection, message)

    def _flush(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        try:
            while connection.unsent:
                _send(connection.sock, connection.unsent[0], ())
                connection.unsent.popleft()
        except BlockingIOError:
            # Its hang-up is seen here: sending to a closed socket is an error, not "no room".
            self._loop.after(_RETRY_S, lambda: self._flush(connection))
        except OSError as error:
            self._give_up(connection, str(error))
        else:
            self._listen_to(connection)

    def _give_up(self, connection: Connection, why: str) -> None:
        self.counts.dropped += 1
        log.warning("pid %d: %s", connection.pid, why)
        self._loop.after(0.0, lambda: self.hang_up(connection))


class PacketClient(Generic[In]):
    """One connection. Blocking (`call`), or on a loop (`attach`, then `ask`), where replies come in any order.

    Requests and replies are structs with a field `rid`, which no two requests under way have in common.

    Args:
        recorder: of the process it is in.

    Raises:
        OSError: nobody listens at `path`, or it has no time for us.
    """

    def __init__(self, path: Path, union: object, recorder: Recorder = NOTHING) -> None:
        self._recorder, self._label = recorder, path.name.partition(".")[0].encode()
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(union, strict=True)
        self._encoder = msgspec.msgpack.Encoder()
        # Not blocking: where the listener is stuck with a full backlog, connect would wait for it.
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._sock.connect(str(path))
        except OSError:
            self._sock.close()
            raise
        _widen(self._sock)
        self._waiting: dict[int, Callable[[In], None]] = {}
        self._unsent: deque[bytes] = deque()
        self._loop: Loop | None = None
        self._on_hang_up: Callable[[], None] = lambda: None
        self.fds: list[int] = []

    def call(self, body: msgspec.Struct, timeout_s: float = 5.0) -> In:
        """Ask and wait. Descriptors that come along are in `fds`, owned by the caller.

        Raises:
            HungUp: the server is gone.
            PacketTooLarge: see there.
            TimeoutError: it does not answer. A reply that comes later is not taken for that of the next call.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._sock.settimeout(timeout_s)
            packet = self._encoder.encode(body)
            self._recorder.message(SENT, _PAGES, self._label, b"", packet, body)
            _send(self._sock, packet, ())
            while True:
                self._sock.settimeout(max(1e-6, deadline - time.monotonic()))
                packet, fds = _receive_with_fds(self._sock)
                if not packet:
                    raise HungUp("the server is gone")
                answer: Any = self._decoder.decode(packet)
                self._recorder.message(RECEIVED, _PAGES, self._label, b"", packet, answer)
                if _answers(answer, body.rid):  # type: ignore[attr-defined]
                    self.fds = fds
                    return answer  # type: ignore[no-any-return]
                for fd in fds:
                    os.close(fd)
        except (TimeoutError, HungUp):
            raise
        except OSError as error:
            raise HungUp(str(error)) from None
        except _UNDECODABLE as error:
            raise HungUp(f"a reply that does not decode: {error}") from None

    def attach(self, loop: Loop, on_hang_up: Callable[[], None]) -> None:
        """From now on answers come on the loop."""
        self._loop, self._on_hang_up = loop, on_hang_up
        self._sock.setblocking(False)
        loop.add_reader(self._sock.fileno(), self._receive)

    def ask(self, body: msgspec.Struct, on_reply: Callable[[In], None]) -> bool:
        """Ask; the reply comes later. False where the connection is gone, or too many requests wait for the server to
        read them: then it is given up, and the hang-up follows."""
        if self._loop is None:
            raise RuntimeError("attach to a loop first")
        if self._sock.fileno() < 0:
            return False
        packet = self._encoder.encode(body)
        self._recorder.message(SENT, _PAGES, self._label, b"", packet, body)
        try:
            if self._unsent:
                raise BlockingIOError
            _send(self._sock, packet, ())
        except BlockingIOError:
            if len(self._unsent) >= _MAX_QUEUED:
                self._loop.after(0.0, self._hung_up)
                return False
            if not self._unsent:
                self._loop.after(_RETRY_S, self._flush)
            self._unsent.append(packet)
        except OSError:
            self._loop.after(0.0, self._hung_up)
            return False
        self._waiting[body.rid] = on_reply  # type: ignore[attr-defined]
        return True

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._sock.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        self._waiting.clear()
        self._unsent.clear()

    def _flush(self) -> None:
        assert self._loop is not None
        try:
            while self._unsent and self._sock.fileno() >= 0:
                _send(self._sock, self._unsent[0], ())
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.after(_RETRY_S, self._flush)
        except OSError:
            self._hung_up()

    def _receive(self) -> None:
        for _ in range(_FAIRNESS):
            if self._sock.fileno() < 0:
                return
            try:
                packet = self._sock.recv(MAX_PACKET_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet or not self._on_packet(packet):
                self._hung_up()
                return

    def _on_packet(self, packet: bytes) -> bool:
        """False where the server talks nonsense."""
        try:
            answer: Any = self._decoder.decode(packet)
        except _UNDECODABLE as error:
            log.error("a reply that does not decode: %s", error)
            return False
        self._recorder.message(RECEIVED, _PAGES, self._label, b"", packet, answer)
        rid = answer.rid
        if isinstance(answer, Denied) and rid == 0:  # could not be read: most likely the one asked longest ago
            rid = next(iter(self._waiting), 0)
        on_reply = self._waiting.pop(rid, None)
        if on_reply is None:
            log.error("a reply to nothing that was asked: %s", type(answer).__name__)
            return False
        on_reply(answer)
        return True

    def _hung_up(self) -> None:
        if self._sock.fileno() >= 0:
            self.close()
            self._on_hang_up()


def connect_when_there(
    loop: Loop,
    path: Path,
    union: object,
    on_connected: Callable[[PacketClient[Any]], None],
    period_s: float = 0.1,
    recorder: Recorder = NOTHING,
) -> Callable[[], None]:
    """Try until somebody listens at `path`; then call back once. Returns how to stop trying."""
    cancelled = False

    def attempt() -> None:
        if cancelled:
            return
        try:
            client: PacketClient[Any] = PacketClient(path, union, recorder)
        except OSError:
            loop.after(period_s, attempt)
            return
        on_connected(client)

    def cancel() -> None:
        nonlocal cancelled
        cancelled = True

    loop.after(0.0, attempt)
    return cancel


def _listen(path: Path) -> socket.socket:
    """The service manager's socket, where it made one; else our own, which only this user can reach."""
    if (fd := listen_fds.take_path(path)) is not None:
        return socket.socket(fileno=fd)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    path.unlink(missing_ok=True)  # of a dead incarnation: the name's lock is ours
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(128)
    return listener


def _answers(answer: Any, rid: int) -> bool:
    """Whether it is the reply to request `rid`. One that could not be read was refused without its number."""
    return bool(answer.rid == rid or (isinstance(answer, Denied) and answer.rid == 0))


def _widen(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)


def _send(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    if len(packet) > MAX_PACKET_BYTES:
        raise PacketTooLarge(f"{len(packet)} bytes; a packet holds {MAX_PACKET_BYTES}")
    if fds:
        socket.send_fds(sock, [packet], list(fds))
    else:
        sock.send(packet)


def _receive_with_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    # Not socket.recv_fds: it drops its flags, and without this one every child process would inherit the arena.
    packet, ancillary, _, _ = sock.recvmsg(
        MAX_PACKET_BYTES + 1, socket.CMSG_LEN(_MAX_FDS * array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, fds.tolist()
