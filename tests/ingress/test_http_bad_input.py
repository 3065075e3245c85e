"""Everything a stranger can send: a clear error each time, nobody else disturbed, nothing leaked."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from api_stage import CONTEXT, Stage, answer, staged, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import VOCABULARY

from bus.messages.requests import Refused

pytestmark = pytest.mark.system

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(settings='max_body = "1MiB"\nmax_streams = 4') as stage:
        yield stage


@pytest.fixture(autouse=True)
def others_are_served_all_the_while(stage: Stage) -> Iterator[None]:
    """After every test the server still answers, and nothing is open."""
    yield
    reply = post(stage, {"model": "m", "messages": ASK, "seed": 0, "max_tokens": 4})
    assert reply.json()["choices"][0]["message"]["content"] == answer(0, 4)


def error(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    detail: dict[str, Any] = reply.json()["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    assert detail["message"]
    return detail


def post(stage: Stage, body: Any, path: str = CHAT) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return stage.visits.post(path, content=content)


def raw(stage: Stage, data: bytes) -> bytes:
    """Send bytes, read until the server closes."""
    with socket.create_connection(("127.0.0.1", stage.port), timeout=30) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server had read enough
            connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
        return received


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"model": "m", "messages": [}', b"\x00"])
def test_malformed_json(stage: Stage, body: bytes) -> None:
    assert error(post(stage, body), 400)["code"] == "invalid_json"


def test_invalid_utf8(stage: Stage) -> None:
    assert error(post(stage, b'{"model":"\xff"}'), 400)["code"] == "invalid_utf8"


def test_lone_surrogates(stage: Stage) -> None:
    error(post(stage, b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'), 400)


def test_wrong_types_name_the_parameter(stage: Stage) -> None:
    assert error(post(stage, {"model": "m", "messages": ASK, "temperature": "hot"}), 400)["param"] == "temperature"


def test_unknown_parameters_are_named(stage: Stage) -> None:
    detail = error(post(stage, {"model": "m", "messages": ASK, "temprature": 1}), 400)
    assert (detail["param"], detail["code"]) == ("temprature", "unknown_parameter")


def test_unknown_model(stage: Stage) -> None:
    detail = error(post(stage, {"model": "gpt-9", "messages": ASK}), 404)
    assert (detail["param"], detail["code"]) == ("model", "model_not_found")


def test_a_prompt_longer_than_the_context(stage: Stage) -> None:
    detail = error(post(stage, {"model": "m", "prompt": "xy" * CONTEXT}, "/v1/completions"), 400)
    assert detail["code"] == "context_length_exceeded"
    assert str(CONTEXT) in detail["message"]


def test_a_prompt_longer_than_any_context_is_not_even_tokenised(stage: Stage) -> None:
    assert error(post(stage, {"model": "m", "prompt": "x" * 900_000}, "/v1/completions"), 400)["code"] == (
        "context_length_exceeded"
    )


def test_max_tokens_that_cannot_fit(stage: Stage) -> None:
    detail = error(post(stage, {"model": "m", "messages": ASK, "max_tokens": CONTEXT}), 400)
    assert (detail["param"], detail["code"]) == ("max_tokens", "context_length_exceeded")


@pytest.mark.parametrize("ids", [[VOCABULARY], [0, 2**31], [-1], [2**32], [2**70], [1.5], ["1", 2]])
def test_invalid_token_ids(stage: Stage, ids: list[Any]) -> None:
    assert str(error(post(stage, {"model": "m", "prompt": ids}, "/v1/completions"), 400)["param"]).startswith("prompt")
    error(post(stage, {"model": "m", "tokens": ids}, "/detokenize"), 400)


def test_invalid_ids_elsewhere(stage: Stage) -> None:
    for changes in ({"logit_bias": {str(VOCABULARY): 1}}, {"stop_token_ids": [VOCABULARY]}):
        assert error(post(stage, {"model": "m", "messages": ASK, **changes}), 400)["param"] in changes


@pytest.mark.parametrize("depth", [600, 950, 5_000, 100_000])
def test_nested_deeper_than_anything_that_is_meant(stage: Stage, depth: int) -> None:
    """Wherever anything may stand: never a fault of the server."""
    deep = "[" * depth + "]" * depth
    turn = '{"role":"user","content":"x"}'
    call = f'{{"id":"x","function":{{"name":"f","arguments":{json.dumps(deep)}}}}}'
    used = f'{{"role":"assistant","content":[{{"type":"tool_use","id":"a","name":"b","input":{{"a":{deep}}}}}]}}'
    for path, body in (
        (CHAT, f'{{"model":"m","messages":[{turn}],"chat_template_kwargs":{{"a":{deep}}}}}'),
        (CHAT, f'{{"model":"m","messages":[{{"role":"assistant","tool_calls":[{call}]}},{turn}]}}'),
        (CHAT, f'{{"model":"m","messages":[{turn}],"response_format":{deep}}}'),
        ("/v1/responses", f'{{"model":"m","input":[{deep}]}}'),
        ("/v1/responses", f'{{"model":"m","input":[{turn}],"nonsense":{deep}}}'),
        ("/v1/messages", f'{{"model":"m","max_tokens":1,"messages":[{used},{turn}]}}'),
    ):  # fmt: skip
        reply = post(stage, body.encode(), path)
        assert reply.status_code == 400, (path, reply.text)


def test_a_template_that_cannot_render(stage: Stage) -> None:
    tool = {"role": "assistant", "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]}  # fmt: skip
    assert error(post(stage, {"model": "m", "messages": [*ASK, tool]}), 400)["param"] == (
        "messages[1].tool_calls[0].function.arguments"
    )


def test_no_such_path_and_wrong_method(stage: Stage) -> None:
    assert error(stage.visits.get("/v2/x"), 404)["code"] == "unknown_url"
    reply = stage.visits.get(CHAT)
    assert error(reply, 405)["code"] == "method_not_allowed"
    assert reply.headers["allow"] == "POST"
    error(stage.visits.delete("/v1/models"), 405)
    assert stage.visits.head("/health").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"])
def test_content_types_do_not_matter(stage: Stage, kind: str) -> None:
    body = json.dumps({"model": "m", "messages": ASK, "max_tokens": 2})
    assert stage.visits.post(CHAT, content=body, headers={"content-type": kind}).status_code == 200


def memory(stage: Stage) -> int:
    return int(psutil.Process(stage.processes[0].pid).memory_info().rss)


def test_a_body_of_100_megabytes_that_says_so(stage: Stage) -> None:
    before = memory(stage)
    with httpx.Client(base_url=stage.url, timeout=60) as client:
        assert error(client.post(CHAT, content=b"x" * (100 << 20)), 413)["code"] == "request_too_large"
    assert memory(stage) - before < 20 << 20


def test_a_body_of_100_megabytes_in_chunks(stage: Stage) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(1600):
            yield b"x" * (64 << 10)

    before = memory(stage)
    with httpx.Client(base_url=stage.url, timeout=60) as client:
        assert error(client.post(CHAT, content=chunks()), 413)["code"] == "request_too_large"
    assert memory(stage) - before < 20 << 20


def test_a_large_body_is_refused_before_it_is_sent(stage: Stage) -> None:
    """A client that asks first (Expect: 100-continue) need not send a byte of it."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\nexpect: 100-continue\r\n\r\n"
    reply = raw(stage, head.encode())
    assert reply.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in reply


def test_a_flood_of_headers(stage: Stage) -> None:
    flood = b"".join(b"x-%d: y\r\n" % index for index in range(200))
    assert raw(stage, b"GET /health HTTP/1.1\r\n" + flood + b"\r\n").startswith(b"HTTP/1.1 431")


def test_one_endless_header(stage: Stage) -> None:
    before = memory(stage)
    reply = raw(stage, b"GET /health HTTP/1.1\r\nx: " + b"y" * (64 << 20))
    assert reply.startswith(b"HTTP/1.1 431") or reply == b""  # the answer may be lost: more was on its way
    assert memory(stage) - before < 20 << 20


def test_endless_headers_without_an_end(stage: Stage) -> None:
    reply = raw(stage, b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 3_000_000)
    assert reply.startswith(b"HTTP/1.1 431") or reply == b""


def test_what_is_no_http(stage: Stage) -> None:
    reply = raw(stage, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert reply.startswith(b"HTTP/1.1 400")
    assert b'"code":"invalid_http"' in reply


def test_a_body_that_is_shorter_than_it_says_disturbs_nobody(stage: Stage) -> None:
    with socket.create_connection(("127.0.0.1", stage.port)) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{{".encode())


def test_requests_in_one_packet_are_answered_in_order(stage: Stage) -> None:
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1}).encode()
    post = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    reply = raw(stage, post + post + last)
    assert reply.count(b"HTTP/1.1 200") == 3
    assert reply.endswith(b'{"status":"alive"}')


def test_a_scheduler_that_refuses(stage: Stage) -> None:
    stage.player.refusal = Refused(0, "overloaded", "The queue is full.", 3.2)
    try:
        reply = post(stage, {"model": "m", "messages": ASK})
        assert error(reply, 429)["code"] == "rate_limit_exceeded"
        assert reply.headers["retry-after"] == "4"
        error(post(stage, {"model": "m", "messages": ASK, "n": 3, "stream": True}), 429)
    finally:
        stage.player.refusal = None


def test_more_streams_than_there_may_be(stage: Stage) -> None:
    """Five choices where four may be open: the four are given back."""
    body = {"model": "m", "messages": ASK, "n": 5, "priority": 5}
    reply = post(stage, body)
    error(reply, 429)
    assert reply.headers["retry-after"]
    assert post(stage, {**body, "n": 4, "max_tokens": 2}).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "n", "stop", "logit_bias", "seed", "logprobs", "stream", "max_tokens", "temperature",
     "model", "stop_token_ids", "chat_template_kwargs", "cache_salt", "min_tokens", "echo", "tokens", "stream_options"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([CHAT, "/v1/completions", "/tokenize", "/detokenize"]),
    changes=st.dictionaries(NAMES, JSON, max_size=4),
)
def test_no_json_body_is_a_server_error(stage: Stage, path: str, changes: dict[str, Any]) -> None:
    """Whatever the values: an answer, or an error that is the client's."""
    start = {"model": "m", "prompt": "x", "max_tokens": 2} if "completions" in path else {"model": "m"}
    if path == CHAT:
        start = {"model": "m", "messages": ASK, "max_tokens": 2}
    assert post(stage, {**start, **changes}, path).status_code in (200, 400, 404, 429)


def test_nothing_is_left_open(stage: Stage) -> None:
    """Last in this file: every request that was begun was finished or aborted."""
    player = stage.player
    until(
        lambda: {submit.request for submit in player.submits} <= {*player.finished, *player.aborts, *player.refused},
        stage.logs,
    )
    time.sleep(0.3)
    connections = psutil.Process(stage.processes[0].pid).net_connections("tcp")
    established = [connection for connection in connections if connection.status == psutil.CONN_ESTABLISHED]
    assert len(established) <= 2
    assert "Traceback" not in stage.logs()
