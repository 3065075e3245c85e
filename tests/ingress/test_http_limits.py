"""Time limits of the server, shortened, and the port that only one headrace may have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_stage import Stage, free_port, staged, until

from ingress.api.port import PortTaken, listen


@pytest.fixture
def runs() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="hr") as one, tempfile.TemporaryDirectory(prefix="hr") as other:
        yield Path(one), Path(other)


def test_processes_of_one_run_directory_share_a_port(runs: tuple[Path, Path]) -> None:
    port = free_port()
    first, second = listen("127.0.0.1", port, runs[0]), listen("127.0.0.1", port, runs[0])
    second.close()
    first.close()


def test_another_headrace_does_not_get_the_port(runs: tuple[Path, Path]) -> None:
    port = free_port()
    mine = listen("127.0.0.1", port, runs[0])
    with pytest.raises(PortTaken, match=rf"in use by pid {os.getpid()}"):
        listen("127.0.0.1", port, runs[1])
    mine.close()
    listen("127.0.0.1", port, runs[1]).close()


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_a_stranger_has_is_refused(runs: tuple[Path, Path], reuse: bool) -> None:
    with socket.socket() as stranger:
        if reuse:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("0.0.0.0", 0))
        stranger.listen()
        with pytest.raises(PortTaken):
            listen("127.0.0.1", stranger.getsockname()[1], runs[0])


def test_a_refused_process_leaves_no_claim(runs: tuple[Path, Path]) -> None:
    port = free_port()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with pytest.raises(PortTaken):
            listen("127.0.0.1", port, runs[0])
    listen("127.0.0.1", port, runs[0]).close()


def test_a_port_is_free_again_at_once_after_connections(runs: tuple[Path, Path]) -> None:
    port = free_port()
    mine = listen("127.0.0.1", port, runs[0])
    with socket.create_connection(("127.0.0.1", port)):
        mine.socket.setblocking(True)
        taken, _ = mine.socket.accept()
        taken.close()  # the server closes first: TIME_WAIT is on its side
    mine.close()
    listen("127.0.0.1", port, runs[0]).close()


def test_ipv6(runs: tuple[Path, Path]) -> None:
    try:
        listen("::1", 0, runs[0]).close()
    except OSError:
        pytest.skip("this host has no IPv6")


@pytest.mark.system
def test_an_ingress_on_an_occupied_port_says_who_has_it() -> None:
    first = Stage()
    try:
        first.wait()
        second = Stage(port=first.port)
        try:
            assert second.processes[0].wait(30) == 78
            assert f"by pid {first.processes[0].pid}" in second.logs()
            assert f"cannot listen on 127.0.0.1:{first.port}" in second.logs()
        finally:
            second.close()
    finally:
        first.close()


@pytest.mark.system
def test_a_stop_lets_answers_finish_and_writes_them_out() -> None:
    stage = Stage()
    try:
        stage.wait()
        request = {"model": "m", "prompt": "x", "max_tokens": 100, "seed": 0, "stream": True, "priority": 10}
        with httpx.stream("POST", f"{stage.url}/v1/completions", json=request, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            stage.processes[0].send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert stage.processes[0].wait(30) == 0
        assert "Traceback" not in stage.logs()
    finally:
        stage.close()


@pytest.mark.system
def test_a_stop_waits_for_what_a_slow_reader_has_not_read() -> None:
    """The engine is done, the bytes are not: more of them than the buffers in between hold."""
    stage = Stage()
    try:
        stage.wait()
        with large_answer(stage, priority=0) as connection:
            until(lambda: len(stage.player.finished) == 16, stage.logs)
            stage.processes[0].send_signal(signal.SIGTERM)
            until(lambda: "draining" in stage.logs(), stage.logs)
            received = until_closed(connection)
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert stage.processes[0].wait(30) == 0
    finally:
        stage.close()


HASTE = """
import ingress.api.http as http, ingress.api.request as request
http.HEAD_S, http.IDLE_S, http.STALLED_S, request.BODY_S = 0.4, 0.6, 0.5, 0.5
"""


@pytest.fixture(scope="module")
def hasty() -> Iterator[Stage]:
    """A server whose patience is short."""
    with staged(prelude=HASTE) as stage:
        yield stage


@contextlib.contextmanager
def large_answer(stage: Stage, *, priority: int) -> Iterator[socket.socket]:
    """A connection with a request whose answer is megabytes, in small pieces, and nobody reading yet."""
    request = json.dumps({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 16, "logprobs": True,
        "top_logprobs": 20, "seed": 0, "priority": priority,
    }).encode()  # fmt: skip
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", stage.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(request)}\r\n\r\n"
        connection.sendall(head.encode() + request)
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    connection.settimeout(30)
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


@pytest.mark.system
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 408"),
        (b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", b"HTTP/1.1 408"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200"),  # ... and then nothing
    ],
)
def test_connections_that_say_nothing_more_are_closed(hasty: Stage, sent: bytes, answered: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port)) as connection:
        connection.sendall(sent)
        assert until_closed(connection).startswith(answered)


@pytest.mark.system
def test_a_connection_too_many_is_told_when_to_come_back() -> None:
    with staged(prelude="import ingress.api.http as http; http.MAX_CONNECTIONS = 3\n") as stage:
        with contextlib.ExitStack() as crowd:
            for _ in range(3):
                crowd.enter_context(socket.create_connection(("127.0.0.1", stage.port)))
            reply = stage.visits.get("/health")
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
            assert reply.headers["retry-after"] == "1"
        until(lambda: stage.visits.get("/health").status_code == 200, stage.logs)


@pytest.mark.system
async def test_a_head_that_drips_is_cut_off(hasty: Stage) -> None:
    """Slowloris: a byte now and then does not keep a connection for ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(b"GET /health HTTP/1.1\r\nx: ")
    async with asyncio.timeout(30):
        while not reader.at_eof():
            writer.write(b"y")
            try:
                await asyncio.wait_for(reader.read(1000), 0.05)
            except ConnectionError:  # cut off while a byte was under way: there is no end of file to come
                break
            except TimeoutError:
                continue
    writer.close()


@pytest.mark.system
def test_a_reader_that_does_not_read_is_dropped_and_its_work_aborted(hasty: Stage) -> None:
    """Many choices with many alternatives make more bytes than any buffer between the two holds."""
    with large_answer(hasty, priority=4):
        until(lambda: len(hasty.player.submits) >= 16, hasty.logs)
        until(
            lambda: (
                {submit.request for submit in hasty.player.submits} <= {*hasty.player.aborts, *hasty.player.finished}
            ),
            hasty.logs,
        )
        assert hasty.player.aborts, "the answers were complete before the reader was found out"


def test_too_few_open_files_for_the_streams_are_said_at_start() -> None:
    few = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
    stage = Stage(prelude=few)
    try:
        assert stage.processes[0].wait(30) == 78
        log = (stage.run / "ingress0.log").read_text()
        assert "[ingress] max_streams = 1024 needs 1152 open files, and the limit is 300" in log
        assert "LimitNOFILE" in log
    finally:
        stage.close()
