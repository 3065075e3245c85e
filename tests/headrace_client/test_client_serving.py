"""The client against real ingress processes, which are killed under it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from api_stage import Stage, answer, until

from bus.messages.requests import Refused
from headrace_client import (
    AsyncClient,
    BadRequest,
    CallTimeout,
    Client,
    ConnectionFailed,
    NotFound,
    Overloaded,
)

pytestmark = pytest.mark.system


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(run=stage.run, timeout=60) as client:
        yield client


def home(client: Client) -> int:
    """Which ingress the client talks to."""
    found = re.search(r"ingress@(\d+)", client._client._last_address)
    assert found is not None
    return int(found[1])


def revive(stage: Stage, index: int) -> None:
    stage.processes[index].kill()
    stage.processes[index].wait()
    stage.processes[index] = stage.start(index)


def test_whole_answers(client: Client) -> None:
    reply = client.chat("hi", max_tokens=9, seed=0)
    assert reply.text == answer(0, 9)
    assert reply.finish_reason == "length"
    assert reply.usage.completion_tokens == 9
    assert reply.raw["object"] == "chat.completion"
    several = client.complete(["a", "b"], n=2, max_tokens=4, seed=0, logprobs=1)
    assert [choice.text for choice in several.choices] == [answer(0, 4), answer(1, 4)] * 2
    assert several.choices[0].logprobs is not None


def test_messages_and_token_ids(client: Client) -> None:
    assert client.chat([{"role": "user", "content": "hi"}], "m", max_tokens=3, seed=0).text == answer(0, 3)
    assert client.complete([104, 105], "m", max_tokens=3, seed=0, echo=True).text == "hi" + answer(0, 3)


def test_streams(client: Client) -> None:
    stream = client.chat("hi", stream=True, max_tokens=40, seed=3, priority=1)
    pieces = [piece.text for piece in stream]
    assert len(pieces) > 5
    assert "".join(pieces) == stream.text == answer(3, 40)
    assert stream.usage is not None
    assert stream.usage.completion_tokens == 40
    assert stream.id.startswith("chatcmpl-")


def test_several_choices_in_one_stream(client: Client) -> None:
    texts = {0: "", 1: "", 2: ""}
    for piece in client.chat("hi", stream=True, n=3, max_tokens=20, seed=0, priority=1):
        texts[piece.index] += piece.text
    assert texts == {index: answer(index, 20) for index in range(3)}


def test_models_tokens_readiness(client: Client) -> None:
    assert [model.id for model in client.models()] == ["m"]
    assert client.detokenize(client.tokenize("hello é")) == "hello é"
    assert len(client.tokenize([{"role": "user", "content": "hi"}])) > 5
    assert client.ready()


def test_errors_are_typed(stage: Stage, client: Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.chat("hi", "nobody")
    assert missing.value.code == "model_not_found"
    for streaming in (False, True):
        with pytest.raises(BadRequest) as wrong:
            client.chat("hi", stream=streaming, temperature=9)  # type: ignore[call-overload]
        assert wrong.value.param == "temperature"
    stage.player.refusal = Refused(0, "overloaded", "full", 3.0)
    try:
        with pytest.raises(Overloaded) as full:
            client.chat("hi")
        assert full.value.retry_after == 3.0
    finally:
        stage.player.refusal = None


def test_a_stream_that_is_closed_is_aborted(stage: Stage, client: Client) -> None:
    with client.chat("hi", stream=True, max_tokens=600, priority=20) as stream:
        next(stream)
        request = int(stream.id.removeprefix("chatcmpl-"), 16)
    until(lambda: request in stage.player.aborts)


def test_no_word_for_too_long(stage: Stage) -> None:
    with Client(run=stage.run, timeout=0.3) as client, pytest.raises(CallTimeout):
        client.chat("hi", "m", max_tokens=600, priority=20)
    until(lambda: {submit.request for submit in stage.player.submits} <= {*stage.player.finished, *stage.player.aborts,
                                                                          *stage.player.refused})  # fmt: skip


def test_threads_share_a_client(client: Client) -> None:
    texts: dict[int, str] = {}

    def one(seed: int) -> None:
        texts[seed] = "".join(
            piece.text for piece in client.chat("hi", "m", stream=True, seed=seed, max_tokens=20, priority=1)
        )

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: answer(seed, 20) for seed in range(8)}


async def test_async_calls_at_once(stage: Stage) -> None:
    async with AsyncClient(run=stage.run) as client:

        async def one(seed: int) -> str:
            stream = await client.complete("hi", "m", stream=True, seed=seed, max_tokens=20, priority=1)
            return "".join([piece.text async for piece in stream])

        assert await asyncio.gather(*map(one, range(16))) == [answer(seed, 20) for seed in range(16)]
        assert await client.detokenize(await client.tokenize("x")) == "x"


async def test_a_cancelled_task_aborts_its_call(stage: Stage) -> None:
    async with AsyncClient(run=stage.run) as client:
        before = len(stage.player.submits)
        task = asyncio.ensure_future(client.chat("hi", "m", max_tokens=600, priority=20))
        await asyncio.to_thread(until, lambda: len(stage.player.submits) > before)
        task.cancel()
        request = stage.player.submits[before].request
        await asyncio.to_thread(until, lambda: request in stage.player.aborts)


@pytest.mark.parametrize("options", [{}, {"n": 2, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}])
def test_a_stream_survives_its_ingress(stage: Stage, options: dict[str, object]) -> None:
    """Killed in the middle of the answer: the rest comes from another one, no token twice, none missing."""
    n = int(str(options.get("n", 1)))
    with Client(run=stage.run, timeout=60) as client:
        texts, tokens, entries = [""] * n, [0] * n, [0] * n
        stream = client.chat("hi", "m", stream=True, max_tokens=80, seed=1, priority=15, **options)
        for number, piece in enumerate(stream):
            texts[piece.index] += piece.text
            tokens[piece.index] += len(piece.token_ids)
            entries[piece.index] += len(piece.logprobs)
            if number == 12:
                lost = home(client)
                revive(stage, lost)
        assert texts == [answer(seed, 80) for seed in range(1, 1 + n)]
        assert stream.usage is not None
        assert stream.usage.completion_tokens == 80 * n
        if options:
            assert tokens == entries == [80] * n


def test_a_whole_answer_survives_its_ingress(stage: Stage) -> None:
    with Client(run=stage.run, timeout=60) as client:
        client.models()
        before = len(stage.player.submits)
        killer = threading.Thread(
            target=lambda: (until(lambda: len(stage.player.submits) > before), revive(stage, home(client)))
        )
        killer.start()
        assert client.chat("hi", "m", max_tokens=50, seed=2, priority=10).text == answer(2, 50)
        killer.join()


def test_an_ingress_that_was_stopped_for_a_while_is_waited_for_or_left(stage: Stage) -> None:
    """SIGSTOP for less than the silence that counts: the stream just pauses."""
    with Client(run=stage.run, timeout=60) as client:
        stream = client.chat("hi", "m", stream=True, max_tokens=60, seed=0, priority=10)
        text = ""
        for number, piece in enumerate(stream):
            text += piece.text
            if number == 5:
                pid = stage.processes[home(client)].pid
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.5)
                os.kill(pid, signal.SIGCONT)
        assert text == answer(0, 60)


def test_when_nobody_is_left_it_says_so(stage: Stage) -> None:
    """Last in this file: it kills all."""
    with Client(run=stage.run, timeout=60, patience=0.5) as client:
        stream = client.chat("hi", "m", stream=True, max_tokens=600, seed=0, priority=20)
        next(stream)
        for process in stage.processes:
            process.kill()
        with pytest.raises(ConnectionFailed, match="no server"):
            list(stream)
