"""What the matrix has no cell for: adapters behind two pools, and a thought that its ingress does not live to see out,
with an adapter and a grammar for what follows it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
import toy_model
from asking import Stream, ask, door_of, stream
from chaos.catalogue import prose
from stack import Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.kernels]

# Room for one adapter: of two that are asked for at once one waits, in either pool.
POOLS = """
[model.pools]
prefill = 1
decode = 1
[model.lora]
resident = 1
"""
THINKING = '[model.reasoning]\ntags = ["<think>", "</think>"]\nclosing = "\\n</think>\\n"\n'
PROMPT = prose(5, 60)  # chunks of 16 tokens: it is computed for as long as it takes to kill somebody
SAID = [
    {"role": "user", "content": "Which is larger, 17 or 23?"},
    {"role": "assistant", "content": "<think>\n"},  # the model goes on with the thought
]
DIGITS = "[0-9]{12}"
DECODE, PREFILL = "worker@pools.0.0", "worker@pools.1.0"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("together")
    weights, _ = toy_model.made(directory)
    adapters = {name: toy_model.adapter(directory / name, seed) for seed, name in enumerate("ab", start=1)}

    def model(name: str, more: str) -> str:
        return (
            f'[[model]]\nname = "{name}"\nsource = "path:{weights}"\ndeterministic = true\ndtype = "float32"\n'
            f"threads = 1\nslots = 8\nstep_tokens = 16\n{more}"
        ) + "".join(
            f'[[model.adapter]]\nname = "{name}-{adapter}"\nsource = "path:{path}"\n'
            for adapter, path in adapters.items()
        )

    with running(model("plain", THINKING) + model("pools", POOLS), ingresses=2, arena="256MiB") as stack:
        until(lambda: stack.replicas_ready() == 3, 120, "all replicas")
        yield stack


def completion(model: str, adapter: str, salt: str) -> dict[str, Any]:
    name = f"{model}-{adapter}" if adapter else model
    return {"model": name, "prompt": PROMPT, "max_tokens": 40, "ignore_eos": True, "temperature": 0.8, "seed": 9,
            "return_token_ids": True, "include_timing": True, "cache_salt": salt}  # fmt: skip


def tokens(each: Stream) -> list[int]:
    assert each.complete, each.error
    return each.told.choices[0].tokens


@pytest.fixture(scope="module")
def plain(stack: Stack) -> dict[str, list[int]]:
    """What each adapter answers, and nobody else is there."""

    async def one_after_the_other() -> dict[str, list[int]]:
        async with door_of(stack.url) as door:
            return {name: tokens(await ask(door, completion("plain", name, "alone"))) for name in ("", "a", "b")}

    found = asyncio.run(one_after_the_other())
    assert len({tuple(each) for each in found.values()}) == 3, "adapters change nothing"
    return found


def in_use(stack: Stack, worker: str) -> bool:
    """Whether a worker has a request."""
    detail = next(process["detail"] for process in stack.status()["processes"] if process["name"] == worker)
    return bool(re.search(r"[1-9]\d* of \d+ slots", detail))


async def together(stack: Stack, names: list[str], salt: str, victim: str = "") -> list[Stream]:
    """All at once, behind two pools; a worker dies while it has some of them."""
    async with door_of(stack.url) as door:
        streams = [stream() for _ in names]
        calls = [
            asyncio.create_task(ask(door, completion("pools", name, salt), into))
            for name, into in zip(names, streams, strict=True)
        ]
        while victim and not all(each.over for each in streams):
            await asyncio.sleep(0.01)
            if in_use(stack, victim):
                stack.kill(victim)
                break
        await asyncio.gather(*calls)
    return streams


def test_adapters_behind_two_pools_answer_as_alone(stack: Stack, plain: dict[str, list[int]]) -> None:
    names = ["a", "", "b", "a", "", "b"]
    found = asyncio.run(together(stack, names, "pools"))
    assert [tokens(each) for each in found] == [plain[name] for name in names]


@pytest.mark.parametrize("victim", [PREFILL, DECODE])
def test_either_pool_s_worker_may_die_with_them(stack: Stack, plain: dict[str, list[int]], victim: str) -> None:
    names = ["a", "b", ""]
    for attempt in range(5):
        until(lambda: stack.replicas_ready() == 3, 60, "all replicas")
        found = asyncio.run(together(stack, names, f"{victim} {attempt}", victim))
        assert [tokens(each) for each in found] == [plain[name] for name in names]
        if any(each.told.timing["resumptions"] for each in found):
            return
    pytest.fail("they were always over before anybody could be killed")


def thought(stack: Stack, *, killed: bool) -> Stream:
    """A stream that thinks for 60 tokens, then says twelve digits; all ingresses die in the middle of the thought."""
    body = {
        "model": "plain-a", "messages": SAID, "continue_final_message": True, "thinking_token_budget": 60,
        "max_tokens": 200, "structured_outputs": {"regex": DIGITS}, "temperature": 0.8, "seed": 3,
        "return_token_ids": True, "include_timing": True, "cache": {"no-store": True},
    }  # fmt: skip

    async def asked() -> Stream:
        async with door_of(stack.url) as door:
            into = stream()
            call = asyncio.create_task(ask(door, body, into, "chat.completions"))
            while killed and not into.under_way and not into.over:
                await asyncio.sleep(0.002)
            if killed:
                assert into.told.thought, "it thinks first"
                assert not into.told.choices[0].text
                for ingress in ("ingress@0", "ingress@1"):
                    stack.kill(ingress)
            return await call

    return asyncio.run(asked())


def test_a_thought_is_gone_on_with_by_another_ingress(stack: Stack) -> None:
    """Thought, answer and tokens of a stream that is taken over in mid-thought are those of one left alone: the
    budget counts on, and the grammar begins where the thought ends."""
    whole = thought(stack, killed=False)
    assert whole.complete, whole.error
    assert re.fullmatch(DIGITS, whole.told.choices[0].text)
    assert len(whole.told.thought) > 60
    taken_over = thought(stack, killed=True)
    assert taken_over.complete, taken_over.error
    assert not taken_over.oddities
    assert taken_over.told.timing["resumptions"] > 0
    assert (taken_over.told.thought, taken_over.told.choices) == (whole.told.thought, whole.told.choices)
