"""The engine against a scripted scheduler, over real sockets on a real loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted import Answer, Host, Scheduler, accept, echo
from tiny_tokenizer import END, tiny_metadata

from bus.loop import UvLoop
from bus.messages.requests import (
    Refused,
    Submit,
)
from bus.packed import unpack_u32
from ingress.engine import Engine, Job, Stream
from ingress.errors import ApiError
from ingress.models import ServedModel
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())


class Stage:
    """A loop, a run directory, an engine; the test brings schedulers."""

    def __init__(self, loop: UvLoop, run: Path) -> None:
        self.loop, self.run = loop, run
        self.schedulers: list[Scheduler] = []
        model = ServedModel("m", TINY, None, eos_ids=(END,), context_tokens=64)
        self.engine = Engine(Host("ingress@0", loop, run), [model], max_streams=3)

    async def scheduler(self, answer: Answer = echo, epoch: int = 1) -> Scheduler:
        scheduler = Scheduler(self.loop, self.run, answer, epoch)
        self.schedulers.append(scheduler)
        await until(lambda: self.engine.models["m"].up)
        return scheduler

    @contextmanager
    def process(self, epoch: int) -> Iterator[subprocess.Popen[bytes]]:
        """A scheduler to kill: it gives three tokens of an answer and no more."""
        script = Path(__file__).with_name("scripted.py")
        environment = {**os.environ, "PYTHONPATH": str(script.parent.parent.parent)}
        with subprocess.Popen([sys.executable, script, self.run, str(epoch)], env=environment) as process:
            try:
                yield process
            finally:
                process.kill()

    async def open(self, text: str, **options: Any) -> Stream:
        return await self.engine.open(Job(model="m", prompt=list(text.encode()), **options))


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def text_of(stream: Stream) -> str:
    return "".join([piece.text async for piece in stream])


Play = Callable[[Callable[[Stage], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def play() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="hr") as run:
        loop = UvLoop()

        def run_scene(scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
            stage = Stage(loop, Path(run))
            try:
                loop.asyncio.run_until_complete(scene(stage))
            finally:
                stage.engine.close()
                for scheduler in stage.schedulers:
                    scheduler.server.close()

        yield run_scene
        loop.asyncio.close()


def test_a_request_goes_there_and_back(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        await stage.scheduler()
        stream = await stage.open("héllo wörld 😀")
        pieces = [piece async for piece in stream]
        assert "".join(piece.text for piece in pieces) == "héllo wörld 😀"
        assert pieces[-1].finish is not None
        assert pieces[-1].finish.reason == "length"
        assert stage.engine.open_streams == 0

    play(scene)


def test_many_at_once_keep_apart(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        await stage.scheduler()
        texts = ["first text", "another one", "a third"]
        streams = await asyncio.gather(*(stage.open(text) for text in texts))
        assert await asyncio.gather(*map(text_of, streams)) == texts

    play(scene)


@pytest.mark.system
def test_schedulers_that_are_killed_cost_a_pause_and_no_token(play: Play) -> None:
    """Given a stream in the middle, when its scheduler is killed, and its successor too, then the text is whole."""

    async def scene(stage: Stage) -> None:
        with stage.process(epoch=1) as first:
            await until(lambda: stage.engine.models["m"].up)
            stream = await stage.open("hello world")
            read = await anext(stream)
            first.kill()
            await until(lambda: not stage.engine.models["m"].up)
        with stage.process(epoch=2) as second:
            more = await anext(stream)
            second.kill()
            await until(lambda: not stage.engine.models["m"].up)
        last = await stage.scheduler(echo, epoch=3)
        assert read.text + more.text + await text_of(stream) == "hello world"
        (submit,) = (message for message in last.told if isinstance(message, Submit))
        assert submit.request == stream.request
        assert bytes(unpack_u32(submit.emitted).tolist()).decode() == read.text + more.text

    play(scene)


def test_a_gap_is_filled_by_asking(play: Play) -> None:
    def forgetful(scheduler: Scheduler, submit: Submit) -> None:
        accept(scheduler, submit)
        prompt, known = unpack_u32(submit.prompt).tolist(), len(unpack_u32(submit.emitted))
        if not known:
            scheduler.deltas(submit.request, 0, prompt[:2])
            scheduler.deltas(submit.request, 4, prompt[4:], "length")
        else:
            scheduler.deltas(submit.request, 1, prompt[1:], "length")

    async def scene(stage: Stage) -> None:
        scheduler = await stage.scheduler(forgetful)
        assert await text_of(await stage.open("hello")) == "hello"
        assert len([message for message in scheduler.told if isinstance(message, Submit)]) == 2

    play(scene)


def test_a_refusal_reaches_the_caller(play: Play) -> None:
    def refuse(scheduler: Scheduler, submit: Submit) -> None:
        scheduler.say(Refused(submit.request, "overloaded", "queue is full", 7.5))

    async def scene(stage: Stage) -> None:
        await stage.scheduler(refuse)
        with pytest.raises(ApiError) as caught:
            await stage.open("hello")
        assert (caught.value.status, caught.value.retry_after_s) == (429, 7.5)
        assert caught.value.retry_after_header == "8"
        assert stage.engine.open_streams == 0

    play(scene)


def test_a_stop_string_aborts_the_rest(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        scheduler = await stage.scheduler()
        assert await text_of(await stage.open("hello world", stop=("wo",))) == "hello "
        await until(lambda: scheduler.aborts() == ["stop"])

    play(scene)


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        scheduler = await stage.scheduler(lambda *_: None)
        waiting = asyncio.create_task(stage.open("hello"))
        await until(lambda: bool(scheduler.told))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert stage.engine.open_streams == 0
        await until(lambda: scheduler.aborts() == ["client"])

    play(scene)


def test_streams_are_bounded(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        await stage.scheduler(accept)
        streams = [await stage.open("x") for _ in range(3)]
        with pytest.raises(ApiError) as caught:
            await stage.open("x")
        assert caught.value.status == 429
        streams[0].abort()
        await stage.open("x")

    play(scene)


def test_what_cannot_be_opened_is_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingress.engine.OPEN_PATIENCE_S", 0.2)

    async def scene(stage: Stage) -> None:
        async def error_of(model: str) -> tuple[int, str | None]:
            with pytest.raises(ApiError) as caught:
                await stage.engine.open(Job(model=model, prompt=[1]))
            return caught.value.status, caught.value.code

        assert await error_of("other") == (404, "model_not_found")
        assert await error_of("m") == (503, "not_ready")  # its scheduler was never met

    play(scene)


def test_closing_ends_every_stream(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        scheduler = await stage.scheduler(accept)
        stream = await stage.open("x")
        stage.engine.abort_all()
        (piece,) = [piece async for piece in stream]
        assert piece.finish is not None
        assert piece.finish.reason == "abort"
        await until(lambda: scheduler.aborts() == ["shutdown"])

    play(scene)


def test_a_long_text_is_refused_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ServedModel("m", TINY, None, context_tokens=64)
    monkeypatch.setattr(TINY, "encode", lambda *_, **__: pytest.fail("was encoded"))
    with pytest.raises(ApiError) as caught:
        asyncio.run(model.encode("x" * 1_000_000))
    assert caught.value.code == "context_length_exceeded"


async def test_a_text_of_some_length_is_encoded_in_a_thread() -> None:
    model = ServedModel("m", TINY, None, context_tokens=100_000)
    text = "hello wörld " * 2000
    assert await model.encode(text) == TINY.encode(text)
