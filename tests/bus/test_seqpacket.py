"""Packets over real sockets: order, slow readers, death, descriptors, garbage, strangers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bus.loop import PollLoop
from bus.messages.pages import MAX_PACKET_BYTES, Attach, Attached, Denied, Found, FromKv, Lookup, StatsQuery, ToKv
from bus.seqpacket import Connection, HungUp, PacketClient, PacketServer, PacketTooLarge, connect_when_there


class Echo:
    """Answers a `Lookup` with its digests, an `Attach` with a descriptor, nothing else."""

    def __init__(self, loop: PollLoop, path: Path) -> None:
        self.read, self.write = os.pipe()
        self.messages: list[ToKv] = []
        self.malformed: list[str] = []
        self.closed: list[int] = []
        self.server: PacketServer[ToKv] = PacketServer(
            loop, path, ToKv,
            on_message=self.on_message, on_malformed=self.on_malformed,
            on_close=lambda connection: self.closed.append(connection.pid),
        )  # fmt: skip

    def on_message(self, connection: Connection, message: ToKv) -> None:
        self.messages.append(message)
        if isinstance(message, Lookup):
            self.server.send(connection, Found(message.rid, message.digests, b""))
        elif isinstance(message, Attach):
            self.server.send(connection, Attached(message.rid, 1, 2, 3, 4), (self.read,))

    def on_malformed(self, connection: Connection, detail: str) -> None:
        self.malformed.append(detail)
        self.server.send(connection, Denied(0, "malformed", detail))


@pytest.fixture
def loop() -> Iterator[PollLoop]:
    loop = PollLoop()
    yield loop
    loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def turn(loop: PollLoop, until: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        loop.turn(0.01)


def a_moment(loop: PollLoop) -> None:
    for _ in range(5):
        loop.turn(0.005)


def attached(loop: PollLoop, path: Path, on_hang_up: Callable[[], None] = lambda: None) -> PacketClient[FromKv]:
    client: PacketClient[FromKv] = PacketClient(path, FromKv)
    client.attach(loop, on_hang_up)
    return client


def test_replies_come_in_order_though_thousands_of_requests_wait(loop: PollLoop, path: Path) -> None:
    """Far more than a socket holds, in both directions: nobody takes the other for dead."""
    echo = Echo(loop, path)
    client = attached(loop, path, lambda: pytest.fail("hung up"))
    got: list[FromKv] = []
    for rid in range(3000):
        assert client.ask(Lookup(rid, 1, bytes(3000)), got.append)
    turn(loop, lambda: len(got) == 3000)
    assert [reply.rid for reply in got] == list(range(3000))
    assert echo.closed == []


def test_a_client_that_does_not_read_its_replies_holds_up_only_itself(loop: PollLoop, path: Path) -> None:
    echo = Echo(loop, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lazy:
        lazy.connect(str(path))
        lazy.setblocking(False)
        sent = 0
        for _ in range(4000):  # until the server stops reading from it
            try:
                lazy.send(msgspec.msgpack.encode(Lookup(sent, 1, bytes(60_000))))
                sent += 1
            except BlockingIOError:
                loop.turn(0.0)
        assert sent < 400
        busy = attached(loop, path)
        got: list[FromKv] = []
        busy.ask(Lookup(7, 1, b"x"), got.append)
        turn(loop, lambda: bool(got))
        replies: list[Found] = []
        decoder = msgspec.msgpack.Decoder(Found)

        def read_all() -> bool:
            with contextlib.suppress(BlockingIOError):
                replies.append(decoder.decode(lazy.recv(1 << 18)))
            return len(replies) == sent

        turn(loop, read_all)
        assert [reply.rid for reply in replies] == list(range(sent))
        assert echo.closed == []


def test_too_many_waiting_requests_end_the_connection(loop: PollLoop, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stuck:
        stuck.bind(str(path))
        stuck.listen(1)
        gone: list[bool] = []
        client = attached(loop, path, lambda: gone.append(True))
        count = 0
        while client.ask(Lookup(count, 1, bytes(1000)), lambda _: None):
            count += 1
            assert count < 100_000
        turn(loop, lambda: bool(gone))
        assert gone == [True]
        assert not client.ask(Lookup(0, 1, b""), lambda _: None)


def test_a_killed_server_is_noticed_once_and_a_killed_client_too(loop: PollLoop, path: Path) -> None:
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from bus.loop import PollLoop
        from test_seqpacket import Echo
        loop = PollLoop(); echo = Echo(loop, Path({str(path)!r})); print("there", flush=True)
        loop.run(lambda: None)
    """)
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "there\n"
    gone: list[bool] = []
    client = attached(loop, path, lambda: gone.append(True))
    server.send_signal(signal.SIGSTOP)
    client.ask(Lookup(1, 1, b""), lambda _: pytest.fail("answered"))
    a_moment(loop)
    assert gone == []  # hung is not dead
    server.kill()
    turn(loop, lambda: bool(gone))
    server.wait()
    a_moment(loop)
    assert gone == [True]
    echo = Echo(loop, path)  # a new one takes the place of the dead one's socket
    code = f"""
import socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({str(path)!r}); print("there", flush=True)
time.sleep(60)
"""
    visitor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert visitor.stdout is not None
    assert visitor.stdout.readline() == "there\n"
    a_moment(loop)
    visitor.kill()
    turn(loop, lambda: bool(echo.closed))
    assert echo.closed == [visitor.pid]
    visitor.wait()


def test_a_client_connects_as_soon_as_somebody_listens(loop: PollLoop, path: Path) -> None:
    there: list[PacketClient[FromKv]] = []
    connect_when_there(loop, path, FromKv, there.append, period_s=0.01)
    cancelled = connect_when_there(loop, path, FromKv, lambda _: pytest.fail("cancelled"), period_s=0.01)
    a_moment(loop)
    assert there == []
    cancelled()
    echo = Echo(loop, path)
    turn(loop, lambda: bool(there))
    a_moment(loop)
    assert len(there) == 1
    echo.server.close()


class Forked:
    """A server in a child process, for blocking clients."""

    def __init__(self, path: Path, answers: str) -> None:
        code = textwrap.dedent(f"""
            import msgspec, os, socket, sys, time
            from bus.messages.pages import *
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind({str(path)!r}); listener.listen(); print("there", flush=True)
            sock, _ = listener.accept()
            decode, encode = msgspec.msgpack.Decoder(ToKv).decode, msgspec.msgpack.encode
        """) + textwrap.dedent(answers)
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "there\n"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_a_reply_that_comes_too_late_is_not_taken_for_the_next_one(path: Path) -> None:
    answers = """
        first, second = decode(sock.recv(1 << 18)), decode(sock.recv(1 << 18))
        for request in (first, second):
            sock.send(encode(Found(request.rid, b"%d" % request.rid, b"")))
        time.sleep(60)
    """
    with Forked(path, answers):
        client: PacketClient[FromKv] = PacketClient(path, FromKv)
        with pytest.raises(TimeoutError):
            client.call(Lookup(1, 1, b""), timeout_s=0.2)
        answer = client.call(Lookup(2, 1, b""), timeout_s=20)
        assert answer == Found(2, b"2", b"")
        client.close()


def test_descriptors_come_along_and_are_not_inherited(path: Path) -> None:
    answers = """
        request = decode(sock.recv(1 << 18))
        read, write = os.pipe()
        os.write(write, b"hello")
        socket.send_fds(sock, [encode(Attached(request.rid, 1, 2, 3, 4))], [read])
        time.sleep(60)
    """
    with Forked(path, answers):
        client: PacketClient[FromKv] = PacketClient(path, FromKv)
        assert client.call(Attach(1, "x", 1, "observer"), timeout_s=20) == Attached(1, 1, 2, 3, 4)
        (fd,) = client.fds
        assert os.read(fd, 5) == b"hello"
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(fd)
        client.close()


def test_nonsense_from_the_server_ends_the_connection(loop: PollLoop, path: Path) -> None:
    with Forked(path, 'sock.recv(1 << 18); sock.send(b"\\xc1"); time.sleep(60)'):
        client: PacketClient[FromKv] = PacketClient(path, FromKv)
        with pytest.raises(HungUp):
            client.call(StatsQuery(1), timeout_s=20)
        client.close()
    path.unlink()
    with Forked(path, "sock.send(encode(Found(9, b'', b''))); time.sleep(60)"):
        gone: list[bool] = []
        attached(loop, path, lambda: gone.append(True))
        turn(loop, lambda: bool(gone))


def test_garbage_is_answered_and_costs_nobody_anything(loop: PollLoop, path: Path) -> None:
    echo = Echo(loop, path)
    good = attached(loop, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(str(path))
        packets = [b"\xc1", b"\x93\x05\x01", os.urandom(500), bytes(MAX_PACKET_BYTES + 1), b"\xdd\xff\xff\xff\xff"]
        for packet in packets:
            raw.send(packet)
        turn(loop, lambda: len(echo.malformed) == len(packets))
        raw.send(msgspec.msgpack.encode(Lookup(5, 1, b"fine")))
        turn(loop, lambda: bool(echo.messages))
    turn(loop, lambda: bool(echo.closed))
    got: list[FromKv] = []
    good.ask(Lookup(1, 1, b"y"), got.append)
    turn(loop, lambda: got == [Found(1, b"y", b"")])


def test_what_no_packet_holds_is_the_senders_mistake(loop: PollLoop, path: Path) -> None:
    Echo(loop, path)
    client = attached(loop, path, lambda: pytest.fail("hung up"))
    with pytest.raises(PacketTooLarge):
        client.ask(Lookup(1, 1, bytes(MAX_PACKET_BYTES)), lambda _: None)
    got: list[FromKv] = []
    client.ask(Lookup(2, 1, b"z"), got.append)
    turn(loop, lambda: bool(got))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_other_users_are_refused(loop: PollLoop) -> None:
    directory = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    directory.chmod(0o711)
    path = directory / "s"
    echo = Echo(loop, path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o777)
    code = f"""
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(20)
os.setresuid(12345, 12345, 12345)
s.connect({str(path)!r})
try:
    assert s.recv(10) == b""
except ConnectionResetError:
    pass
print("refused")
"""
    stranger = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    turn(loop, lambda: stranger.poll() is not None)
    assert stranger.communicate()[0] == "refused\n"
    assert echo.closed == []
    echo.server.close()
    directory.rmdir()
