"""Draining one of two ingresses: nobody notices."""

from __future__ import annotations

import contextlib
import http.client as http_client
import json
import select
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from api_stage import Stage, answer, free_port, staged, until

from bus.messages.control import Drain, Undrain
from headrace_client import Client, Unavailable
from ingress.api.port import Port, PortTaken, listen

COMPLETE = "/v1/completions"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "hi", "seed": 0, "max_tokens": 4, **changes}


# --- the port -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr") as run:
        yield Path(run)


def shares(run: Path) -> tuple[Port, Port]:
    port = free_port()
    return listen("127.0.0.1", port, run), listen("127.0.0.1", port, run)


def connect(port: Port, count: int = 32) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port.number), 10) for _ in range(count)]


def taken(port: Port) -> list[socket.socket]:
    return list(iter(port.next, None))


def test_a_share_that_is_held_gets_no_connections_until_it_listens_again(run: Path) -> None:
    first, second = shares(run)
    clients = connect(first)
    assert taken(first)
    taken(second)
    first.hold().close()
    clients += connect(first)
    assert len(taken(second)) == 32
    first.listen()
    clients += connect(first)
    assert len([*taken(first), *taken(second)]) == 32
    for each in (*clients, first, second):
        each.close()


def test_who_opens_a_connection_while_it_is_ignored_finds_the_sibling_later(run: Path) -> None:
    first, second = shares(run)
    queued = connect(first)
    first.ignore()
    before = len(taken(first))
    assert before
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.socket()) for _ in range(32)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", first.number))
        taken(second)
        assert not taken(first)
        first.hold().close()
        for client in waiting:  # the kernel tries again after a second
            assert select.select([], [client], [], 30)[1]
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    for each in (*queued, first, second):
        each.close()


def test_a_share_that_heeds_again_gets_connections(run: Path) -> None:
    first, second = shares(run)
    first.ignore()
    first.heed()
    clients = connect(first)
    assert taken(first)
    for each in (*clients, first, second):
        each.close()


@pytest.mark.parametrize("reuse", [False, True])
def test_a_share_that_is_held_keeps_strangers_out(run: Path, reuse: bool) -> None:
    """Nobody listens then; it is the only one."""
    only = listen("127.0.0.1", free_port(), run)
    only.hold().close()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", only.number))
    with tempfile.TemporaryDirectory(prefix="hr") as other, pytest.raises(PortTaken):
        listen("127.0.0.1", only.number, Path(other))
    sibling = listen("127.0.0.1", only.number, run)
    only.listen()
    sibling.close()
    only.close()


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(2, settings="resume_grace_s = 600.0") as stage:
        yield stage
        assert "Traceback" not in stage.logs()


def listens(stage: Stage, index: int) -> bool:
    found = psutil.Process(stage.processes[index].pid).net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN for one in found)


def serves(stage: Stage, index: int, client: socket.socket) -> bool:
    """Whether the connection is one of that process."""
    found = psutil.Process(stage.processes[index].pid).net_connections("tcp")
    return any(one.raddr and one.raddr.port == client.getsockname()[1] for one in found)


@pytest.mark.system
def test_new_requests_do_not_notice_that_one_of_two_drains_and_comes_back(stage: Stage) -> None:
    over = threading.Event()
    statuses: list[int | str] = []

    def ask() -> None:
        while not over.is_set():
            try:
                statuses.append(stage.visits.post(COMPLETE, json=body()).status_code)
            except httpx.HTTPError as error:
                statuses.append(repr(error))

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(3):
            stage.tell(0, Drain(0, ""))
            until(lambda: not listens(stage, 0), stage.logs)
            seen = len(statuses)
            until(lambda seen=seen: len(statuses) > seen + 40, stage.logs)  # type: ignore[misc]
            stage.tell(0, Undrain(0, ""))
            assert listens(stage, 0)
            seen = len(statuses)
            until(lambda seen=seen: len(statuses) > seen + 40, stage.logs)  # type: ignore[misc]
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200}


@pytest.mark.system
def test_connections_in_the_queue_of_one_that_drains_are_served(stage: Stage) -> None:
    """It stands still while they come, and is told to drain before it sees them."""
    content = json.dumps(body()).encode()
    request = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        COMPLETE.encode(),
        len(content),
        content,
    )
    stage.processes[0].send_signal(signal.SIGSTOP)
    draining = threading.Thread(target=stage.tell, args=(0, Drain(0, "")))
    with contextlib.ExitStack() as stack:
        try:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", stage.port), 30)) for _ in range(40)]
            draining.start()
            for client in clients:
                client.sendall(request)
        finally:
            stage.processes[0].send_signal(signal.SIGCONT)
        assert [client.recv(65536)[:12] for client in clients] == [b"HTTP/1.1 200"] * 40
    draining.join()
    until(lambda: not listens(stage, 0), stage.logs)


@pytest.mark.system
def test_open_connections_finish_what_they_have_and_are_then_turned_away(stage: Stage) -> None:
    def connection() -> http_client.HTTPConnection:
        while True:
            found = http_client.HTTPConnection("127.0.0.1", stage.port, timeout=30)
            found.request("GET", "/health")
            assert found.getresponse().read()
            if serves(stage, 0, found.sock):
                return found
            found.close()

    streaming, answering, idle = connection(), connection(), connection()
    fresh = socket.create_connection(("127.0.0.1", stage.port), 30)
    streaming.request("POST", COMPLETE, json.dumps(body(stream=True, max_tokens=100, priority=20)))
    stream = streaming.getresponse()
    assert stream.readline().startswith(b"id: ")
    before = len(stage.player.submits)
    answering.request("POST", COMPLETE, json.dumps(body(max_tokens=60, priority=20)))
    until(lambda: len(stage.player.submits) > before, stage.logs)
    stage.tell(0, Drain(0, ""))
    until(lambda: not listens(stage, 0), stage.logs)

    idle.request("POST", COMPLETE, json.dumps(body()))
    refused = idle.getresponse()
    assert (refused.status, refused.headers["retry-after"], refused.headers["connection"]) == (503, "1", "close")
    assert json.loads(refused.read())["error"]["code"] == "not_ready"

    whole = answering.getresponse()
    assert (whole.status, whole.headers["connection"]) == (200, "close")
    assert json.loads(whole.read())["choices"][0]["text"] == answer(0, 60)
    assert stream.read().endswith(b"data: [DONE]\n\n")

    fresh.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    assert fresh.recv(65536).startswith(b"HTTP/1.1 200"), "the kernel chose for it"

    stage.tell(0, Undrain(0, ""))
    assert connection().sock is not None
    for each in (streaming, answering, idle, fresh):
        each.close()


@pytest.mark.system
def test_a_drain_that_is_taken_back_at_once_changes_nothing(stage: Stage) -> None:
    for _ in range(3):
        stage.tell(0, Drain(0, ""))
        stage.tell(0, Undrain(0, ""))
    assert listens(stage, 0)
    assert {stage.visits.post(COMPLETE, json=body()).status_code for _ in range(20)} == {200}
    assert "left port" not in stage.logs()


@pytest.mark.system
def test_clients_of_the_door_go_to_the_sibling_with_all_that_they_have(stage: Stage) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(run=stage.run)) for _ in range(8)]
        streams = [
            stack.enter_context(client.complete("hi", stream=True, seed=0, max_tokens=80, priority=20))
            for client in clients
        ]
        for index in (0, 1):
            stage.tell(index, Drain(0, ""))
            for client in clients:
                assert client.complete("hi", seed=0, max_tokens=4).text == answer(0, 4)
            stage.tell(index, Undrain(0, ""))
        assert ["".join(piece.text for piece in stream) for stream in streams] == [answer(0, 80)] * 8


@pytest.mark.system
def test_a_client_that_finds_no_other_door_is_told_so() -> None:
    with staged() as stage, Client(run=stage.run, patience=1.0) as client:
        assert client.ready()
        stage.tell(0, Drain(0, ""))
        with pytest.raises(Unavailable) as caught:
            client.complete("hi", max_tokens=1)
        assert (caught.value.code, caught.value.retry_after) == ("not_ready", 1.0)
        stage.tell(0, Undrain(0, ""))
        assert client.complete("hi", seed=0, max_tokens=4).text == answer(0, 4)
