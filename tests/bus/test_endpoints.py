"""Server and Link over real sockets, with peers that die, hang, lie and repeat themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from bus.identity import Visitor
from bus.link import Link
from bus.loop import Loop, PollLoop, UvLoop
from bus.messages.common import Heartbeat, Hello, Nack, Welcome
from bus.messages.control import FromProcess as Answers
from bus.messages.control import GetStatus, Ok, ToProcess
from bus.server import OUTBOX_MESSAGES, Peer, Server
from bus.socket import HIGH_WATER_MARK
from bus.wire import ANY_PROTOCOL, PROTOCOLS, Codec, Protocols


class Host(Visitor):
    """A visitor with a name of our choice: enough of a process for its endpoints."""

    def __init__(self, name: str, loop: Loop, run: Path, epoch: int = 1, role: str = "cli") -> None:
        super().__init__(role, loop, run)
        self.name, self.epoch = name, epoch


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("r")


def turn(loop: PollLoop, until: Callable[[], bool], seconds: float = 10.0) -> None:
    """Turn the loop until something holds."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "did not happen in time"
        loop.turn(0.02)


class Echo:
    """A server that answers each question, and remembers who came, went and asked."""

    def __init__(self, loop: Loop, run: Path, epoch: int = 1, answers: int = 1) -> None:
        self.host = Host("supervisor@host", loop, run, epoch)
        self.events: list[str] = []
        self.asked: list[int] = []
        self.answers = answers
        self.server: Server[ToProcess] = Server(
            self.host, "control", "control", ToProcess, roles={"cli", "worker"},
            on_message=self._asked,
            on_join=lambda peer: self.events.append(f"join {peer.name}"),
            on_leave=lambda peer, reason: self.events.append(f"leave {peer.name} {reason}"),
        )  # fmt: skip

    def _asked(self, peer: Peer, message: ToProcess) -> None:
        assert isinstance(message, GetStatus)
        self.asked.append(message.rid)
        for _ in range(self.answers):
            self.server.send(peer, Ok(message.rid, "here"))


class Asker:
    def __init__(self, loop: Loop, run: Path, name: str = "cli@1", role: str = "cli") -> None:
        self.host = Host(name, loop, run, role=role)
        self.events: list[str] = []
        self.answers: list[int] = []
        self.link: Link[Answers] = Link(
            self.host, "supervisor@host", "control", "control", Answers,
            on_message=lambda m: self.answers.append(m.rid) if isinstance(m, Ok) else None,
            on_up=lambda: self.events.append("up"),
            on_down=lambda reason: self.events.append(f"down {reason}"),
        )  # fmt: skip


def test_questions_are_answered_in_order_and_none_is_missed(run: Path) -> None:
    """The edge trigger: thousands of sends between reads must not leave a message lying in the socket."""
    loop = PollLoop()
    echo, asker = Echo(loop, run), Asker(loop, run)
    turn(loop, lambda: asker.link.up)
    for rid in range(5_000):
        assert asker.link.send(GetStatus(rid))
    turn(loop, lambda: len(asker.answers) == 5_000)
    assert asker.answers == list(range(5_000))
    assert echo.events == ["join cli@1"]


def test_the_same_on_uvloop(run: Path) -> None:
    loop = UvLoop()
    asker = Asker(loop, run)
    Echo(loop, run)

    def look() -> None:
        if asker.link.up and not asker.answers:
            for rid in range(2_000):
                asker.link.send(GetStatus(rid))
        if len(asker.answers) >= 2_000:
            loop.stop()

    loop.every(0.05, look)
    loop.after(20, loop.stop)
    loop.run(lambda: None)
    assert asker.answers[:2_000] == list(range(2_000))


def test_a_server_that_restarts_is_met_again(run: Path) -> None:
    loop = PollLoop()
    first, asker = Echo(loop, run, epoch=1), Asker(loop, run)
    turn(loop, lambda: asker.link.up)
    first.server.close()
    turn(loop, lambda: not asker.link.up)
    assert not asker.link.send(GetStatus(1))
    Echo(loop, run, epoch=2)
    turn(loop, lambda: asker.link.up)
    assert asker.events == ["up", "down closed", "up"]
    assert asker.link.peer_epoch == 2


CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_endpoints import Asker, Echo
    from bus.loop import PollLoop
    loop = PollLoop()
    part = {kind}(loop, Path({run!r}))
    loop.run(lambda: print("running", flush=True))
""")


def child(kind: str, run: Path) -> subprocess.Popen[str]:
    """A real process with one of the parts above in it."""
    code = CHILD.format(kind=kind, run=str(run), tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_a_killed_client_is_seen_at_once(run: Path) -> None:
    loop = PollLoop()
    echo = Echo(loop, run)
    process = child("Asker", run)
    turn(loop, lambda: bool(echo.events))
    process.kill()
    turn(loop, lambda: len(echo.events) == 2, seconds=8.0)  # far below the ten seconds of silence
    assert echo.events[1].endswith("died")
    process.wait()


def test_a_killed_server_is_seen_at_once_and_its_successor_is_joined(run: Path) -> None:
    loop = PollLoop()
    asker = Asker(loop, run)
    process = child("Echo", run)
    turn(loop, lambda: asker.link.up)
    process.kill()
    turn(loop, lambda: not asker.link.up, seconds=8.0)
    process.wait()
    successor = child("Echo", run)
    turn(loop, lambda: asker.link.up)
    successor.kill()
    successor.wait()


def test_a_stopped_idle_client_is_taken_for_gone_and_comes_back(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.server.SILENT_S", 0.8)
    loop = PollLoop()
    echo = Echo(loop, run)
    process = child("Asker", run)
    turn(loop, lambda: bool(echo.events))
    process.send_signal(signal.SIGSTOP)
    turn(loop, lambda: len(echo.events) == 2)
    assert echo.events[1].endswith("silent")
    process.send_signal(signal.SIGCONT)
    turn(loop, lambda: len(echo.events) == 3)
    assert echo.events[2].startswith("join")
    process.kill()
    process.wait()


class Raw:
    """A DEALER that says exactly what a test wants."""

    def __init__(self, run: Path) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(f"ipc://{run}/supervisor@host.control.sock")
        self.codec: Codec[object] = Codec("control", Answers)

    def say(
        self, body: object, source: str = "cli@raw", epoch: int = 5, seq: int = 1, protocol: int = PROTOCOLS.newest
    ) -> None:
        self.socket.send_multipart(self.codec.encode(body, source, epoch, seq, protocol))  # type: ignore[arg-type]

    def hear(self, loop: PollLoop) -> object:
        """The next message that is no heartbeat."""
        while True:
            turn(loop, lambda: bool(self.socket.poll(0)))
            _, body = self.codec.decode(self.socket.recv_multipart())
            if not isinstance(body, Heartbeat):
                return body


def hello(role: str = "cli", pid: int = 0, protocols: Protocols = PROTOCOLS) -> Hello:
    return Hello(*protocols, "test", role, pid or os.getpid())


def test_strangers_liars_and_garbage_are_refused_with_a_reason(run: Path) -> None:
    loop = PollLoop()
    echo, raw = Echo(loop, run), Raw(run)
    raw.socket.send_multipart([b"\xc1", b"nonsense"])
    answer = raw.hear(loop)
    assert isinstance(answer, Nack)
    assert answer.reason == "malformed"
    raw.say(GetStatus(1))
    answer = raw.hear(loop)
    assert isinstance(answer, Nack)
    assert answer.reason == "hello_required"
    for body, reason in [
        (hello(role="kv"), "forbidden"),
        (hello(pid=1), "forbidden"),
        (hello(protocols=Protocols(PROTOCOLS.newest + 1, PROTOCOLS.newest + 2)), "protocol"),
    ]:
        raw.say(body)
        answer = raw.hear(loop)
        assert isinstance(answer, Nack)
        assert answer.reason == reason
    assert echo.events == []
    raw.say(hello())
    assert isinstance(raw.hear(loop), Welcome)
    refused = {series.labels: series.value for series in echo.host.telemetry.series() if "refused" in series.name}
    assert refused[("door", "control"), ("reason", "forbidden")] == 2


def test_a_welcome_says_the_protocol_that_was_agreed_on_and_no_other_is_taken(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wire", "server"):
        monkeypatch.setattr(f"bus.{module}.PROTOCOLS", Protocols(1, 3))
    loop = PollLoop()
    echo, raw = Echo(loop, run), Raw(run)
    raw.say(hello(protocols=Protocols(2, 9)), seq=1, protocol=ANY_PROTOCOL)
    welcome = raw.hear(loop)
    assert isinstance(welcome, Welcome)
    assert welcome.protocol == echo.server.peers["cli@raw"].protocol == 3
    for number, protocol in enumerate((ANY_PROTOCOL, 2, 4, 3), start=2):
        raw.say(GetStatus(number), seq=number, protocol=protocol)
    turn(loop, lambda: bool(echo.asked))
    assert echo.asked == [5]
    refusals = [raw.hear(loop) for _ in range(3)]
    assert all(isinstance(refusal, Nack) and refusal.reason == "protocol" for refusal in refusals)
    assert raw.codec.decode(raw.codec.encode(Ok(1, ""), "x", 1, 1))[0].protocol == ANY_PROTOCOL


def test_sides_without_a_common_protocol_say_so_on_both_sides_and_what_to_do(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = PollLoop()
    echo = Echo(loop, run)
    monkeypatch.setattr("bus.link.PROTOCOLS", Protocols(7, 8))
    monkeypatch.setattr("bus.link.KNOCK_S", 0.1)
    asker = Asker(loop, run, role="worker", name="worker@m.0.0")
    turn(loop, lambda: bool(asker.link.refusal))
    for words in ("knows 7 to 8", f"knows {PROTOCOLS}", "headrace restart supervisor@host"):
        assert words in asker.link.refusal
    assert asker.host.troubles.texts(loop.now_ns()) == (f"supervisor@host refuses us: {asker.link.refusal}",)
    assert asker.link.refusal.endswith(echo.host.troubles.texts(loop.now_ns())[0])
    refused_ns = loop.now_ns()
    turn(loop, lambda: loop.now_ns() - refused_ns > 500_000_000)  # it goes on asking
    assert sum("no protocol in common" in record.message for record in caplog.records) == 2, "once on each side"

    monkeypatch.setattr("bus.link.PROTOCOLS", PROTOCOLS)
    turn(loop, lambda: asker.link.up)
    assert not asker.link.refusal
    assert not asker.host.troubles.texts(loop.now_ns())
    assert not echo.host.troubles.texts(loop.now_ns())


def test_repeated_and_stale_messages_change_nothing(run: Path) -> None:
    loop = PollLoop()
    echo, raw = Echo(loop, run), Raw(run)
    raw.say(hello(), seq=1)
    assert isinstance(raw.hear(loop), Welcome)
    raw.say(GetStatus(1), seq=2)
    raw.say(GetStatus(2), seq=2)  # repeated
    raw.say(GetStatus(3), epoch=4, seq=3)  # an older incarnation
    raw.say(GetStatus(4), seq=4)
    turn(loop, lambda: 4 in echo.asked)
    assert echo.asked == [1, 4]


def test_a_newer_incarnation_replaces_the_older_and_not_the_other_way_round(run: Path) -> None:
    loop = PollLoop()
    echo, old, new, late = Echo(loop, run), Raw(run), Raw(run), Raw(run)
    old.say(hello(), epoch=5)
    old.hear(loop)
    new.say(hello(), epoch=6)
    new.hear(loop)
    late.say(hello(), epoch=5)
    answer = late.hear(loop)
    assert isinstance(answer, Nack)
    assert answer.reason == "stale"
    assert echo.events == ["join cli@raw", "leave cli@raw replaced", "join cli@raw"]
    assert echo.server.peers["cli@raw"].epoch == 6


def test_a_peer_that_does_not_read_is_dropped_and_costs_bounded_memory(run: Path) -> None:
    loop = PollLoop()
    echo, raw = Echo(loop, run, answers=4_000), Raw(run)
    raw.say(hello(), seq=1)
    raw.hear(loop)
    limit = (2 * HIGH_WATER_MARK + OUTBOX_MESSAGES) // 4_000 + 20
    for number in range(limit):
        raw.say(GetStatus(number), seq=2 + number)
        loop.turn(0.01)
    turn(loop, lambda: len(echo.events) == 2)
    assert echo.events[1] == "leave cli@raw does not read"
