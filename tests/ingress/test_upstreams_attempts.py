"""An attempt at an upstream, however it ends: one row in the ledger, and its place is free again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from upstream_stage import Upstream

from bus.config.upstreams import UpstreamConfig, UpstreamModelConfig
from bus.telemetry import Telemetry
from ingress.accounts import NoLedger, Used
from ingress.api.jobs import Caller
from ingress.api.validate import chat_request
from ingress.errors import ApiError
from ingress.metering import Meter, NoMeter
from ingress.streams import BUDGET
from ingress.upstreams.upstreams import Upstreams

ENDS = {
    "ok": ("stop", 9, 8), "500": ("error", 0, 0), "429": ("error", 0, 0), "hangs-up": ("error", 0, 0),
    "silent": ("error", 0, 0), "garbage-first": ("error", 0, 0), "400": ("error", 0, 0),
    "cuts": ("error", 3, 2), "stalls": ("error", 3, 2), "no-usage": ("stop", 3, 5), "lies": ("stop", 3, 5),
}  # fmt: skip
CHAT = chat_request(b'{"model": "far", "messages": [{"role": "user", "content": "Say hello."}]}')
CALLER = Caller("org/project", "", 1, key="k")


class Rows(NoLedger):
    """A ledger that is read."""

    def __init__(self) -> None:
        self.rows: list[Used] = []

    def ended(self, used: Used) -> None:
        self.rows.append(used)


class Host:
    """What an engine lends."""

    models: dict[str, Any] = {}  # noqa: RUF012
    lent: dict[int, Any]

    def __init__(self) -> None:
        self.lent = {}

    def lend(self, request: int, give_back: Any) -> None:
        self.lent[request] = give_back

    def unlend(self, request: int) -> None:
        self.lent.pop(request, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


class Budget(NoMeter):
    """Has so many tokens, 50 at a time."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[int] = []

    def look_at(self, request: int) -> int | None:  # noqa: ARG002
        return 50

    def may_go_on(self, request: int, drawn: int) -> int | None:  # noqa: ARG002
        self.asked.append(drawn)
        return drawn + 50 if drawn < self.tokens else None


def upstreams(server: Upstream, mode: str, meter: Meter | None = None) -> tuple[Upstreams, Rows, Host]:
    config = UpstreamConfig(
        name="there", base_url=server.url(mode), first_token_s=1.0, between_tokens_s=0.5, max_in_flight=1,
        failures=100, failures_of=100, model=(UpstreamModelConfig(name="far"),),
    )  # fmt: skip
    rows, host = Rows(), Host()
    return Upstreams((config,), host, rows, Telemetry(), meter), rows, host  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ENDS)
async def test_an_attempt_is_one_row_however_it_ends(server: Upstream, mode: str) -> None:
    far, rows, host = upstreams(server, mode)
    model = far.models["far"]
    plan = await far.plan(CHAT, model, CALLER)
    try:
        stream = await far.answer(plan.jobs[0], CHAT, model)
        async for _ in stream:
            pass
    except ApiError:
        pass
    (row,) = rows.rows
    assert (row.outcome, row.prompt_tokens, row.generated_tokens) == ENDS[mode]
    assert (row.request, row.whose.model, row.whose.key) == (plan.jobs[0].request, "far", "k")
    await asyncio.sleep(0)
    assert (model.door.in_flight, far.open, host.lent) == (0, 0, {})
    await model.door.close()


async def test_who_leaves_pays_for_what_was_said(server: Upstream) -> None:
    far, rows, host = upstreams(server, "slow")
    model = far.models["far"]
    (job,) = (await far.plan(CHAT, model, CALLER)).jobs
    stream = await far.answer(job, CHAT, model)
    with pytest.raises(ApiError) as full:
        await far.answer(job, CHAT, model)
    assert full.value.code == "upstream_busy"
    assert host.lent[job.request]()
    assert [piece.finish.reason async for piece in stream if piece.finish] == ["abort"]
    (row,) = rows.rows
    assert row.outcome == "client"
    assert 0 < row.generated_tokens < 8
    await asyncio.sleep(0.01)
    assert (model.door.in_flight, far.open, host.lent) == (0, 0, {})
    await model.door.close()


async def test_an_answer_ends_where_its_budget_does(server: Upstream) -> None:
    budget = Budget(200)
    far, rows, host = upstreams(server, "endless", budget)
    model = far.models["far"]
    (job,) = (await far.plan(CHAT, model, CALLER)).jobs
    pieces = [piece async for piece in await far.answer(job, CHAT, model)]
    finish = pieces[-1].finish
    assert finish is not None
    assert (finish.reason, finish.stop_reason) == ("length", BUDGET)
    assert len(budget.asked) == 4
    (row,) = rows.rows
    assert row.outcome == "length"
    assert row.generated_tokens == finish.usage.completion_tokens
    assert 200 <= row.generated_tokens <= 210, "four bytes a token, and no more than what came at once"
    await asyncio.sleep(0.1)
    assert (model.door.in_flight, far.open, host.lent, server.gone["endless"]) == (0, 0, {}, 1)
    await model.door.close()


async def test_who_leaves_at_once_takes_no_place(server: Upstream) -> None:
    far, _, host = upstreams(server, "silent")
    model = far.models["far"]
    (job,) = (await far.plan(CHAT, model, CALLER)).jobs
    for turns in range(6):
        asking = asyncio.ensure_future(far.answer(job, CHAT, model))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.01)
        assert (model.door.in_flight, far.open, host.lent) == (0, 0, {})
    await model.door.close()
