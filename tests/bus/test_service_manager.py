"""What is taken from a service manager and told to it: sockets by address, descriptors by name, sd_notify, watchdog,
records of the journal. The manager is a socket of the test; systemd itself is in tests/systemd.
"""

from __future__ import annotations

import array
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import listen_fds, manager
from bus.curve import credential
from bus.journal import JournalHandler, encode, field_name, handler, is_connected
from bus.listen_fds import Handed

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where sd_notify goes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def messages(receiver: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return found


def with_descriptors(fds: list[int], names: str, program: str, pid: str = "$$") -> object:
    """What a program prints as JSON that begins with `fds` as 3, 4, …, told of them as systemd does."""
    # Moved out of the way first: one of them may be 3 or 4 here.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
    moves = " ".join(f"{3 + index}>&{fd} {fd}>&-" for index, fd in enumerate(high))
    done = subprocess.run(
        ["bash", "-c", f'export LISTEN_PID={pid}; exec "$0" -c "$1" {moves}', sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names},
        pass_fds=high, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for fd in high:
        os.close(fd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FIND = """
import json, os, socket
from pathlib import Path
from bus import listen_fds
path = Path({path!r})
taken = listen_fds.take_path(path)
again = listen_fds.take_path(path)
listen_fds.remove(path)
port = listen_fds.take_port({port})
arena = listen_fds.named("arena")
print(json.dumps([
    taken is not None and again is not None and taken != again and taken > 5,
    taken is not None and not os.get_blocking(taken) and not os.get_inheritable(taken),
    port is not None and socket.socket(fileno=port).getsockname()[1] == {port},
    arena, path.exists(), listen_fds.take_path(Path("/nowhere")) is None,
]))
"""


def test_a_socket_is_found_by_its_address_and_the_arena_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as door, socket.create_server(("127.0.0.1", 0)) as web:
        door.bind(str(path))
        door.listen()
        memory = os.memfd_create("arena")
        program = FIND.format(path=str(path), port=web.getsockname()[1])
        fds = [door.fileno(), web.fileno(), memory]
        assert with_descriptors(fds, "bus:http:arena", program) == [True, True, True, 5, True, True]
        # Told to another process: nothing is ours, and the file is a stale one.
        assert with_descriptors(fds, "bus:http:arena", program, pid="1") == [False, False, False, None, False, True]
        os.close(memory)


def test_names_that_are_missing_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "bus"}
    assert listen_fds.handed_down(environment) == (Handed(3, "bus"), Handed(4, "unknown"))
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert listen_fds.handed_down() == ()


def test_memory_goes_into_the_store_with_its_name(told: socket.socket) -> None:
    memory = os.memfd_create("arena")
    os.write(memory, b"pages")
    manager.keep_fd("arena", memory)
    os.close(memory)
    text, ancillary, _, _ = told.recvmsg(4096, 64)
    assert text == b"FDSTORE=1\nFDNAME=arena"
    kept = array.array("i", ancillary[0][2])[0]
    assert os.pread(kept, 10, 0) == b"pages"
    os.close(kept)


def test_nothing_is_told_where_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    manager.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", "", 3.0),
        ("3000000", str(os.getpid()), 3.0),
        ("3000000", "1", None),
        ("0", "", None),
        ("x", "", None),
    ],
    ids=["anybody", "this process", "another process", "never", "no number"],
)
def test_the_watchdog_is_fed_by_whom_it_is_for(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert manager.watchdog_s() == seconds


def test_a_start_is_paid_for_while_something_changes(told: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(manager.time, "monotonic", lambda: clock[0])
    reporter = manager.Reporter()
    more = f"EXTEND_TIMEOUT_USEC={int(manager.AHEAD_S * 1e6)}"
    reporter.look("starting: loading weights, 1%\n", starting=True)
    assert messages(told) == ["STATUS=starting: loading weights, 1%", more]
    clock[0] += manager.STANDSTILL_S - 1
    reporter.look("starting: loading weights, 1%\n", starting=True)
    assert messages(told) == [more]
    clock[0] += 2
    reporter.look("starting: loading weights, 1%\n", starting=True)
    assert messages(told) == []
    reporter.look("ready", starting=False)
    assert messages(told) == ["STATUS=ready"]


# --- the journal ------------------------------------------------------------------------------------------------------


def logged(path: Path, **extra: object) -> tuple[bytes, list[int]]:
    """What a handler sends for one record."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        handler = JournalHandler("kv@host", logging.NullHandler(), str(path))
        record = logging.makeLogRecord({"name": "kv", "levelname": "ERROR", "msg": "a\nb" * 3, **extra})
        handler.handle(record)
        data, ancillary, _, _ = journal.recvmsg(1 << 20, 64)
        handler.close()
        return data, list(array.array("i", ancillary[0][2])) if ancillary else []


def test_a_record_has_its_fields_and_lines(tmp_path: Path) -> None:
    data, _ = logged(tmp_path / "j", request="cmpl-1", peer="worker@m.0.0")
    assert b"HEADRACE_PROCESS=kv@host\n" in data
    assert b"HEADRACE_REQUEST=cmpl-1\n" in data
    assert b"PRIORITY=3\n" in data
    message = b"a\nb" * 3
    assert b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n" in data


def test_a_record_that_is_too_large_goes_as_memory(tmp_path: Path) -> None:
    data, fds = logged(tmp_path / "j", request="x" * 2_000_000)
    assert data == b""
    assert os.fstat(fds[0]).st_size > 2_000_000
    os.close(fds[0])


def test_what_the_journal_does_not_take_is_written_as_before(tmp_path: Path) -> None:
    seen: list[logging.LogRecord] = []
    otherwise = logging.Handler()
    otherwise.emit = seen.append  # type: ignore[method-assign]
    JournalHandler("kv@host", otherwise, str(tmp_path / "nobody")).handle(
        logging.makeLogRecord({"name": "kv", "msg": "kept"})
    )
    assert [record.getMessage() for record in seen] == ["kept"]


def test_names_of_fields_are_what_the_journal_lets_through() -> None:
    assert field_name("computed in") == "HEADRACE_COMPUTED_IN"
    assert len(field_name("x" * 100)) == 64
    assert encode([("A", "b")]) == b"A=b\n"


def test_only_a_stream_that_is_the_journal_s_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logging.StreamHandler()
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # inherited by something that writes elsewhere
    assert not is_connected()
    assert handler("kv@host", lines) is lines
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert is_connected()


def test_a_secret_is_read_from_the_credential_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credential("curve.secret", Path("/etc/x")) == Path("/etc/x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credential("curve.secret", Path("/etc/x")) == Path("/etc/x")
    (tmp_path / "curve.secret").touch()
    assert credential("curve.secret", Path("/etc/x")) == tmp_path / "curve.secret"
