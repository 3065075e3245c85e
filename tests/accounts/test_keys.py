"""Keys at the door: who gets in, who does not, and what those are told. Real processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from api_stage import until
from counter import Counter, counter

import headrace_client


@pytest.fixture(scope="module")
def desk() -> Iterator[Counter]:
    with counter() as desk:
        yield desk


def test_a_key_opens_and_nothing_else_does(desk: Counter) -> None:
    id, key = desk.key()
    assert desk.ask(key).status_code == 200
    secret = key.rpartition("-")[2]
    wrong = [f"sk-{id}-{secret[:-1]}x", f"sk-k00000000000-{secret}", "sk-", "sk--", f"sk-{id}", "nonsense", "x" * 9000]
    answers = {desk.ask(each).text for each in wrong}
    assert len(answers) == 1, "a stranger is not told which part was wrong"
    assert json.loads(answers.pop())["error"]["code"] == "invalid_api_key"
    for path in ("/v1/models", "/v1/models/m", "/v1/streams/cmpl-1"):
        assert desk.stage.visits.get(path).status_code == 401, path
    for path in ("/tokenize", "/detokenize", "/v1/chat/completions"):
        assert desk.stage.visits.post(path, content=b"{}").status_code == 401, path
    for path in ("/health", "/ready", "/progress", "/openapi.json"):
        assert desk.stage.visits.get(path).status_code == 200, path
    by_header = desk.stage.visits.get("/v1/models", headers={"x-api-key": key})
    assert by_header.status_code == 200


def test_nobody_keeps_the_secret(desk: Counter) -> None:
    _, key = desk.key()
    secret = key.rpartition("-")[2].encode()
    assert desk.ask(key).status_code == 200
    for path in desk.stage.run.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


def test_what_a_key_is_not_for_is_forbidden(desk: Counter) -> None:
    _, other = desk.key("--models", "another")
    refused = desk.ask(other)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert desk.stage.visits.get("/v1/models", headers={"x-api-key": other}).json()["data"] == []
    _, reader = desk.key("--role", "reader")
    assert desk.ask(reader).json()["error"]["code"] == "role_not_allowed"
    assert desk.stage.visits.post(
        "/tokenize", json={"model": "m", "prompt": "x"}, headers={"x-api-key": reader}
    ).status_code == 200  # fmt: skip
    _, elsewhere = desk.key("--from", "10.0.0.0/8")
    assert desk.ask(elsewhere).json()["error"]["code"] == "network_not_allowed"
    _, here = desk.key("--from", "10.0.0.0/8", "--from", "127.0.0.0/8")
    assert desk.ask(here).status_code == 200
    _, brief = desk.key("--expires", "1s")
    until(lambda: desk.ask(brief).status_code == 401)
    assert "has expired" in desk.ask(brief).text


def test_revoked_and_rotated_at_every_ingress(desk: Counter) -> None:
    id, key = desk.key()
    assert desk.ask(key).status_code == 200
    new = desk.asked("keys", "rotate", id, "--overlap", "1h")["key"]
    assert {desk.ask(each).status_code for each in (key, new) for _ in range(4)} == {200}
    newest = desk.asked("keys", "rotate", id)["key"]
    until(lambda: all(desk.ask(each).status_code == 401 for each in (key, new) for _ in range(4)))
    assert desk.ask(newest).status_code == 200
    desk.headrace("keys", "revoke", id, "--reason", "test")
    until(lambda: all("has been revoked" in desk.ask(newest).text for _ in range(8)))
    assert desk.asked("keys", "show", id)["keys"][0]["state"] == "revoked"
    assert "revoked" in desk.headrace("keys", "rotate", id, code=1)
    told = [json.loads(line) for line in desk.headrace("audit-log", "--json").splitlines()]
    mine = [(each["verb"], each["result"]) for each in told if each["object"] == id]
    assert mine == [
        ("add-key", "done"), ("rotate-key", "done"), ("rotate-key", "done"), ("revoke-key", "done"),
        ("rotate-key", "refused"),
    ]  # fmt: skip


def test_tenants_do_not_share_prompts(desk: Counter) -> None:
    def root(key: str) -> bytes:
        before = len(desk.stage.player.submits)
        assert desk.ask(key, prompt="a long prompt that fills some blocks").status_code == 200
        return desk.stage.player.submits[before].root

    one, same, other = (desk.key("--project", project)[1] for project in ("acme/a", "acme/a", "acme/b"))
    assert root(one) == root(same) != root(other)
    desk.headrace("projects", "create", "acme/c", "--shares", "organisation")
    desk.headrace("projects", "create", "acme/d", "--shares", "organisation")
    assert root(desk.key("--project", "acme/c")[1]) == root(desk.key("--project", "acme/d")[1]) != root(one)


def test_who_guesses_waits(desk: Counter) -> None:
    """Counted in answers: of twenty wrong keys at once few are answered before a good one is."""
    _, key = desk.key()

    async def guess() -> tuple[int, list[int]]:
        async with httpx.AsyncClient(base_url=desk.stage.url, trust_env=False, timeout=60) as client:
            wrong = [
                asyncio.ensure_future(client.get("/v1/models", headers={"x-api-key": f"sk-k0000000000{n % 10}-x"}))
                for n in range(20)
            ]
            good = (await client.get("/v1/models", headers={"x-api-key": key})).status_code
            early = sum(each.done() for each in wrong)
            return early, [good, *[(await each).status_code for each in wrong]]

    early, statuses = asyncio.run(guess())
    assert statuses == [200, *[401] * 20]
    assert early < 20


async def test_the_official_client_understands(desk: Counter) -> None:
    _, key = desk.key()
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{desk.stage.url}/v1") as client:
        answer = await client.completions.create(model="m", prompt="x", max_tokens=2)
        assert answer.usage is not None
    async with openai.AsyncOpenAI(api_key="sk-no", base_url=f"{desk.stage.url}/v1") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.completions.create(model="m", prompt="x")


def test_bad_orders_say_what_to_do(desk: Counter) -> None:
    id, _ = desk.key()
    for words, said in {
        ("keys", "create", "x", "--project", "Upper/x"): "ORGANISATION/PROJECT",
        ("keys", "create", "x", "--from", "10.0.0.300"): "is no network",
        ("keys", "revoke", "k00000000000"): "headrace keys list",
        ("keys", "limits", "nobody", "requests=5"): "there is no organisation",
        ("keys", "limits", "nobody"): "headrace projects list",
    }.items():
        assert said in desk.headrace(*words, code=1), words
    for words, said in {
        ("keys", "limits", id, "request=5"): "with NAME one of requests, input_tokens",
        ("keys", "limits", id, "requests=0"): "at least 1",
        ("keys", "budget", id, "0"): "not an amount",
        ("keys", "budget", id, "5", "--per", "fortnight"): "30d",
        ("keys", "revoke", "sk-x"): "no key id",
    }.items():
        assert said in desk.headrace(*words, code=2), words


def test_the_same_at_the_other_door(desk: Counter) -> None:
    """Over ZeroMQ: the same keys, limits and refusals."""
    id, key = desk.key()
    desk.headrace("keys", "limits", id, "requests=1", "--window", "24h")
    with headrace_client.Client(run=desk.stage.run, api_key=key) as client:
        assert client.complete("x", model="m", max_tokens=2).text
        with pytest.raises(headrace_client.Overloaded):
            client.complete("x", model="m", max_tokens=2)
    with headrace_client.Client(run=desk.stage.run) as stranger:
        assert stranger.ready()
        with pytest.raises(headrace_client.Unauthorized) as refused:
            stranger.models()
        assert refused.value.status == 401
