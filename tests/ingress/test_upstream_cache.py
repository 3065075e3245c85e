"""Answers of another server that are kept because the configuration says so: once asked for, rendered as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, staged, until
from test_upstreams_http import SAID, said
from upstream_stage import Upstream

from ingress.cache import entry as entries
from ingress.cache.store import Store
from ingress.records import Opening, frame
from ingress.streams import Finish, Piece, Usage

pytestmark = pytest.mark.system

KEPT = "cache = true"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def stage(upstream: Upstream) -> Iterator[Stage]:
    tables = "".join(upstream.table(mode, model=KEPT) for mode in ("ok", "slow", "thinks", "lies", "no-usage"))
    tables += upstream.table("ok", name="plain") + upstream.table("cuts", model=f'{KEPT}\ncontinue_with = "m"')
    with staged(settings="resume_grace_s = 600.0", tables=tables) as stage:
        yield stage
        assert "Traceback" not in stage.logs()


def chat(stage: Stage, model: str, text: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}
    reply = httpx.post(f"{stage.url}/v1/chat/completions", json=body, timeout=60, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def calls(upstream: Upstream, mode: str) -> int:
    return len(upstream.calls.get(mode, ()))


def test_what_is_kept_is_served_on_every_surface_as_it_was(stage: Stage, upstream: Upstream) -> None:
    first = chat(stage, "ok", "a")
    before = calls(upstream, "ok")
    again = chat(stage, "ok", "a")
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "exact")
    assert again.headers["x-headrace-target"] == "ok"
    assert again.json()["choices"] == first.json()["choices"]
    usage = again.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] == 9
    assert usage["completion_tokens"] == first.json()["usage"]["completion_tokens"]
    streamed = chat(stage, "ok", "a", stream=True)
    assert (streamed.headers["x-cache"], said(streamed.text)) == ("exact", SAID)
    body = {"model": "ok", "messages": [{"role": "user", "content": "a"}], "max_tokens": 99, "temperature": 0}
    for _ in range(2):  # another limit is another call
        message = httpx.post(f"{stage.url}/v1/messages", json=body, timeout=60)
        assert message.json()["content"][0]["text"] == SAID
    assert calls(upstream, "ok") == before + 1


def test_a_thought_is_kept_as_a_thought(stage: Stage, upstream: Upstream) -> None:
    first, again = chat(stage, "thinks", "t"), chat(stage, "thinks", "t")
    assert again.headers["x-cache"] == "exact"
    assert again.json()["choices"] == first.json()["choices"]
    assert again.json()["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert calls(upstream, "thinks") == 1


@pytest.mark.parametrize(
    ("more", "header"),
    [
        ({"temperature": 0.5}, "bypass"), ({"n": 2}, "bypass"), ({"headers": {"cache-control": "no-store"}}, "bypass"),
        ({"headers": {"cache-control": "no-cache"}}, "miss"), ({"max_tokens": 50}, "miss"), ({"stop": ["x"]}, "miss"),
        ({"cache_salt": "pepper"}, "miss"),
    ],
)  # fmt: skip
def test_another_call_is_asked_for(stage: Stage, upstream: Upstream, more: dict[str, Any], header: str) -> None:
    chat(stage, "ok", "b")
    before = calls(upstream, "ok")
    assert chat(stage, "ok", "b", **more).headers["x-cache"] == header
    assert calls(upstream, "ok") > before


def test_without_it_nothing_is_kept_or_told(stage: Stage, upstream: Upstream) -> None:
    before = calls(upstream, "ok")
    for _ in range(2):
        assert "x-cache" not in chat(stage, "plain", "a").headers
    assert calls(upstream, "ok") == before + 2


@pytest.mark.parametrize("mode", ["lies", "no-usage", "cuts"])
def test_what_nobody_has_counted_and_what_was_gone_on_with_is_not_kept(
    stage: Stage, upstream: Upstream, mode: str
) -> None:
    for _ in range(2):
        before = calls(upstream, mode)
        assert chat(stage, mode, "c").headers["x-cache"] == "miss"
        assert calls(upstream, mode) > before


def test_a_kept_answer_is_told_when_its_ingress_dies(stage: Stage, upstream: Upstream) -> None:
    """Its journal, as a death before the first event leaves it: the upstream is not asked for what is there."""
    pieces = [Piece("Hello, "), Piece("again", finish=Finish("stop", Usage(9, 8)))]
    stored = entries.encode(entries.make(pieces, pieces[-1].finish, None))  # type: ignore[arg-type]
    call = {"model": "ok", "messages": [{"role": "user", "content": "d"}], "temperature": 0, "stream": True}
    name = "chatcmpl-0000000000000005"
    opening = Opening(
        "chat.completions", json.dumps(call).encode(), "", "", 1, name, 2, None, (5,), (b"",), 0, cached=stored
    )
    left = stage.run / "streams" / "ingress@7.1"
    left.mkdir(parents=True)
    before = calls(upstream, "ok")
    (left / name).write_bytes(frame(opening))
    reply = stage.visits.get(f"/v1/streams/{name}")
    assert reply.status_code == 200
    assert said(reply.text) == "Hello, again"
    assert calls(upstream, "ok") == before


def test_these_entries_too_are_flushed(stage: Stage, upstream: Upstream) -> None:
    chat(stage, "ok", "e")
    assert chat(stage, "ok", "e").headers["x-cache"] == "exact"
    before = calls(upstream, "ok")
    store = Store(stage.run / "cache", 1 << 20)  # as `headrace cache flush` does it
    store.flush("default")
    store.close()
    until(lambda: chat(stage, "ok", "e").headers["x-cache"] == "miss", stage.logs)
    assert calls(upstream, "ok") > before
