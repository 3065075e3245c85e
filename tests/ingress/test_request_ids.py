"""Every answer of every route says what it is known by, also where it is an error; what clients call it is heard."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, staged

from ingress.api.routes import ROUTES, Route

pytestmark = pytest.mark.system

NAME = re.compile(r"(req_|chatcmpl-|cmpl-|resp_|msg_|embd-|rerank-)[0-9a-f]{16}")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": (CHAT, "chatcmpl-"),
    "/v1/completions": ({"model": "m", "prompt": "hi", "max_tokens": 3}, "cmpl-"),
    "/v1/responses": ({"model": "m", "input": "hi", "max_output_tokens": 16}, "resp_"),
    "/v1/messages": (CHAT, "msg_"),
    "/v1/messages/count_tokens": ({"model": "m", "messages": CHAT["messages"]}, "req_"),
    "/tokenize": ({"model": "m", "prompt": "hi"}, "req_"),
    "/detokenize": ({"model": "m", "tokens": [72]}, "req_"),
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(tables="[batch]\nenabled = false\n") as stage:  # its process is not here
        yield stage


def ask(stage: Stage, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    content = json.dumps(body) if body is not None else None
    return httpx.request(
        method, stage.url + path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()},
        timeout=60,
    )  # fmt: skip


def named(reply: httpx.Response) -> str:
    name = reply.headers["x-request-id"]
    assert NAME.fullmatch(name), name
    assert len(reply.headers.get_list("x-request-id")) == 1
    assert reply.headers.get("request-id") == (name if reply.request.url.path.startswith("/v1/messages") else None)
    return name


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_names_its_answers_and_its_errors(stage: Stage, route: Route) -> None:
    path = re.sub(r"{\w+}", "m", route.path)
    body, prefix = GOOD.get(route.path, ({}, "req_"))
    names = set()
    if route.method == "POST":
        good = ask(stage, "POST", path, body)
        assert (good.status_code == 200) == (route.path in GOOD), good.text
        name = named(good)
        assert name.startswith(prefix)
        if prefix != "req_":
            assert good.json()["id"] == name
        names.add(name)
        for wrong in ([], {"model": "m", "no_such_parameter": 1}, {**body, "model": "none"}):
            names.add(named(bad := ask(stage, "POST", path, wrong)))
            assert bad.status_code in (400, 404, 415)  # 415: files come as forms
            assert NAME.fullmatch(bad.headers["x-request-id"])[1] == "req_"  # type: ignore[index]
            if path.startswith("/v1/messages"):
                assert bad.json()["request_id"] == bad.headers["x-request-id"]
        assert len(names) == 4
    else:
        names.add(named(ask(stage, route.method, path)))
    names.add(named(refused := ask(stage, "PATCH", path)))
    assert refused.status_code == 405
    assert named(ask(stage, "HEAD", path)) not in names


def test_errors_before_any_route_have_one_too(stage: Stage) -> None:
    assert named(ask(stage, "GET", "/no/such/path"))
    too_large = ask(stage, "POST", "/v1/completions", {"model": "m", "prompt": "x" * (33 << 20)})
    assert (too_large.status_code, bool(named(too_large))) == (413, True)
    flood = ask(stage, "GET", "/health", None, **{f"x-{n}": "y" for n in range(120)})
    assert (flood.status_code, bool(named(flood))) == (431, True)
    host, port = stage.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert re.search(rb"^HTTP/1.1 400 .*\r\nx-request-id: req_[0-9a-f]{16}\r\n", raw.recv(4096), re.DOTALL)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_an_answer_has_its_first_requests_number_streamed_or_not(stage: Stage, path: str) -> None:
    body, prefix = GOOD[path]
    for more in ({}, {"stream": True}):
        name = named(ask(stage, "POST", path, {**body, **more}))
        assert name == f"{prefix}{stage.player.submits[-1].request:016x}"
    resumed = named(reply := ask(stage, "GET", f"/v1/streams/{name}"))
    assert (resumed, reply.status_code) == (name, 200)


def test_a_call_that_is_refused_has_the_number_under_which_it_was_asked_for(stage: Stage) -> None:
    from bus.messages.requests import Refused

    stage.player.refusal = Refused(0, "overloaded", "full", 1.0)
    try:
        refused = ask(stage, "POST", "/v1/completions", GOOD["/v1/completions"][0])
    finally:
        stage.player.refusal = None
    assert refused.status_code == 429
    assert named(refused) == f"req_{stage.player.refused[-1]:016x}"


def test_the_same_call_again_has_the_same_name(stage: Stage) -> None:
    body = GOOD["/v1/completions"][0]
    names = {named(ask(stage, "POST", "/v1/completions", body, idempotency_key="k1")) for _ in range(2)}
    assert len(names) == 1


def test_whether_an_answer_outlives_its_client_is_said_in_one_way(stage: Stage) -> None:
    for right in ("true", "false", "True", "1", "0", "yes", "?0"):
        assert httpx.get(f"{stage.url}/v1/models", headers={"X-Resumable": right}).status_code == 200
    for wrong in ("2", "null", "never", ""):
        refused = httpx.get(f"{stage.url}/v1/models", headers={"X-Resumable": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Resumable")


@pytest.mark.parametrize("header", ["X-Client-Request-Id", "X-Request-Id"])
def test_what_a_client_calls_it_comes_back_and_must_be_a_name(stage: Stage, header: str) -> None:
    ours = ask(stage, "GET", "/v1/models", None, **{header: "client-7/a"})
    assert ours.headers["x-client-request-id"] == "client-7/a"
    assert named(ours) != "client-7/a"
    for wrong in ("a b", "x" * 513, "caf\xe9"):
        refused = httpx.get(f"{stage.url}/v1/models", headers={header: wrong.encode("latin-1")})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, header)
        assert "x-client-request-id" not in refused.headers
        assert named(refused)
    assert "x-client-request-id" not in ask(stage, "GET", "/v1/models").headers
    both = ask(stage, "GET", "/v1/models", None, **{"X-Client-Request-Id": "mine", "X-Request-Id": "proxy"})
    assert both.headers["x-client-request-id"] == "mine"
