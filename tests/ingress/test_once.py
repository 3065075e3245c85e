"""Calls with an Idempotency-Key, before a scheduler that plays a part: made again they are answered once, also by
another ingress than the one that took them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, answer, staged, until

from bus.messages.requests import Refused
from ingress.api.once import once

pytestmark = pytest.mark.system

COMPLETE = "/v1/completions"


@pytest.fixture(scope="module")
def two() -> Iterator[Stage]:
    with staged(2) as stage:
        yield stage


@pytest.fixture
def stage(two: Stage) -> Iterator[Stage]:
    """Two ingresses, alive whatever the test before has done."""
    for index, process in enumerate(two.processes):
        if process.poll() is not None:
            two.processes[index] = two.start(index)
    two.wait()
    two.player.submits.clear()
    yield two
    assert "Traceback" not in two.logs()


def post(stage: Stage, key: str, credentials: str = "Bearer a", **changes: Any) -> httpx.Response:
    body = {"model": "m", "prompt": "hi", "max_tokens": 60, **changes}
    return stage.visits.post(COMPLETE, json=body, headers={"idempotency-key": key, "authorization": credentials})


def test_the_same_call_is_answered_once(stage: Stage) -> None:
    replies = [post(stage, "once", n=2, prompt_logprobs=1) for _ in range(6)]  # wherever each of them lands
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert len(stage.player.submits) == 2  # its choices
    assert replies[0].json()["choices"][1]["text"]


def test_another_body_key_or_caller_is_another_call(stage: Stage) -> None:
    replies = [
        post(stage, "apart"),
        post(stage, "apart", max_tokens=50),
        post(stage, "a part"),
        post(stage, "apart", "Bearer b"),
    ]
    assert len({reply.json()["id"] for reply in replies}) == len(stage.player.submits) == 4


def test_a_seed_follows_from_the_key_where_none_is_named() -> None:
    assert once("k", "o", "completions", b"{}") == once("k", "o", "completions", b"{}")
    assert once("k", "o", "completions", b"{}").seed < 2**63
    known = {once(*parts) for parts in [("k", "o", "c", b""), ("ko", "", "c", b""), ("k", "o", "", b"c")]}
    assert len(known) == 3


def test_an_answer_in_one_piece_outlives_its_ingress(stage: Stage) -> None:
    asked = {"seed": 0, "priority": 15, "n": 2, "prompt_logprobs": 1, "logprobs": 1}
    undisturbed = post(stage, "quiet", **{**asked, "priority": 0}).json()
    replies: list[httpx.Response | Exception] = []

    def ask() -> None:
        try:
            replies.append(post(stage, "killed", **asked))
        except httpx.TransportError as error:
            replies.append(error)

    before = set(stage.run.glob("streams/*/*"))
    first = threading.Thread(target=ask)
    first.start()
    until(lambda: len(set(stage.run.glob("streams/*/*")) - before) == 1, stage.logs)
    (journal,) = set(stage.run.glob("streams/*/*")) - before
    index = int(journal.parent.name.partition("@")[2].partition(".")[0])
    stage.processes[index].kill()
    stage.processes[index].wait()
    first.join()
    assert isinstance(replies[0], httpx.TransportError)
    ask()
    again = replies[1]
    assert isinstance(again, httpx.Response)
    whole = again.json()
    assert [choice["text"] for choice in whole["choices"]] == [answer(0, 60), answer(1, 60)]
    for part in ("choices", "usage"):
        assert whole[part] == undisturbed[part]
    assert {submit.adopted for submit in stage.player.submits[4:]} == {1}


def test_a_client_that_goes_away_finds_its_answer_later(stage: Stage) -> None:
    with pytest.raises(httpx.TimeoutException):
        stage.visits.post(
            COMPLETE,
            json={"model": "m", "prompt": "hi", "max_tokens": 60, "priority": 15},
            headers={"idempotency-key": "patience", "authorization": "Bearer a"},
            timeout=0.3,
        )
    reply = post(stage, "patience", priority=15)
    assert reply.json()["choices"][0]["text"]
    assert len(stage.player.submits) == 1
    assert stage.player.submits[0].request not in stage.player.aborts


def test_a_stream_with_a_key_is_told_again_from_its_beginning(stage: Stage) -> None:
    told = [post(stage, "streamed", stream=True) for _ in range(4)]
    assert len({reply.content for reply in told}) == 1
    assert told[0].text.endswith("data: [DONE]\n\n")
    assert len(stage.player.submits) == 1


def test_a_refused_call_may_be_made_again(stage: Stage) -> None:
    stage.player.refusal = Refused(0, "overloaded", "full", retry_after_s=1.0)
    try:
        assert post(stage, "refused").status_code == 429
    finally:
        stage.player.refusal = None
    assert post(stage, "refused").status_code == 200


def test_a_key_has_a_limit(stage: Stage) -> None:
    reply = post(stage, "k" * 256)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "Idempotency-Key")
