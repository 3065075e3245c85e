"""Streams over real HTTP: disconnects, resuming here and at a sibling, readers that do not read."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from api_stage import Stage, answer, staged, until

pytestmark = pytest.mark.system

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Two processes on one port. Their grace is longer than any test waits, so that what ends was ended on purpose."""
    with staged(2, settings="resume_grace_s = 600.0") as stage:
        yield stage


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 0, "stream": True, **changes}


class Event:
    def __init__(self, block: str) -> None:
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        self.id, self.data = lines.get("id", ""), lines["data"]

    @property
    def text(self) -> str:
        choices = json.loads(self.data).get("choices", [])
        return choices[0]["delta"].get("content", "") if choices else ""


def events(lines: Iterator[str]) -> Iterator[Event]:
    block: list[str] = []
    for line in lines:
        if line:
            block.append(line)
        elif block:
            yield Event("\n".join(block))
            block = []


def read(stage: Stage, **changes: Any) -> list[Event]:
    with httpx.stream("POST", f"{stage.url}{CHAT}", json=body(**changes), timeout=60) as reply:
        assert reply.status_code == 200
        return list(events(reply.iter_lines()))


def begin(stage: Stage, count: int, headers: dict[str, str] | None = None, **changes: Any) -> list[Event]:
    """Read so many events, then hang up."""
    with httpx.stream("POST", f"{stage.url}{CHAT}", json=body(**changes), headers=headers, timeout=60) as reply:
        assert reply.status_code == 200
        source = events(reply.iter_lines())
        return [next(source) for _ in range(count)]


def resume(stage: Stage, last: str, response: str | None = None, **headers: str) -> httpx.Response:
    response = response or last.rpartition(":")[0]
    given = {"Last-Event-ID": last, **headers} if last else headers
    return stage.visits.get(f"/v1/streams/{response}", headers=given)


def test_events_are_numbered_and_end_with_done(stage: Stage) -> None:
    found = read(stage, max_tokens=10, priority=1)
    assert [event.id.rpartition(":")[2] for event in found[:-1]] == [str(n) for n in range(1, len(found))]
    assert {event.id.rpartition(":")[0] for event in found[:-1]} == {json.loads(found[0].data)["id"]}
    assert found[-1].data == "[DONE]"


def test_hanging_up_aborts_the_work(stage: Stage) -> None:
    first = begin(stage, 3, max_tokens=600, priority=20)
    request = int(first[0].id.rpartition(":")[0].removeprefix("chatcmpl-"), 16)
    until(lambda: request in stage.player.aborts, stage.logs)


def test_hanging_up_aborts_every_choice(stage: Stage) -> None:
    before = len(stage.player.submits)
    begin(stage, 6, n=3, max_tokens=600, priority=20)
    requests = {submit.request for submit in stage.player.submits[before:]}
    assert len(requests) == 3
    until(lambda: requests <= set(stage.player.aborts), stage.logs)


def test_hanging_up_before_an_answer_that_does_not_stream_aborts_it(stage: Stage) -> None:
    before = len(stage.player.submits)
    content = json.dumps(body(stream=False, max_tokens=600, priority=20)).encode()
    with socket.create_connection(("127.0.0.1", stage.port)) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
                           % (CHAT.encode(), len(content), content))  # fmt: skip
        until(lambda: len(stage.player.submits) > before, stage.logs)
    request = stage.player.submits[before].request
    until(lambda: request in stage.player.aborts, stage.logs)


@pytest.mark.parametrize("attempt", range(4))  # at either process
def test_an_aborted_stream_says_why_it_cannot_be_resumed(stage: Stage, attempt: int) -> None:  # noqa: ARG001
    last = begin(stage, 3, max_tokens=600, priority=20)[-1].id
    request = int(last.rpartition(":")[0].removeprefix("chatcmpl-"), 16)
    until(lambda: request in stage.player.aborts, stage.logs)
    found = [Event(block) for block in resume(stage, last).text.strip().split("\n\n")]
    assert json.loads(found[-1].data)["error"]["code"] == "abandoned"
    assert found[-1].id == "", "whoever resumes after it would be told that nothing is missing"
    assert all(event.data != "[DONE]" for event in found)


@pytest.mark.parametrize("attempt", range(6))
def test_a_finished_stream_can_be_read_again_at_either_process(stage: Stage, attempt: int) -> None:
    found = read(stage, max_tokens=12, priority=1)
    again = resume(stage, found[attempt].id)
    assert again.headers["content-type"].startswith("text/event-stream")
    rest = [Event(block) for block in again.text.strip().split("\n\n")]
    assert [(event.id, event.data) for event in rest] == [(event.id, event.data) for event in found[attempt + 1 :]]


@pytest.mark.parametrize("attempt", range(4))
def test_a_lost_connection_is_taken_up_where_it_stopped(stage: Stage, attempt: int) -> None:
    seen = begin(stage, 8 + attempt, {"X-Resumable": "true"}, max_tokens=60, priority=10)
    reply = resume(stage, seen[-1].id)
    rest = [Event(block) for block in reply.text.strip().split("\n\n")]
    assert rest[-1].data == "[DONE]"
    text = "".join(event.text for event in [*seen, *rest[:-1]])
    assert text == answer(0, 60)
    numbers = [int(event.id.rpartition(":")[2]) for event in [*seen, *rest[:-1]]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_resumable_stream_that_nobody_takes_up_ends_after_its_grace() -> None:
    with staged(settings="resume_grace_s = 1.0") as stage:
        seen = begin(stage, 3, {"X-Resumable": "1"}, max_tokens=2000, ignore_eos=True, priority=50)
        request = int(seen[0].id.rpartition(":")[0].removeprefix("chatcmpl-"), 16)
        assert request not in stage.player.aborts
        until(lambda: request in stage.player.aborts, stage.logs)
        until(lambda: resume(stage, seen[0].id).status_code == 404, stage.logs)


def test_a_stream_is_its_owners(stage: Stage) -> None:
    mine = {"Authorization": "Bearer mine"}
    with httpx.stream("POST", f"{stage.url}{CHAT}", json=body(max_tokens=3), headers=mine, timeout=60) as reply:
        found = list(events(reply.iter_lines()))
    assert resume(stage, found[0].id).status_code == 404
    assert resume(stage, found[0].id, Authorization="Bearer other").status_code == 404
    assert resume(stage, found[0].id, Authorization="Bearer mine").status_code == 200


@pytest.mark.parametrize(
    ("last", "response", "status"),
    [
        ("", "chatcmpl-0000000000000000", 404),
        ("", "nonsense", 404),
        ("other:1", "chatcmpl-0000000000000000", 400),
        ("x", "chatcmpl-0000000000000000", 400),
    ],
)
def test_what_cannot_be_resumed(stage: Stage, last: str, response: str, status: int) -> None:
    assert resume(stage, last, response).status_code == status


@pytest.mark.parametrize("attempt", range(6))  # at either process
def test_an_event_that_was_never_sent(stage: Stage, attempt: int) -> None:  # noqa: ARG001
    last = read(stage, max_tokens=3)[-2].id
    response, _, number = last.rpartition(":")
    for beyond in (int(number) + 1, 99):
        reply = resume(stage, f"{response}:{beyond}")
        assert reply.status_code == 400
        assert f"no event {beyond} yet" in reply.json()["error"]["message"]
    assert resume(stage, last).text == "data: [DONE]\n\n"


def test_asking_siblings_leaves_nothing_open(stage: Stage) -> None:
    def descriptors() -> int:
        return sum(psutil.Process(process.pid).num_fds() for process in stage.processes)

    finished = read(stage, max_tokens=3)[0].id
    resume(stage, "", "cmpl-0000000000000000")
    before = descriptors()
    for _ in range(10):
        assert resume(stage, "", "cmpl-0000000000000000").status_code == 404
        assert resume(stage, finished).status_code == 200
    until(lambda: descriptors() <= before + 4, stage.logs)


def test_both_processes_serve_the_port(stage: Stage) -> None:
    for _ in range(40):
        assert stage.visits.post(CHAT, json=body(stream=False, max_tokens=1)).status_code == 200
    logs = stage.logs()
    assert "ingress@0" in logs
    assert "ingress@1" in logs


def test_one_process_dies_and_the_port_is_served_on(stage: Stage) -> None:
    """Last in this file: it kills one."""
    stage.processes[0].kill()
    stage.processes[0].wait()
    for _ in range(20):
        assert stage.visits.post(CHAT, json=body(stream=False, max_tokens=1)).status_code == 200
    stage.processes[0] = stage.start(0)
    until(lambda: stage.logs().count("ingress@0 ready after") == 2, stage.logs)
