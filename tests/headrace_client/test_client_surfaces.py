"""Responses and messages over ZeroMQ, with the client: whole, streamed, kept, and gone on with at another ingress."""

from __future__ import annotations

import asyncio
import re

import pytest
from api_stage import Stage, answer, until

from headrace_client import AsyncClient, BadRequest, Client, NotFound

pytestmark = pytest.mark.system


def test_responses(stage: Stage) -> None:
    with Client(run=stage.run, timeout=60) as client:
        whole = client.respond("hi", max_output_tokens=20, seed=0)
        assert (whole.text, whole.finish_reason, whole.usage.completion_tokens) == (answer(0, 20), "length", 20)
        assert client.response(whole.id).raw == whole.raw
        more = client.respond("so?", previous_response_id=whole.id, max_output_tokens=1500, seed=0)
        assert more.finish_reason == "stop"
        assert more.usage.prompt_tokens > whole.usage.prompt_tokens
        with client.respond("hi", stream=True, max_output_tokens=20, seed=0, priority=2) as stream:
            assert "".join(piece.text for piece in stream) == answer(0, 20)
            assert stream.usage == whole.usage
        assert client.response(stream.id).text == answer(0, 20)
        client.delete_response(whole.id)
        with pytest.raises(NotFound):
            client.response(whole.id)
        with pytest.raises(BadRequest) as refused:
            client.respond("hi", nonsense=1)
        assert refused.value.param == "nonsense"


def test_responses_in_the_background(stage: Stage) -> None:
    with Client(run=stage.run, timeout=60) as client, Client(run=stage.run, timeout=60) as other:
        queued = client.respond("hi", background=True, max_output_tokens=60, seed=0, priority=5)
        assert queued.raw["status"] == "queued"
        assert "".join(piece.text for piece in other.follow(queued.id)) == answer(0, 60)
        long = client.respond("hi", background=True, max_output_tokens=2000, seed=0, priority=20)
        first = next(iter(other.follow(long.id)))
        cancelled = other.cancel_response(long.id)
        assert cancelled.raw["status"] == "cancelled"
        assert cancelled.text.startswith(first.text)


def test_messages(stage: Stage) -> None:
    with Client(run=stage.run, timeout=60) as client:
        whole = client.message("hi", max_tokens=40, seed=0, stop_sequences=["😀"])
        assert (whole.text, whole.finish_reason) == ("Hello, wörld ", "stop")
        assert whole.choices[0].stop_reason == "😀"
        assert client.count_tokens("hi") == whole.usage.prompt_tokens
        with client.message("hi", max_tokens=40, seed=0, stop_sequences=["😀"], stream=True) as stream:
            assert "".join(piece.text for piece in stream) == whole.text
            assert stream.usage == whole.usage


@pytest.mark.parametrize("surface", ["respond", "message"])
def test_a_stream_goes_on_at_another_ingress_when_its_own_dies(stage: Stage, surface: str) -> None:
    async def main() -> str:
        async with AsyncClient(run=stage.run, timeout=60) as client:
            limit = {"max_output_tokens": 60} if surface == "respond" else {"max_tokens": 60}
            stream = await getattr(client, surface)("hi", stream=True, seed=0, priority=15, **limit)
            text = ""
            async for piece in stream:
                text += piece.text
                if len(text) == 10:
                    found = re.search(r"ingress@(\d+)", client._last_address)
                    assert found is not None
                    index = int(found[1])
                    stage.processes[index].kill()
                    stage.processes[index].wait()
                    stage.processes[index] = stage.start(index)
            return text

    assert asyncio.run(main()) == answer(0, 60)
    until(lambda: all(process.poll() is None for process in stage.processes))
