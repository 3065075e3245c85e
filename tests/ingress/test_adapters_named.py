"""Adapters as an ingress knows them: named, waited for, submitted with their digest, cached and accounted apart."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted import FACTS, Host, Scheduler, accept, echo
from test_engine_sockets import TINY, until
from tiny_tokenizer import END

from bus.blocks import chain, salted_root
from bus.config import LoraConfig, ModelConfig
from bus.loop import UvLoop
from bus.messages.accounts import Key
from bus.messages.adapters import AdapterAnswer, AdapterFacts, LoadAdapter, UnloadAdapter
from bus.messages.requests import ModelFacts, Submit
from ingress.accounts import NoLedger
from ingress.api.adapters import AdapterCalls
from ingress.api.admission import Admission
from ingress.api.answer import fingerprint
from ingress.api.jobs import Caller
from ingress.cache.keys import exact_key
from ingress.cache.spaces import Space
from ingress.engine import Engine, Job
from ingress.errors import ApiError
from ingress.models import ServedModel

ONE, TWO = b"1" * 16, b"2" * 16


def facts(*adapters: AdapterFacts) -> ModelFacts:
    return msgspec.structs.replace(FACTS, adapters=adapters)


class Stage:
    """An engine with one model and a configured adapter, before a scheduler that loads what it is asked to."""

    def __init__(self, loop: UvLoop, run: Path) -> None:
        self.loop, self.run = loop, run
        model = ServedModel("m", TINY, None, eos_ids=(END,), context_tokens=64)
        self.engine = Engine(Host("ingress@0", loop, run), [model], max_streams=9, adapters={"m": ["one"]})
        self.scheduler = Scheduler(loop, run, echo)
        self.problem = ""
        self.there = [AdapterFacts("one", ONE)]
        hear = self.scheduler._hear

        def answer(message: msgspec.Struct) -> None:
            if isinstance(message, LoadAdapter):
                if not self.problem:
                    self.there.append(AdapterFacts(message.name, TWO, created=7))
                    self.scheduler.say(facts(*self.there))
                self.scheduler.say(AdapterAnswer(message.rid, self.problem))
            elif isinstance(message, UnloadAdapter):
                self.there = [each for each in self.there if each.name != message.name]
                self.scheduler.say(facts(*self.there))
                self.scheduler.say(AdapterAnswer(message.rid))
            hear(message)

        self.scheduler._hear = answer  # type: ignore[method-assign]

    async def told(self) -> None:
        await until(lambda: self.engine.models["m"].up)
        self.scheduler.say(facts(*self.there))
        await until(lambda: self.engine.model("one").adapter == ONE)

    @property
    def submits(self) -> list[Submit]:
        return [message for message in self.scheduler.told if isinstance(message, Submit)]


@pytest.fixture
def loop() -> Iterator[UvLoop]:
    loop = UvLoop()
    yield loop
    loop.asyncio.close()


def play(loop: UvLoop, scene: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="hr") as run:
        stage: Stage | None = None

        async def whole() -> None:
            nonlocal stage
            stage = Stage(loop, Path(run))
            await scene(stage)

        try:
            loop.asyncio.run_until_complete(whole())
        finally:
            if stage is not None:
                stage.engine.close()
                stage.scheduler.server.close()


def test_a_request_has_its_adapter_s_digest_and_pages_of_its_own(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await stage.told()
        prompt = list(b"eight of")
        for name in ("m", "one"):
            stream = await stage.engine.open(Job(model=name, prompt=prompt))
            assert "".join([piece.text async for piece in stream]) == "eight of"
        base, adapted = stage.submits
        assert (base.adapter, adapted.adapter) == (b"", ONE)
        assert base.root == salted_root(FACTS.root)
        assert adapted.root == salted_root(FACTS.root, b"", ONE)
        assert adapted.digests == chain(adapted.root, adapted.prompt, FACTS.page_tokens) != base.digests

    play(loop, scene)


def test_who_has_waited_for_an_adapter_gets_it_as_it_is_known_then(loop: UvLoop) -> None:
    """By it an ingress that has just begun judges whether it may go on with the streams of a dead one."""

    async def scene(stage: Stage) -> None:
        before = stage.engine.model("one")
        waiting = asyncio.ensure_future(stage.engine.known(before, 9.0))
        await stage.told()
        assert (await waiting).adapter == ONE
        assert fingerprint(await waiting) != fingerprint(before), "which stands for it as nobody knew it"
        assert await stage.engine.known(before, 9.0) is stage.engine.model("one"), "and so it is without waiting"
        assert await stage.engine.known(stage.engine.model("m"), 9.0) is stage.engine.model("m")

    play(loop, scene)


def test_a_request_waits_until_it_is_known_what_an_adapter_is(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await until(lambda: stage.engine.models["m"].up)
        assert not stage.engine.model("one").ready
        opening = asyncio.ensure_future(stage.engine.open(Job(model="one", prompt=[1, 2])))
        await asyncio.sleep(0.1)
        assert not opening.done()
        assert not stage.submits
        await stage.told()
        await opening
        assert stage.submits[0].adapter == ONE

    play(loop, scene)


def test_one_that_cannot_be_read_is_refused_with_the_reason(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await until(lambda: stage.engine.models["m"].up)
        stage.scheduler.say(facts(AdapterFacts("one", b"", "it is a pickle")))
        with pytest.raises(ApiError, match="it is a pickle") as refused:
            await stage.engine.open(Job(model="one", prompt=[1]))
        assert refused.value.status == 503

    play(loop, scene)


def test_one_that_was_replaced_meanwhile_is_not_computed_with(loop: UvLoop) -> None:
    """What was planned, and would be cached, is about the former content."""

    async def scene(stage: Stage) -> None:
        await stage.told()
        with pytest.raises(ApiError, match="was replaced meanwhile"):
            await stage.engine.open(Job(model="one", prompt=[1], adapter=TWO))

    play(loop, scene)


def test_what_is_kept_of_answers_is_apart(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await stage.told()
        base, one = stage.engine.models["m"], stage.engine.model("one")
        other = base.adapted("one", TWO)
        space = Space("default", exact=True, sampled=False, ttl_s=1.0)
        keys = {exact_key(Job(model="x", prompt=[1]), each, space) for each in (base, one, other)}
        assert len(keys) == 3
        assert len({fingerprint(each) for each in (base, one, other)}) == 3

    play(loop, scene)


def calls(stage: Stage, role: str | None = None) -> tuple[AdapterCalls, Caller]:
    """The two operations, and who asks."""
    configured = ModelConfig(name="m", source="x.gguf", lora=LoraConfig(directory="/srv"))
    caller = Caller("", "", 0)
    if role is not None:
        key = Key("k0", "k", "a/b", b"", role)  # type: ignore[arg-type]
        caller = caller._replace(grantee=_Grantee(key))  # type: ignore[arg-type]
    return AdapterCalls(stage.engine, Admission(None, NoLedger()), {"m": configured}), caller


class _Grantee:
    def __init__(self, key: Key) -> None:
        self.key = key

    def may_use(self, model: str) -> bool:
        return model == "m"


def test_loading_and_unloading(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await stage.told()
        adapters, caller = calls(stage)
        card = json.loads(await adapters.load(b'{"lora_name":"mine","lora_path":"x"}', caller))
        assert (card["id"], card["parent"], card["ready"], card["created"]) == ("mine", "m", True, 7)
        assert stage.engine.model("mine").adapter == TWO
        stage.problem = "adapter_model.bin is a pickle"
        with pytest.raises(ApiError, match="is a pickle") as refused:
            await adapters.load(b'{"lora_name":"bad","lora_path":"x"}', caller)
        assert (refused.value.status, refused.value.param) == (400, "lora_path")
        assert json.loads(await adapters.unload(b'{"lora_name":"mine"}', caller))["deleted"]
        for name in ("mine", "nobody", "m"):
            with pytest.raises(ApiError) as missing:
                await adapters.unload(json.dumps({"lora_name": name}).encode(), caller)
            assert missing.value.code == "model_not_found"
        for body, status in (
            (b'{"lora_name":"a","lora_path":"x","base_model_name":"other"}', 404),
            (b'{"lora_name":"a"}', 400),
            (b'{"lora_name":"","lora_path":"x"}', 400),
            (b'{"lora_name":"a","lora_path":"x","more":1}', 400),
        ):
            with pytest.raises(ApiError) as wrong:
                await adapters.load(body, caller)
            assert wrong.value.status == status

    play(loop, scene)


@pytest.mark.parametrize("role", ["member", "reader"])
def test_only_keys_of_the_right_role_may(loop: UvLoop, role: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.told()
        adapters, caller = calls(stage, role)
        for operation, body in (
            (adapters.load, b'{"lora_name":"mine","lora_path":"x"}'),
            (adapters.unload, b'{"lora_name":"one"}'),
        ):
            with pytest.raises(ApiError) as refused:
                await operation(body, caller)
            assert (refused.value.status, refused.value.code) == (403, "role_not_allowed")
        adapters, caller = calls(stage, "manager")
        await adapters.load(b'{"lora_name":"mine","lora_path":"x"}', caller)

    play(loop, scene)


def test_a_scheduler_that_goes_away_leaves_nobody_waiting(loop: UvLoop) -> None:
    async def scene(stage: Stage) -> None:
        await stage.told()
        stage.scheduler._hear = lambda _: None  # type: ignore[method-assign]
        adapters, caller = calls(stage)
        asked = asyncio.ensure_future(adapters.load(b'{"lora_name":"mine","lora_path":"x"}', caller))
        await asyncio.sleep(0.1)
        assert not asked.done()
        stage.scheduler.server.close()
        with pytest.raises(ApiError) as away:
            await asyncio.wait_for(asked, 20)
        assert away.value.status == 503

    play(loop, scene)


def test_accept_is_for_streams(loop: UvLoop) -> None:
    """An adapter's streams are counted with its base's, and end with it."""

    async def scene(stage: Stage) -> None:
        await stage.told()
        stage.scheduler.answer = accept
        stream = await stage.engine.open(Job(model="one", prompt=[1, 2]))
        assert stage.engine.open_streams == 1
        stream.abort("client")
        assert stage.engine.open_streams == 0

    play(loop, scene)
