"""Drain, restart and upgrade under live traffic: nobody's answer is lost, and no token of it changes.

Traffic is streams without end, greedy and seeded, over HTTP and over ZeroMQ; each answer is compared with what the same
request gave before anything was disturbed.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

from headrace_client import Client

pytestmark = [pytest.mark.system, pytest.mark.model]

GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 1234, "repetition_penalty": 1.1}
TOKENS = 24
MANY_TOKENS = 200  # of an answer that is still going on when the next command has started
PROMPTS = ["Once upon a time", "The three laws of robotics are"]
RELEASES = str(Path(__file__).parents[1] / "releases")
ROLES = ["kv@host", "metrics@host", "scheduler@smollm2", "worker@smollm2.1.0", "ingress@1"]

Ask = Callable[..., str]


def over_http(stack: Stack, prompt: str, parameters: dict[str, Any], tokens: int = TOKENS) -> str:
    """The text of one stream; fails on anything but a complete one. Where the connection breaks, it goes on after the
    last event, as a browser does."""
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    text, reasons, event = "", [], ""
    while True:
        begun: dict[str, Any] = {"method": "POST", "url": f"{stack.url}/v1/completions", "json": {**body, **parameters}}
        go_on: dict[str, Any] = {
            "method": "GET", "url": f"{stack.url}/v1/streams/{event.partition(':')[0]}",
            "headers": {"Last-Event-ID": event},
        }  # fmt: skip
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream(**go_on if event else begun, timeout=240) as stream,
        ):
            assert stream.status_code == 200, stream.read()
            for line in stream.iter_lines():
                if line == "data: [DONE]":
                    assert reasons == ["length"]
                    return text
                if line.startswith("id: "):
                    event = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    for choice in json.loads(line.removeprefix("data: "))["choices"]:
                        text += choice["text"]
                        reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
        assert event, "the connection broke before the first event"


def over_zeromq(client: Client, prompt: str, parameters: dict[str, Any], tokens: int = TOKENS) -> str:
    stream = client.complete(prompt, "smollm2", stream=True, max_tokens=tokens, ignore_eos=True, **parameters)
    return "".join(piece.text for piece in stream)


class Traffic:
    """Streams that begin again as soon as they end, until this is left; then each must have ended as it should."""

    def __init__(self, asks: dict[str, Ask], expected: dict[str, str]) -> None:
        self._asks, self._expected = asks, expected
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(name,)) for name in asks]
        self.done = dict.fromkeys(asks, 0)
        self.wrong: list[str] = []

    def _go(self, name: str) -> None:
        while not self._enough.is_set():
            try:
                text = self._asks[name]()
            except Exception as error:
                self.wrong.append(f"{name}: {error!r}")
                return
            if text != self._expected[name]:
                self.wrong.append(f"{name}: {text!r} instead of {self._expected[name]!r}")
            self.done[name] += 1

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(timeout=240)
        if kind is None:
            assert not self.wrong, "\n".join(self.wrong)
            assert all(self.done.values()), self.done


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two replicas behind two ingresses; releases can be told to differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", RELEASES)
        with running(SMOLLM2 + "replicas = 2\n", ingresses=2) as stack:
            yield stack


@pytest.fixture(scope="module")
def asks(stack: Stack) -> Iterator[dict[str, Ask]]:
    with Client(run=stack.run) as client:
        yield {
            "http greedy": partial(over_http, stack, PROMPTS[0], GREEDY),
            "http seeded": partial(over_http, stack, PROMPTS[1], SEEDED),
            "zeromq greedy": partial(over_zeromq, client, PROMPTS[1], GREEDY),
            "zeromq seeded": partial(over_zeromq, client, PROMPTS[0], SEEDED),
        }


@pytest.fixture(scope="module")
def expected(asks: dict[str, Ask]) -> dict[str, str]:
    """What the streams say when nothing is disturbed."""
    return {name: ask() for name, ask in asks.items()}


@pytest.fixture
def traffic(stack: Stack, asks: dict[str, Ask], expected: dict[str, str]) -> Iterator[Traffic]:
    until(lambda: stack.replicas_ready() == 2, 60, "both replicas")
    with Traffic(asks, expected) as traffic:
        until(lambda: stack.status()["models"][0]["running"] >= 2, 60, "work")
        yield traffic


def states(stack: Stack) -> dict[str, str]:
    return {process["name"]: process["state"] for process in stack.status()["processes"]}


@pytest.mark.usefixtures("traffic")
def test_each_is_drained_and_taken_back(stack: Stack) -> None:
    drained = [name for name in ROLES if not name.startswith("scheduler")]
    for name in drained:
        stack.headrace("drain", name)
    assert {name for name, state in states(stack).items() if state == "draining"} == set(drained)
    for name in drained:
        stack.headrace("undrain", name)
    assert set(states(stack).values()) == {"ready"}


def test_a_scheduler_that_drains_finishes_what_it_has_and_takes_nothing_new(
    stack: Stack, asks: dict[str, Ask], expected: dict[str, str]
) -> None:
    answers: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: asks[n](tokens=MANY_TOKENS)}))  # type: ignore[misc]
        for n in asks
    ]
    for thread in threads:
        thread.start()
    # In this order: one that ends in between is in neither, never in both.
    until(lambda: len(answers) + stack.status()["models"][0]["running"] == len(asks), 60, "all are in hand")
    stack.headrace("drain", "scheduler@smollm2")
    for thread in threads:
        thread.join(timeout=120)
    assert answers.keys() == expected.keys()
    assert all(answers[name].startswith(expected[name]) for name in expected), answers
    refused = httpx.post(f"{stack.url}/v1/completions", json={"model": "smollm2", "prompt": "a"}, timeout=60)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    stack.headrace("undrain", "scheduler@smollm2")
    assert asks["http greedy"]() == expected["http greedy"]


@pytest.mark.slow
def test_an_upgrade_restarts_everything_one_after_the_other(stack: Stack, traffic: Traffic) -> None:
    """The next release knows the protocol of this one and another; meanwhile both are at work, side by side."""
    before = {process["name"]: process["pid"] for process in stack.status()["processes"]}
    for name in before:
        (stack.run / f"{name}.release").write_text('{"build": "9.9.9", "protocols": [1, 2]}')
    rolled = stack.headrace("restart", "--all", "--json", timeout=240)
    told = json.loads(rolled.stdout)
    assert [done["name"] for done in told["restarted"]] == [
        "supervisor@host", "kv@host", "metrics@host", "scheduler@smollm2", "worker@smollm2.0.0", "worker@smollm2.1.0",
        "ingress@0", "ingress@1", "batch@host",
    ]  # fmt: skip
    after = stack.status()["processes"]
    assert {process["build"] for process in after} == {"9.9.9"}
    assert {process["name"] for process in after if process["pid"] == before[process["name"]]} == {"supervisor@host"}
    assert not traffic.wrong, traffic.wrong

    for name in before:
        (stack.run / f"{name}.release").unlink()
    stack.headrace("restart", "scheduler@smollm2")
    shown = stack.headrace("status").stdout
    assert "release" in shown, "they differ, so it is shown"
    assert "✖" not in shown


@pytest.mark.usefixtures("traffic")
def test_a_worker_that_is_alone_hands_its_requests_to_its_successor(stack: Stack) -> None:
    stack.headrace("drain", "worker@smollm2.1.0")
    before = stack.pid("worker@smollm2.0.0")
    stack.headrace("restart", "worker@smollm2.0.0")
    assert stack.pid("worker@smollm2.0.0") != before
    stack.headrace("undrain", "worker@smollm2.1.0")
    assert "ended unexpectedly" not in tail(stack, "supervisor@host", 10)
    assert "ending with work in hand" not in tail(stack, "worker@smollm2.0.0", 60)
    assert "replica 0 leaves" in tail(stack, "scheduler@smollm2", 60), "it did not wait for answers to end"


def test_what_a_deadline_would_cut_goes_on_elsewhere(stack: Stack, traffic: Traffic) -> None:
    """A tenth of a second is too short for any answer. kv and metrics have nothing that could be cut."""
    until(lambda: len(streams_of(stack, "ingress@0")) > 0, 60, "a stream that can be cut")
    for name, said, where in [
        ("ingress@0", "streams are left to be taken over", "ingress@0"),
        ("worker@smollm2.0.0", "its deadline is over; its requests go on elsewhere", "supervisor@host"),
        ("scheduler@smollm2", "draining for at most 0 s", "scheduler@smollm2"),
    ]:
        until(lambda: stack.status()["models"][0]["running"] >= 3, 60, "work")
        stack.headrace("restart", name, "--deadline", "0.1")
        assert said in tail(stack, where, 60), f"{name} had nothing to hand on"
        assert "ending with work in hand" not in tail(stack, name, 60), "it was not handed on"
        assert not traffic.wrong, traffic.wrong


@pytest.mark.usefixtures("traffic")
def test_a_signal_drains_and_the_exit_code_is_0(stack: Stack) -> None:
    """SIGTERM from somebody who is not the supervisor."""
    for name in ROLES:
        before = stack.kill(name, signal.SIGTERM)
        until(lambda: stack.pid(name) not in (0, before), 60, f"{name} is back")  # noqa: B023
        until(lambda: states(stack)[name] == "ready", 60, f"{name} is ready")  # noqa: B023
        assert f"{name}: ended unexpectedly: exit code 0" in tail(stack, "supervisor@host", 40)


@pytest.mark.usefixtures("traffic")
def test_a_release_without_a_common_protocol_is_refused_and_disturbs_nobody(stack: Stack) -> None:
    release = stack.run / "metrics@host.release"
    release.write_text(json.dumps({"build": "10.0.0", "protocols": [7, 8]}))
    stack.kill("metrics@host")
    said = "metrics@host (headrace 10.0.0) knows 7 to 8"

    def troubles() -> dict[str, str]:
        return {process["name"]: " ".join(process["troubles"]) for process in stack.status()["processes"]}

    until(lambda: said in troubles()["ingress@0"], 60, "those who want to speak to it say so")
    assert "restart ingress@0 with headrace 10.0.0: headrace restart ingress@0" in troubles()["ingress@0"]
    assert "use headrace 10.0.0 to talk to it" in troubles()["metrics@host"]
    assert "✖ ingress@0: metrics@host refuses us: protocol: no protocol in common" in stack.headrace("status").stdout
    assert said in tail(stack, "ingress@0", 30)
    assert said in tail(stack, "metrics@host", 30)

    other = {**stack.environment, "HEADRACE_TEST_RELEASE": '{"build": "10.0.0", "protocols": [7, 8]}'}
    newer = Stack(stack.url, stack.home, other, stack.config)
    assert "use headrace" in newer.headrace("restart", "--all", check=False).stderr, "the command itself is too new"

    release.unlink()
    stack.headrace("restart", "metrics@host")
    until(lambda: not any(troubles().values()), 60, "it is over")


def test_an_arena_that_a_release_cannot_read_is_said_before_anything_is_restarted(stack: Stack) -> None:
    before = {process["name"]: process["pid"] for process in stack.status()["processes"]}
    release = '{"build": "9.9.9", "protocols": [1, 2], "layout": 9}'
    newer = Stack(stack.url, stack.home, {**stack.environment, "HEADRACE_TEST_RELEASE": release}, stack.config)
    refused = newer.headrace("restart", "--all", check=False)
    assert refused.returncode == 1
    assert "headrace 9.9.9 keeps its arena in layout 9" in refused.stderr
    assert {process["name"]: process["pid"] for process in stack.status()["processes"]} == before


def streams_of(stack: Stack, ingress: str) -> list[Path]:
    """Journals of the streams that an ingress tells."""
    return [path for directory in (stack.run / "streams").glob(f"{ingress}.*") for path in directory.iterdir()]


def tail(stack: Stack, name: str, lines: int) -> str:
    text = (stack.home / "s" / "log" / f"{name}.log").read_text()
    return "\n".join(text.splitlines()[-lines:])
