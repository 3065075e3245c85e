"""What requests that say nothing of sampling are drawn with, on every surface, and still after the ingress changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, staged, until

TABLE = "[model.sampling]\ntemperature = 0.25\ntop_k = 7\n"
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "responses": {"input": "hi", "store": False},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(tables=TABLE) as started:
        yield started


def drawn(stage: Stage, path: str, **said: Any) -> tuple[float, float, int, float]:
    reply = httpx.post(f"{stage.url}/v1/{path}", json={"model": "m", **ASKED[path], **said}, timeout=60)
    assert reply.status_code == 200, reply.text
    if path == "responses":
        assert reply.json()["temperature"] == stage.player.submits[-1].sampling.temperature
    sampling = stage.player.submits[-1].sampling
    return sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p


@pytest.mark.parametrize("path", ASKED)
def test_a_request_that_says_nothing_is_drawn_as_configured(stage: Stage, path: str) -> None:
    assert drawn(stage, path) == (0.25, 1.0, 7, 0.0)


@pytest.mark.parametrize("path", ASKED)
def test_a_request_that_says_something_is_taken_at_its_word(stage: Stage, path: str) -> None:
    assert drawn(stage, path, temperature=0.75) == (0.75, 1.0, 0, 0.0)
    assert drawn(stage, path, top_p=0.5) == (1.0, 0.5, 0, 0.0)


def test_a_stream_that_is_taken_up_goes_on_as_it_began() -> None:
    with staged(settings="resume_grace_s = 60", tables=TABLE) as stage:
        body = {"model": "m", **ASKED["chat/completions"], "stream": True, "seed": 1, "max_tokens": 200, "priority": 30}
        headers = {"X-Resumable": "true"}
        with httpx.stream("POST", f"{stage.url}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
            next(reply.iter_bytes())
            began = stage.player.submits[-1]
            stage.config.write_text(stage.config.read_text().replace("0.25", "0.5").replace("top_k = 7", "top_k = 9"))
            stage.processes[0].kill()
            stage.processes[0].wait()
        stage.processes[0] = stage.start(0)
        stage.wait()
        until(lambda: len(stage.player.submits) > 1, stage.logs)
        again = stage.player.submits[-1]
        assert again.request == began.request
        assert again.sampling == began.sampling
        assert drawn(stage, "completions") == (0.5, 1.0, 9, 0.0)
