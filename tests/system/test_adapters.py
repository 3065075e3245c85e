"""Adapters of a real model behind real processes: a request has its own adapter's tokens in any company, whoever dies,
and those that are bad are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from lora_files import made
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

BODY: dict[str, Any] = {"prompt": "Once upon a time there was", "temperature": 0, "max_tokens": 40, "ignore_eos": True,
                        "return_token_ids": True}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "three"), start=1):
        made(path / name, seed, rank=5 * seed)
    return path


@pytest.fixture(scope="module")
def stack(directory: Path) -> Iterator[Stack]:
    model = SMOLLM2.replace('dtype = "float32"\n', "")
    model += f'[model.lora]\nresident = 2\ndirectory = "{directory}"\n'
    for name in ("one", "two"):
        model += f'[[model.adapter]]\nname = "{name}"\nsource = "path:{directory / name}"\n'
    with running(model, ingresses=2) as stack:
        until(lambda: stack.replicas_ready() == 1, 60, "a replica")
        yield stack


def tokens(stack: Stack, model: str, **more: Any) -> list[int]:
    reply = httpx.post(f"{stack.url}/v1/completions", json={**BODY, "model": model, **more}, timeout=120)
    assert reply.status_code == 200, reply.text
    found: list[int] = reply.json()["choices"][0]["token_ids"]
    return found


def streamed(stack: Stack, model: str, heard: list[int], **more: Any) -> list[int]:
    """The same as a stream; `heard` grows with it."""
    body = {**BODY, "model": model, "stream": True, **more}
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                heard += event["choices"][0].get("token_ids") or []
    return heard


@pytest.fixture(scope="module")
def alone(stack: Stack) -> dict[str, list[int]]:
    """What each answers with nobody else in the batch."""
    found = {name: tokens(stack, name) for name in ("smollm2", "one", "two")}
    assert len({tuple(each) for each in found.values()}) == 3, "adapters change nothing"
    return found


def test_two_adapters_and_the_base_in_one_batch_answer_as_alone(stack: Stack, alone: dict[str, list[int]]) -> None:
    names = ["one", "smollm2", "two", "one", "smollm2", "two"]
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda name: tokens(stack, name, cache_salt=name), names))
    assert found == [alone[name] for name in names]
    cards = {card["id"]: card for card in httpx.get(f"{stack.url}/v1/models").json()["data"]}
    assert {name: card.get("parent") for name, card in cards.items()} == {
        "smollm2": None, "one": "smollm2", "two": "smollm2",
    }  # fmt: skip


@pytest.mark.parametrize(  # `test_matrix` kills schedulers, with a smaller model
    "victim", ["worker@smollm2.0.0", pytest.param("scheduler@smollm2", marks=pytest.mark.slow)]
)
def test_a_death_in_the_middle_changes_no_token(stack: Stack, alone: dict[str, list[int]], victim: str) -> None:
    names = ["one", "two", "smollm2"]
    heard: dict[str, list[int]] = {name: [] for name in names}
    with ThreadPoolExecutor(len(names)) as pool:
        running_: list[Future[list[int]]] = [
            pool.submit(streamed, stack, name, heard[name], cache_salt=victim) for name in names
        ]
        until(lambda: all(len(each) > 3 for each in heard.values()), 60, "streams")
        stack.kill(victim)
        found = [each.result() for each in running_]
    assert found == [alone[name] for name in names]
    until(lambda: stack.replicas_ready() == 1, 60, "a replica")


def test_loading_at_run_time_and_what_is_refused(stack: Stack, alone: dict[str, list[int]], directory: Path) -> None:
    def post(what: str, **body: str) -> httpx.Response:
        return httpx.post(f"{stack.url}/v1/{what}_lora_adapter", json=body, timeout=60)

    assert post("load", lora_name="three", lora_path="three").json()["parent"] == "smollm2"
    three = tokens(stack, "three")
    assert three not in alone.values()
    assert tokens(stack, "one", cache_salt="again") == alone["one"], "it was evicted, and read again"

    made(directory / "pickled", 4)
    (directory / "pickled" / "adapter_model.safetensors").rename(directory / "pickled" / "adapter_model.bin")
    made(directory / "misfit", 5)
    config = directory / "misfit" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 9'))
    refused = {name: post("load", lora_name=name, lora_path=name) for name in ("pickled", "misfit", "nowhere")}
    assert {name: reply.status_code for name, reply in refused.items()} == dict.fromkeys(refused, 400)
    assert "adapter_model.bin is a pickle" in refused["pickled"].text
    assert "of rank 9 this model has" in refused["misfit"].text
    assert {card["id"] for card in httpx.get(f"{stack.url}/v1/models").json()["data"]} == {
        "smollm2", "one", "two", "three",
    }  # fmt: skip

    assert post("unload", lora_name="three").json() == {"id": "three", "object": "model", "deleted": True}
    gone = httpx.post(f"{stack.url}/v1/completions", json={**BODY, "model": "three"}, timeout=60)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert post("unload", lora_name="three").status_code == 404
    assert post("unload", lora_name="one").status_code == 400
    # An operator's way.
    assert "three is served" in stack.headrace("adapters", "add", "smollm2", "three", str(directory / "three")).stdout
    assert tokens(stack, "three", cache_salt="operator") == three
    listed = json.loads(stack.headrace("adapters", "list", "smollm2", "--json").stdout)
    assert [each["name"] for each in listed] == ["one", "two", "three"]
    shutil.rmtree(directory / "pickled")
