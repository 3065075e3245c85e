"""Routes in real ingresses: cascades, canaries, mirrors, conversations that stay; keys that may not use every model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_stage import Stage, staged, until
from test_upstreams_http import SAID, said
from upstream_stage import Upstream

from bus.shadow import read_pairs

pytestmark = pytest.mark.system

LOGPROBS = 'capabilities = ["logprobs"]'
CASCADE = """
[[route]]
name = "{name}"
fallbacks = ["ok"]
pin_s = 0.0
[route.cascade]
first = "{first}"
then = "ok"
checks = [{checks}]
{more}
"""
ROUTES = """
[[route]]
name = "split"
pin_s = 0.0
[[route.target]]
model = "ok"
weight = 3.0
[[route.target]]
model = "thinks"

[[route]]
name = "mirrored"
mirror = "refuses"
mirror_share = 1.0
[[route.target]]
model = "ok"

[[route]]
name = "stays"
fallbacks = ["ok"]
[[route.target]]
model = "moody"

[[route]]
name = "ruled"
[[route.target]]
model = "ok"
[[route.rule]]
name = "french"
models = ["thinks"]
contains = "(?i)traduis"
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def stage(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tables = "".join(upstream.table(mode, model=LOGPROBS) for mode in ("ok", "sure", "unsure", "refuses", "thinks"))
    tables += upstream.table("slow") + upstream.table("json")
    tables += upstream.table("moody", "failures = 1\nfailures_of = 1\nopen_s = 0.2\nopen_most_s = 0.2")
    for first in ("sure", "unsure"):
        tables += CASCADE.format(name=f"c-{first}", first=first, checks='"margin"', more="margin = 1.0\ntokens = 3")
    tables += CASCADE.format(name="c-refuses", first="refuses", checks='"refusal"', more="")
    tables += CASCADE.format(name="c-json", first="json", checks='"json"', more="")
    schemas = tmp_path_factory.mktemp("schemas")
    for kind in ("integer", "string"):
        file = schemas / f"{kind}.json"
        file.write_text(json.dumps({"required": ["answer"], "properties": {"answer": {"type": kind}}}))
        name, more = f"c-{kind}", f'schema = "{file}"'
        tables += CASCADE.format(name=name, first="json", checks='"schema"', more=more)
    tables += upstream.table("tools", model='capabilities = ["tools"]')
    tables += CASCADE.format(name="c-tools", first="tools", checks='"tool_arguments", "empty"', more="")
    tables += CASCADE.format(name="c-text", first="slow", checks='"json"', more="")
    tables += CASCADE.format(name="c-here", first="m", checks='"margin"', more="margin = 2.0\ntokens = 3")
    with staged(tables=tables + ROUTES) as stage:
        yield stage


def chat(stage: Stage, model: str, text: str = "Say hello.", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{stage.url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize(
    ("route", "target"),
    [
        ("c-sure", "sure"),
        ("c-unsure", "ok"),
        ("c-refuses", "ok"),
        ("c-json", "json"),
        ("c-text", "ok"),
        ("c-integer", "json"),
        ("c-string", "ok"),
    ],
)
def test_a_cascade_shows_what_passes_and_nothing_of_what_does_not(
    stage: Stage, upstream: Upstream, route: str, target: str
) -> None:
    reply = chat(stage, route, stream=True)
    assert reply.headers["x-headrace-target"] == target
    assert said(reply.text) == {"json": '{"answer": 42}'}.get(target, SAID)
    assert 'logprobs":{' not in reply.text  # the caller asked for none
    if route.endswith("sure"):
        assert upstream.calls[route[2:]][-1]["top_logprobs"] == 2


def test_calls_of_tools_pass_where_their_arguments_are_objects(stage: Stage) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    reply = chat(stage, "c-tools", tools=[tool])
    assert len(reply.json()["choices"][0]["message"]["tool_calls"]) == 2, reply.text
    # The second model calls no tools: then there is nothing to fall back on, and nothing is held back.
    assert reply.headers["x-headrace-target"] == "tools"


def test_a_cascade_that_begins_at_home_throws_an_unsure_answer_away(stage: Stage) -> None:
    """The scheduler's part has margins of 1."""
    aborted = len(stage.player.aborts)
    reply = chat(stage, "c-here", stream=True, max_tokens=200)
    assert reply.headers["x-headrace-route"] == "c-here; by=cascaded; attempt=2"
    assert said(reply.text) == SAID
    until(lambda: len(stage.player.aborts) + len(stage.player.finished) > aborted, stage.logs)


def test_parts_of_conversations_are_as_they_are_weighted_and_turns_stay(stage: Stage) -> None:
    got: Counter[str] = Counter()
    for number in range(60):
        target = chat(stage, "split", f"Question {number}").headers["x-headrace-target"]
        got[target] += 1
        turns = [
            {"role": "user", "content": f"Question {number}"}, {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And then?"},
        ]  # fmt: skip
        again = chat(stage, "split", messages=turns)
        assert again.headers["x-headrace-target"] == target
    assert 30 <= got["ok"] <= 58


def test_a_conversation_stays_with_the_fallback_that_took_it(stage: Stage, upstream: Upstream) -> None:
    upstream.mood = "500"
    assert chat(stage, "stays").headers["x-headrace-target"] == "ok"
    upstream.mood = "ok"
    until(lambda: chat(stage, "moody").status_code == 200, stage.logs)  # it is back ...
    assert chat(stage, "stays").headers["x-headrace-target"] == "ok"  # ... and has nothing of this conversation
    assert chat(stage, "stays", "Another one").headers["x-headrace-target"] == "moody"


def test_a_rule_decides(stage: Stage) -> None:
    assert chat(stage, "ruled").headers["x-headrace-target"] == "ok"
    reply = chat(stage, "ruled", "Traduis cette phrase")
    assert reply.headers["x-headrace-route"] == "ruled; by=rule:french; attempt=1"


def test_a_mirror_is_asked_too_and_shows_nothing(stage: Stage, upstream: Upstream) -> None:
    before = len(upstream.calls.get("refuses", ()))
    reply = chat(stage, "mirrored")
    assert reply.json()["choices"][0]["message"]["content"] == SAID
    until(lambda: len(upstream.calls.get("refuses", ())) > before, stage.logs)
    state = Path(stage.run / "s")
    until(lambda: bool(list(read_pairs(state))), stage.logs)
    pair = next(iter(read_pairs(state)))
    assert (pair.served.model, pair.mirror.model) == ("ok", "refuses")
    assert pair.likeness < 0.5
    assert pair.served.cost_nano == 9 * 1000 + 8 * 2000  # one and two a million tokens, in billionths
    written = b"".join(path.read_bytes() for path in (state / "router").iterdir())
    assert b"hello" not in written.lower()
