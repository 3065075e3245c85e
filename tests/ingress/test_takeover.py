"""Ingresses that are killed in mid-stream, before a scheduler that plays a part: whoever takes the stream over tells
exactly the rest."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from api_stage import Stage, answer, staged, until

from headrace_client import Client
from ingress.records import Opening, frame

pytestmark = pytest.mark.system

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
SETTINGS = "resume_grace_s = 600.0"


@pytest.fixture(scope="module")
def two() -> Iterator[Stage]:
    with staged(2, settings=SETTINGS) as stage:
        yield stage


@pytest.fixture(scope="module")
def one() -> Iterator[Stage]:
    with staged(1, settings=SETTINGS) as stage:
        yield stage


@pytest.fixture
def stage(two: Stage) -> Iterator[Stage]:
    """Two ingresses, alive whatever the test before has done."""
    yield from revived(two)


@pytest.fixture
def single(one: Stage) -> Iterator[Stage]:
    yield from revived(one)


def revived(stage: Stage) -> Iterator[Stage]:
    for index, process in enumerate(stage.processes):
        if process.poll() is not None:
            stage.processes[index] = stage.start(index)
    stage.wait()
    yield stage
    assert "Traceback" not in stage.logs()


def body(path: str = CHAT, **changes: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    return {"model": "m", **asked, "seed": 0, "stream": True, "max_tokens": 60, "priority": 15, **changes}


class Reader:
    """A client that reads events and comes back after the last one, wherever it lands."""

    def __init__(self, stage: Stage, path: str = CHAT, headers: dict[str, str] | None = None, **changes: Any) -> None:
        self.stage, self.headers = stage, headers or {}
        self.ids: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.done = False
        self._client = httpx.Client(timeout=60, trust_env=False)
        request = self._client.build_request(
            "POST", f"{stage.url}{path}", json=body(path, **changes), headers=self.headers
        )
        self._reply = self._client.send(request, stream=True)
        assert self._reply.status_code == 200
        self._lines = self._reply.iter_lines()

    @property
    def response(self) -> str:
        return self.ids[0].rpartition(":")[0]

    @property
    def request(self) -> int:
        return int(self.response.rpartition("-")[2], 16)

    @property
    def home(self) -> int:
        """Which ingress has the connection."""
        port = self._reply.extensions["network_stream"].get_extra_info("client_addr")[1]
        for index, process in enumerate(self.stage.processes):
            if process.poll() is None:
                found = psutil.Process(process.pid).net_connections("tcp")
                if any(one.raddr and one.raddr.port == port for one in found):
                    return index
        raise AssertionError("nobody has the connection")

    def read(self, count: int = 10_000) -> None:
        """So many events, or all there are."""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.ids.append(value)
            elif value == "[DONE]":
                self.done = True
            elif name == "data":
                self.bodies.append(json.loads(value))
                assert "error" not in self.bodies[-1], value
                count -= 1
                if not count:
                    return

    def lose(self) -> None:
        """What is on the way still comes; then the connection is gone."""
        with pytest.raises(httpx.RemoteProtocolError):
            self.read()
        self._client.close()

    def come_back(self) -> int:
        """The status of the attempt; keeps trying while nobody listens."""
        self._client = httpx.Client(timeout=60, trust_env=False)
        headers = {"Last-Event-ID": self.ids[-1], "connection": "close", **self.headers}
        request = self._client.build_request("GET", f"{self.stage.url}/v1/streams/{self.response}", headers=headers)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._reply = self._client.send(request, stream=True)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, self.stage.logs()
                time.sleep(0.02)
        self._lines = self._reply.iter_lines()
        return self._reply.status_code

    def text(self, choice: int = 0) -> str:
        parts = [part for chunk in self.bodies for part in chunk["choices"] if part["index"] == choice]
        return "".join(part["delta"].get("content") or "" if "delta" in part else part["text"] for part in parts)

    def check(self, *texts: str) -> None:
        assert self.done
        assert self.ids == [f"{self.response}:{number}" for number in range(1, len(self.ids) + 1)]
        assert [self.text(choice) for choice in range(len(texts))] == list(texts)
        assert len({chunk["created"] for chunk in self.bodies}) == 1
        assert len({chunk["id"] for chunk in self.bodies}) == 1


def kill(stage: Stage, index: int) -> None:
    stage.processes[index].kill()
    stage.processes[index].wait()


def files(stage: Stage) -> dict[str, Path]:
    return {path.name: path for path in stage.run.glob("streams/*/*")}


def test_a_stream_goes_on_at_the_other_ingress_after_the_last_event(stage: Stage) -> None:
    reader = Reader(stage)
    reader.read(12)
    kill(stage, reader.home)
    reader.lose()
    assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 60))
    again = [submit for submit in stage.player.submits if submit.request == reader.request]
    assert [submit.adopted for submit in again] == [0, 1]
    assert len(again[1].emitted) // 4 >= 11
    assert reader.request not in stage.player.aborts


@pytest.mark.parametrize(
    ("path", "changes", "before"),
    [
        (CHAT, {"n": 3, "logprobs": True, "top_logprobs": 2}, 25),
        (COMPLETE, {"n": 2, "logprobs": 1, "echo": True, "return_token_ids": True}, 25),
        # All from the first of these characters on is held back until it is the stop string, or cannot be.
        (COMPLETE, {"stop": ["😀! Hello, wörld 😀! Hello"], "logprobs": 0}, 13),
    ],
)
def test_what_is_told_is_what_an_undisturbed_stream_tells(
    stage: Stage, path: str, changes: dict[str, Any], before: int
) -> None:
    changes["stream_options"] = {"include_usage": True}
    undisturbed = Reader(stage, path, **{**changes, "priority": 0})
    undisturbed.read()
    reader = Reader(stage, path, **{**changes, "priority": 40})  # not at its end before it is killed
    reader.read(before)
    time.sleep(0.1)
    kill(stage, reader.home)
    reader.lose()
    assert reader.come_back() == 200
    reader.read()
    n = int(changes.get("n", 1))
    reader.check(*(undisturbed.text(choice) for choice in range(n)))
    for choice in range(n):
        assert added_up(reader, choice) == added_up(undisturbed, choice)
    assert reader.bodies[-1]["usage"] == undisturbed.bodies[-1]["usage"]


def added_up(reader: Reader, choice: int) -> list[Any]:
    """All of a choice that is a list in its chunks, and how it ended."""
    whole: list[Any] = []
    for chunk in reader.bodies:
        for part in (part for part in chunk["choices"] if part["index"] == choice):
            logprobs = part.get("logprobs") or {}
            for name in ("content", "tokens", "token_logprobs", "text_offset", "top_logprobs"):
                whole += [(name, repr(value)) for value in logprobs.get(name) or []]
            whole += [("id", token) for token in part.get("token_ids") or []]
            whole += [("end", part["finish_reason"], part["stop_reason"])] if part["finish_reason"] else []
    return sorted(whole, key=lambda entry: str(entry[0]))  # stable: in order within each name


def test_a_single_ingress_s_successor_takes_its_streams_over(single: Stage) -> None:
    reader = Reader(single, n=2)
    reader.read(12)
    kill(single, 0)
    reader.lose()
    single.processes[0] = single.start(0)
    assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 60), answer(1, 60))


def test_ingresses_that_die_one_after_the_other(stage: Stage) -> None:
    reader = Reader(stage, max_tokens=150)
    for _ in range(4):
        reader.read(10)
        home = reader.home
        kill(stage, home)
        reader.lose()
        stage.processes[home] = stage.start(home)
        assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 150))


def test_one_that_nobody_asks_for_is_taken_over_too_and_can_be_read_from_its_beginning(stage: Stage) -> None:
    reader = Reader(stage, max_tokens=40)
    reader.read(5)
    kill(stage, reader.home)
    reader.lose()
    until(lambda: reader.request in stage.player.finished, stage.logs)
    reader.ids, reader.bodies, first = reader.ids[:1], reader.bodies[:1], reader.ids
    assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 40))
    assert reader.ids[: len(first)] == first


def test_one_that_was_complete_is_still_readable(stage: Stage) -> None:
    reader = Reader(stage, max_tokens=10, priority=0)
    home = reader.home
    reader.read()
    kill(stage, home)
    told = reader.bodies
    reader.ids, reader.bodies = reader.ids[:1], reader.bodies[:1]
    assert reader.come_back() == 200
    reader.read()
    assert reader.bodies == told
    assert len([submit for submit in stage.player.submits if submit.request == reader.request]) == 1
    assert not kept_open(stage, reader)


def test_one_that_was_taken_over_is_closed_when_it_is_complete(stage: Stage) -> None:
    reader = Reader(stage, max_tokens=40)
    reader.read(5)
    kill(stage, reader.home)
    reader.lose()
    assert reader.come_back() == 200
    reader.read(1)
    assert kept_open(stage, reader)
    reader.read()
    until(lambda: not kept_open(stage, reader), stage.logs)


def kept_open(stage: Stage, reader: Reader) -> list[str]:
    """Descriptors of its journal, at all who live."""
    living = [psutil.Process(process.pid) for process in stage.processes if process.poll() is None]
    return [each.path for process in living for each in process.open_files() if each.path.endswith(reader.response)]


def test_it_stays_its_owner_s(stage: Stage) -> None:
    mine = {"Authorization": "Bearer mine"}
    reader = Reader(stage, headers=mine)
    reader.read(6)
    kill(stage, reader.home)
    reader.lose()
    for headers in ({}, {"Authorization": "Bearer other"}):
        reader.headers = headers
        assert reader.come_back() == 404
    reader.headers = mine
    assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 60))


def test_a_reader_at_a_sibling_does_not_notice_that_the_stream_s_home_dies(stage: Stage) -> None:
    reader = Reader(stage, headers={"X-Resumable": "true"}, max_tokens=200)
    reader.read(5)
    home = reader.home
    reader._client.close()
    while True:
        assert reader.come_back() == 200
        if reader.home != home:
            break
        reader._client.close()
    reader.read(5)
    kill(stage, home)
    reader.read()
    reader.check(answer(0, 200))


def test_a_stream_whose_home_stands_still_is_busy_and_not_unknown() -> None:
    """It is alive, so nobody may take its streams; a client that is told 404 would give up."""
    with staged(2, settings=SETTINGS, prelude="import ingress.api.streaming as s; s.DYING_S = 0.3\n") as stage:
        reader = Reader(stage, max_tokens=400)
        reader.read(3)
        home = stage.processes[reader.home]
        home.send_signal(signal.SIGSTOP)
        try:
            assert status_at_another(stage, reader) == 503
        finally:
            home.send_signal(signal.SIGCONT)
        reader.read(5)
        assert reader.come_back() == 200


def status_at_another(stage: Stage, reader: Reader) -> int:
    """What whoever answers says of a stream; connections that the kernel gives to one that stands still are left."""
    while True:
        try:
            return httpx.get(f"{stage.url}/v1/streams/{reader.response}", timeout=5, trust_env=False).status_code
        except httpx.TimeoutException:
            continue


def test_its_grace_ends_as_any_other_s() -> None:
    with staged(2, settings="resume_grace_s = 1.0") as stage:
        reader = Reader(stage, max_tokens=2000, ignore_eos=True, priority=50)
        reader.read(4)
        kill(stage, reader.home)
        reader.lose()
        until(lambda: reader.request in stage.player.aborts, stage.logs)
        until(lambda: reader.come_back() == 404, stage.logs)
        until(lambda: not files(stage), stage.logs)


def test_a_file_lives_as_long_as_its_stream_can_be_read() -> None:
    with staged(1, settings="resume_grace_s = 1.0") as stage:
        reader = Reader(stage, max_tokens=20)
        reader.read(4)
        (path,) = files(stage).values()
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.parent.stat().st_mode & 0o077 == 0
        reader.read()
        until(lambda: not files(stage), stage.logs)
        reader = Reader(stage, max_tokens=600)
        reader.read(4)
        reader._client.close()  # who hangs up wants no more of it
        until(lambda: reader.request in stage.player.aborts, stage.logs)
        until(lambda: not files(stage), stage.logs)


def test_a_foreign_file_is_left_alone_and_a_stream_of_a_model_that_is_gone_says_so(single: Stage) -> None:
    kill(single, 0)
    left = single.run / "streams" / "ingress@7.1"
    left.mkdir()
    foreign, gone = "chatcmpl-0000000000000001", "chatcmpl-0000000000000002"
    (left / foreign).write_bytes(b"headrace stream 0\nwhat an older release wrote")
    call = json.dumps(body(model="other")).encode()
    (left / gone).write_bytes(
        frame(Opening("chat.completions", call, "", "", 1, gone, 2, None, (5,), (b"\1\0\0\0",), 0))
    )
    single.processes[0] = single.start(0)
    single.wait()
    assert single.visits.get(f"/v1/streams/{foreign}").status_code == 404
    reply = single.visits.get(f"/v1/streams/{gone}")
    assert reply.status_code == 200
    assert json.loads(reply.text.removeprefix("data: "))["error"]["code"] == "model_not_found"
    assert (left / foreign).exists()
    assert single.logs().count("cannot be taken over") == 1
    shutil.rmtree(left)


def test_what_an_ingress_has_when_its_time_is_over_is_handed_on(stage: Stage) -> None:
    """SIGTERM twice does not wait: the end of a drain whose deadline has come."""
    reader = Reader(stage, max_tokens=100)
    reader.read(6)
    home = reader.home
    for _ in range(2):
        stage.processes[home].send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert stage.processes[home].wait(20) == 0
    with pytest.raises(httpx.RemoteProtocolError):
        reader.read()
    assert reader.come_back() == 200
    reader.read()
    reader.check(answer(0, 100))
    assert reader.request not in stage.player.aborts


def test_a_single_one_hands_on_to_its_successor_complete_streams_too(single: Stage) -> None:
    complete, going = Reader(single, max_tokens=5, priority=0), Reader(single, max_tokens=100)
    complete.read()
    going.read(6)
    for _ in range(2):
        single.processes[0].send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert single.processes[0].wait(20) == 0
    single.processes[0] = single.start(0)
    complete.ids, complete.bodies = complete.ids[:1], complete.bodies[:1]
    assert complete.come_back() == 200
    complete.read()
    complete.check(answer(0, 5))
    with pytest.raises(httpx.RemoteProtocolError):
        going.read()
    assert going.come_back() == 200
    going.read()
    going.check(answer(0, 100))


def test_streams_without_room_for_a_journal_are_served_and_told_of(single: Stage) -> None:
    kill(single, 0)
    shutil.rmtree(single.run / "streams")
    (single.run / "streams").write_text("in its place")
    single.processes[0] = single.start(0)
    single.wait()
    reader = Reader(single, max_tokens=10)
    reader.read()
    reader.check(answer(0, 10))
    assert "streams die with this process" in single.logs()
    kill(single, 0)
    (single.run / "streams").unlink()


def test_many_streams_of_many_clients_at_once(stage: Stage) -> None:
    """A kill in the middle of forty streams, each resumed by its own client."""
    failures: list[str] = []

    before = len(stage.player.submits)
    begun = threading.Barrier(41, timeout=60)

    def one(seed: int) -> None:
        try:
            with Client(run=stage.run, timeout=60) as client:
                stream = client.chat("hi", "m", stream=True, seed=seed, max_tokens=120, priority=20)
                first = next(stream).text
                begun.wait()
                text = first + "".join(piece.text for piece in stream)
                assert text == answer(seed, 120), f"{seed}: {text!r}"
        except BaseException as error:
            failures.append(repr(error))
            raise

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(40)]
    for thread in threads:
        thread.start()
    begun.wait()
    kill(stage, 0)
    for thread in threads:
        thread.join()
    assert not failures
    requests = {submit.request for submit in stage.player.submits[before:]}
    assert len(requests) == 40, "nobody made a call again whose answer had begun"
