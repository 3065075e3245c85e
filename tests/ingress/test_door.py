"""The ZeroMQ door of a real ingress process: the bodies of HTTP, and messages that no client should send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import zmq
from api_stage import Stage, answer, staged, until
from scripted import Host

from bus.link import Link
from bus.loop import UvLoop
from bus.messages.clients import Call, CallFailed, Cancel, Chunk, Reply, Resume, StreamEnd, ToClient
from bus.messages.common import Nack
from bus.names import CLIENTS_DOOR, ipc, socket_path

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(2, settings='max_body = "64KiB"\nresume_grace_s = 600.0') as stage:
        yield stage


class Running(UvLoop):
    """The loop that pytest runs the test on, as the bus's `Loop`."""

    def __init__(self) -> None:
        self.asyncio = asyncio.get_running_loop()


class Caller:
    """A client that says what the test wants, to ingress 0 or 1."""

    def __init__(self, stage: Stage, index: int, name: str, role: str = "client") -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.up = asyncio.Event()
        host = Host(f"{role}@{name}", Running(), stage.run)
        self.link: Link[Any] = Link(
            host, f"ingress@{index}", CLIENTS_DOOR, "clients", ToClient,
            on_message=self.told.put_nowait, on_up=self.up.set,
        )  # fmt: skip

    async def say(self, message: msgspec.Struct) -> None:
        async with asyncio.timeout(30):
            await self.up.wait()
        assert self.link.send(message)

    async def hear(self) -> Any:
        async with asyncio.timeout(30):
            return await self.told.get()

    async def hear_all(self) -> list[Any]:
        """Up to and with what is no chunk."""
        heard = [await self.hear()]
        while isinstance(heard[-1], Chunk):
            heard.append(await self.hear())
        return heard


@pytest.fixture
async def caller(stage: Stage) -> AsyncIterator[Caller]:
    caller = Caller(stage, 0, "a")
    yield caller
    caller.link.close()


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", "seed": 0, **changes}).encode()


def text_of(chunks: list[Any]) -> str:
    bodies = [json.loads(chunk.body) for chunk in chunks if isinstance(chunk, Chunk)]
    return "".join(choice["text"] for part in bodies for choice in part["choices"])


def request_of(chunk: Chunk) -> int:
    return int(json.loads(chunk.body)["id"].removeprefix("cmpl-"), 16)


async def test_the_bodies_are_those_of_http(stage: Stage, caller: Caller) -> None:
    for number, (operation, content, path) in enumerate(
        [
            ("models", b"{}", "/v1/models"),
            ("ready", b"{}", "/ready"),
            ("tokenize", body(seed=None).replace(b', "seed": null', b""), "/tokenize"),
            ("detokenize", b'{"model":"m","tokens":[104,105]}', "/detokenize"),
        ]
    ):
        await caller.say(Call(number, operation, content))
        reply = await caller.hear()
        assert isinstance(reply, Reply)
        method = "POST" if "token" in operation else "GET"
        assert json.loads(reply.body) == stage.visits.request(method, path, content=content).json()


async def test_a_whole_answer(caller: Caller) -> None:
    await caller.say(Call(1, "completions", body(max_tokens=5)))
    reply = await caller.hear()
    assert reply.call == 1
    assert json.loads(reply.body)["choices"][0]["text"] == answer(0, 5)


async def test_a_stream(caller: Caller) -> None:
    await caller.say(Call(7, "completions", body(max_tokens=30, stream=True, priority=1)))
    heard = await caller.hear_all()
    assert heard[-1] == StreamEnd(7)
    assert [chunk.event for chunk in heard[:-1]] == list(range(1, len(heard)))
    assert text_of(heard) == answer(0, 30)


async def test_calls_at_once_keep_apart(caller: Caller) -> None:
    for number in range(20):
        await caller.say(Call(number, "completions", body(seed=number, max_tokens=20, stream=True, priority=1)))
    heard: dict[int, list[Any]] = {number: [] for number in range(20)}
    while not all(parts and isinstance(parts[-1], StreamEnd) for parts in heard.values()):
        message = await caller.hear()
        heard[message.call].append(message)
    assert [text_of(heard[number]) for number in range(20)] == [answer(number, 20) for number in range(20)]


async def test_errors_are_those_of_http(caller: Caller) -> None:
    for content, status, code in (
        (b"{", 400, "invalid_json"),
        (body(model="x"), 404, "model_not_found"),
        (body(surprise=1), 400, "unknown_parameter"),
        (body(prompt=" " * (65 << 10)), 413, "request_too_large"),
    ):
        await caller.say(Call(1, "completions", content))
        failed = await caller.hear()
        assert isinstance(failed, CallFailed)
        assert (failed.status, json.loads(failed.body)["error"]["code"]) == (status, code)


async def test_a_cancelled_stream_is_aborted_at_once_and_says_no_more(stage: Stage, caller: Caller) -> None:
    await caller.say(Call(1, "completions", body(max_tokens=500, stream=True, priority=20)))
    request = request_of(await caller.hear())
    await caller.say(Cancel(1))
    await caller.say(Cancel(1))
    await asyncio.to_thread(until, lambda: request in stage.player.aborts)
    await caller.say(Call(2, "models"))
    heard = [await caller.hear()]
    while isinstance(heard[-1], Chunk):
        heard.append(await caller.hear())
    assert heard[-1].call == 2


async def test_a_cancelled_call_is_aborted(stage: Stage, caller: Caller) -> None:
    before = len(stage.player.submits)
    await caller.say(Call(1, "completions", body(max_tokens=500, priority=20)))
    await asyncio.to_thread(until, lambda: len(stage.player.submits) > before)
    await caller.say(Cancel(1))
    request = stage.player.submits[before].request
    await asyncio.to_thread(until, lambda: request in stage.player.aborts)


async def test_a_client_that_leaves_ends_its_calls_at_once_and_its_streams_after_the_grace() -> None:
    with staged(settings="resume_grace_s = 1.0") as stage:
        caller = Caller(stage, 0, "leaver")
        await caller.say(Call(1, "completions", body(max_tokens=600, priority=50)))
        await caller.say(Call(2, "completions", body(max_tokens=600, priority=50, stream=True)))
        await asyncio.to_thread(until, lambda: len(stage.player.submits) == 2)
        caller.link.close()
        await asyncio.to_thread(until, lambda: len(stage.player.aborts) == 2)
        assert stage.player.aborts == [submit.request for submit in stage.player.submits]


@pytest.mark.parametrize("index", [0, 1])
async def test_a_stream_is_resumed_here_or_at_the_sibling(stage: Stage, index: int) -> None:
    first = Caller(stage, 0, f"first{index}")
    await first.say(Call(1, "completions", body(max_tokens=60, stream=True, priority=10)))
    seen = [await first.hear() for _ in range(10)]
    first.link.close()
    second = Caller(stage, index, f"second{index}")
    await second.say(Resume(5, json.loads(seen[0].body)["id"], seen[-1].event))
    rest = await second.hear_all()
    second.link.close()
    assert rest[-1] == StreamEnd(5)
    assert [chunk.event for chunk in [*seen, *rest[:-1]]] == list(range(1, len(seen) + len(rest)))
    assert text_of([*seen, *rest]) == answer(0, 60)


async def test_streams_that_are_resumed_through_one_sibling_do_not_end_each_other(stage: Stage) -> None:
    """Each is asked for over a link of its own from one process to the other."""
    first = Caller(stage, 0, "homes")
    for call in (1, 2):
        await first.say(Call(call, "completions", body(max_tokens=60, stream=True, priority=20)))
    begun: dict[int, Chunk] = {}
    while len(begun) < 2:
        heard = await first.hear()
        begun[heard.call] = heard
    first.link.close()
    second = Caller(stage, 1, "elsewhere")
    for call, chunk in begun.items():
        await second.say(Resume(call, json.loads(chunk.body)["id"], 0))
    texts: dict[int, list[Any]] = {1: [], 2: []}
    ends = 0
    while ends < 2:
        heard = await second.hear()
        assert isinstance(heard, Chunk | StreamEnd), heard
        ends += isinstance(heard, StreamEnd)
        texts[heard.call].append(heard)
    second.link.close()
    assert [text_of(chunks) for chunks in texts.values()] == [answer(0, 60)] * 2


async def test_a_sibling_is_told_at_once_that_a_stream_is_here(stage: Stage, caller: Caller) -> None:
    """It asks several, and this one may have nothing new to say."""
    await caller.say(Call(1, "completions", body(max_tokens=600, stream=True, priority=10)))
    seen = await caller.hear()
    sibling = Caller(stage, 0, "9", "ingress")
    await sibling.say(Resume(1, json.loads(seen.body)["id"], seen.event))
    assert await sibling.hear() == Chunk(1, seen.event, b"")
    assert (await sibling.hear()).event == seen.event + 1
    sibling.link.close()
    await caller.say(Cancel(1))


async def test_a_stream_that_nobody_has(caller: Caller) -> None:
    await caller.say(Resume(1, "cmpl-0000000000000000", 0))
    failed = await caller.hear()
    assert (failed.status, json.loads(failed.body)["error"]["code"]) == (404, "stream_not_found")


async def test_frames_that_do_not_decode_are_refused_and_the_door_stays_open(stage: Stage, caller: Caller) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(ipc(socket_path("ingress@0", CLIENTS_DOOR, stage.run)))
        for frames in ([b""], [b"x", b"y"], [b"\x95\x01\x01\xa1x\x01\x01", b"\xff"], [b"a"] * 5):
            socket.send_multipart(frames)
            assert socket.poll(10_000)
            socket.recv_multipart()
    await caller.say(Call(1, "models"))
    assert isinstance(await caller.hear(), Reply)


async def test_an_operation_that_is_none_is_refused(caller: Caller) -> None:
    await caller.say(Call(1, "launch"))  # type: ignore[arg-type]
    nack = await caller.hear()
    assert isinstance(nack, Nack)
    assert nack.reason == "malformed"


def test_nothing_is_left_and_nothing_was_a_bug(stage: Stage) -> None:
    """Last in this file."""
    player = stage.player
    until(lambda: {submit.request for submit in player.submits} <= {*player.finished, *player.aborts}, stage.logs)
    assert "Traceback" not in stage.logs()
