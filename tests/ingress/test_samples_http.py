"""Samples, beams and their limits over real HTTP, before a scheduler that plays a part; and ingresses that die."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from api_stage import Player, Stage, answer, staged, until
from test_takeover import COMPLETE, Reader, kill
from tiny_tokenizer import END

from bus.packed import unpack_u32
from ingress.samples.beams import Beam, Beams, BeamSearch
from ingress.samples.extending import candidates

pytestmark = pytest.mark.system

LIMITS = "resume_grace_s = 600.0\nmax_n = 4\nmax_best_of = 5\nmax_beam_width = 3"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(2, settings=LIMITS) as stage:
        yield stage
        assert "Traceback" not in stage.logs()


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="k", max_retries=0, timeout=60) as client:
        yield client


def test_best_of_answers_the_best_and_counts_all(client: openai.OpenAI, stage: Stage) -> None:
    """All are equally probable here: of equals the first."""
    before = len(stage.player.submits)
    reply = client.completions.create(model="m", prompt="hi", n=2, best_of=4, seed=0, max_tokens=6)
    assert [choice.text for choice in reply.choices] == [answer(0, 6), answer(1, 6)]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert all(choice.logprobs is None for choice in reply.choices)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.to_dict()["unchosen_tokens"] == 12
    submits = stage.player.submits[before:]
    assert [submit.sampling.seed for submit in submits] == [0, 1, 2, 3]
    assert {submit.sampling.logprobs for submit in submits} == {0}


def test_best_of_several_prompts_and_of_a_chat(client: openai.OpenAI) -> None:
    two = client.completions.create(model="m", prompt=["hi", "ho"], best_of=2, seed=0, max_tokens=3)
    assert [choice.text for choice in two.choices] == [answer(0, 3)] * 2
    assert two.usage is not None
    assert two.usage.completion_tokens == 12
    assert two.usage.prompt_tokens == 4
    chat = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], seed=3, max_tokens=5, logprobs=True,
        extra_body={"best_of": 3},
    )  # fmt: skip
    assert chat.choices[0].message.content == answer(3, 5)
    assert chat.choices[0].logprobs is not None
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 15


def searched(asked: Beams, most: int) -> BeamSearch:
    """What comes of it with the player's log probabilities."""
    search = BeamSearch(asked, [END], most)

    def nexts(beam: Beam) -> list[Any]:
        return candidates(Player._logprobs((answer(0, 99).encode() + b" " * 99)[len(beam.tokens)], search.keep))

    while not search.over:
        search.advance([nexts(beam) for beam in search.running])
    return search


@pytest.mark.parametrize("surface", ["chat", "text"])
def test_beams(client: openai.OpenAI, stage: Stage, surface: str) -> None:
    asked = {"use_beam_search": True, "beam_width": 3, "length_penalty": 0.8, "return_token_ids": True}
    before = len(stage.player.submits)
    reply: Any
    if surface == "chat":
        reply = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], n=2, seed=0, max_tokens=5, extra_body=asked
        )
    else:
        reply = client.completions.create(model="m", prompt="hi", n=2, seed=0, max_tokens=5, extra_body=asked)
    best = searched(Beams(3, 2, 0.8), 5).best()
    assert [tuple(choice.to_dict()["token_ids"]) for choice in reply.choices] == [beam.tokens for beam in best]
    assert [choice.index for choice in reply.choices] == [0, 1]
    submits = stage.player.submits[before:]
    assert len(submits) == 1 + 4 * 3
    assert reply.usage.completion_tokens == len(submits)
    assert {submit.part for submit in submits} == {True}
    # Each is submitted as what has come so far, so that it may not be refused.
    assert sorted(len(unpack_u32(submit.emitted)) for submit in submits) == [0, *sorted([1, 2, 3, 4] * 3)]


def test_log_probabilities_of_beams_are_those_of_their_tokens(client: openai.OpenAI) -> None:
    asked = {"use_beam_search": True, "beam_width": 2, "return_token_ids": True}
    reply = client.completions.create(model="m", prompt="hi", seed=0, max_tokens=4, logprobs=1, extra_body=asked)
    found = reply.choices[0].logprobs
    assert found is not None
    best = searched(Beams(2, 1), 4).best()[0]
    assert found.token_logprobs == [value.chosen for value in best.values]
    assert found.top_logprobs is not None
    assert {len(each) for each in found.top_logprobs} <= {1, 2}


@pytest.mark.parametrize(
    ("more", "param"),
    [({"n": 5}, "n"), ({"best_of": 6}, "best_of"), ({"use_beam_search": True, "beam_width": 4}, "beam_width"),
     ({"best_of": 2, "best_of_scorer": "nobody"}, "best_of_scorer")],
)  # fmt: skip
def test_limits_are_refused_by_name(stage: Stage, more: dict[str, Any], param: str) -> None:
    reply = httpx.post(stage.url + COMPLETE, json={"model": "m", "prompt": "hi", **more}, timeout=30)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_more_log_probabilities_of_prompts_than_an_answer_holds_are_refused_by_name(stage: Stage) -> None:
    prompts = [[97] * 2000] * 8
    asked = {"model": "m", "prompt": prompts, "max_tokens": 1, "prompt_logprobs": 20}
    reply = httpx.post(stage.url + COMPLETE, json=asked, timeout=30)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "prompt_logprobs"
    assert httpx.post(stage.url + COMPLETE, json={**asked, "prompt_logprobs": 0}, timeout=60).status_code == 200


def test_all_samples_together_have_what_they_may_have(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="m", prompt="hi", n=4, seed=0, max_tokens=9, extra_body={"max_total_tokens": 22, "return_token_ids": True}
    )
    drawn = [len(choice.to_dict()["token_ids"]) for choice in reply.choices]
    assert sum(drawn) == 22
    assert {choice.finish_reason for choice in reply.choices} == {"length"}
    assert "max_total_tokens" in {choice.to_dict()["stop_reason"] for choice in reply.choices}
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 22
    assert reply.usage.to_dict()["max_total_tokens"] == 22


def test_a_search_ends_where_its_tokens_do(client: openai.OpenAI) -> None:
    asked = {"use_beam_search": True, "beam_width": 3, "max_total_tokens": 8, "return_token_ids": True}
    reply = client.completions.create(model="m", prompt="hi", seed=0, max_tokens=20, extra_body=asked)
    choice = reply.choices[0].to_dict()
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "max_total_tokens")
    assert len(choice["token_ids"]) == 3  # 1, 3 and 3 tokens; another three would be too many
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 7


def test_a_search_whose_client_goes_away_ends(stage: Stage) -> None:
    asked = json.dumps({"model": "m", "prompt": "hi", "use_beam_search": True, "beam_width": 3, "max_tokens": 600})
    before = len(stage.player.submits)
    with socket.create_connection(("127.0.0.1", stage.port)) as client:
        head = f"POST {COMPLETE} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(asked)}\r\n\r\n"
        client.sendall((head + asked).encode())
        until(lambda: len(stage.player.submits) >= before + 4, stage.logs)
    time.sleep(0.3)
    ended = len(stage.player.submits)
    time.sleep(0.3)
    assert len(stage.player.submits) == ended
    assert ended - before < 1 + 599 * 3, "it had not come to its end"


def test_the_tokens_of_all_stay_what_they_are_when_an_ingress_dies(stage: Stage) -> None:
    reader = Reader(
        stage, COMPLETE, n=4, max_tokens=60, priority=30, max_total_tokens=90, return_token_ids=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    reader.read(40)
    home = reader.home
    kill(stage, home)
    reader.lose()
    assert reader.come_back() == 200
    reader.read()
    assert reader.done
    assert reader.ids == [f"{reader.response}:{number}" for number in range(1, len(reader.ids) + 1)]
    parts = [part for chunk in reader.bodies for part in chunk["choices"]]
    assert sum(len(part.get("token_ids") or []) for part in parts) == 90
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["length"] * 4
    for choice in range(4):
        text = reader.text(choice)
        assert answer(choice, 60).startswith(text)
        assert len(text) > 10
    assert reader.bodies[-1]["usage"]["completion_tokens"] == 90
    stage.processes[home] = stage.start(home)
    stage.wait()


@pytest.mark.parametrize(
    "more",
    [{"n": 2, "best_of": 4, "priority": 100}, {"n": 2, "use_beam_search": True, "beam_width": 3, "max_tokens": 400}],
    ids=["best_of", "beams"],
)
def test_with_a_key_the_answer_outlives_its_ingress(stage: Stage, more: dict[str, Any]) -> None:
    """The first client's connection breaks; the same call, made again, is answered by whoever is left."""
    asked = {"model": "m", "prompt": "hi", "max_tokens": 12, "seed": 0, "return_token_ids": True, **more}
    headers = {"Idempotency-Key": f"k{sorted(more)}", "connection": "close"}
    before = len(stage.player.submits)
    broken = threading.Event()

    def first() -> None:
        try:
            httpx.post(stage.url + COMPLETE, json=asked, headers=headers, timeout=60)
        except httpx.TransportError:
            broken.set()

    thread = threading.Thread(target=first)
    thread.start()
    until(lambda: len(stage.player.submits) >= before + 4, stage.logs)
    victims = [index for index in range(2) if any(stage.run.glob(f"streams/ingress@{index}.*/*"))]
    for victim in victims:
        kill(stage, victim)
        stage.processes[victim] = stage.start(victim)
    thread.join()
    assert broken.is_set()
    stage.wait()
    again = httpx.post(stage.url + COMPLETE, json=asked, headers=headers, timeout=60)
    assert again.status_code == 200, again.text
    plain = httpx.post(stage.url + COMPLETE, json={**asked, "priority": 0}, timeout=60).json()
    assert again.json()["choices"] == plain["choices"]
    assert again.json()["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
