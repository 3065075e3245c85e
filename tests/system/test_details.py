"""What the detail screens ask, of a stack that serves: each answer is true of what was just done to it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

PROMPT = [1 + (7 * position) % 4000 for position in range(320)]
SLOTS = 2


def complete(stack: Stack, tail: int) -> None:
    body = {"model": "smollm2", "prompt": [*PROMPT, tail], "max_tokens": 24, "ignore_eos": True}
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text


def top(stack: Stack) -> dict[str, Any]:
    """`headrace top --once --json`."""
    answer: dict[str, Any] = json.loads(stack.headrace("top", "--once", "--json").stdout)
    return answer


def hits(said: dict[str, Any]) -> float:
    """Of the hottest prefix; they fade, by a half in five minutes."""
    return max((prefix["prefix"]["hits"] for prefix in said["arena"]["prefixes"]), default=0.0)


def test_every_question_has_a_true_answer() -> None:
    config = SMOLLM2.replace("slots = 16", f"slots = {SLOTS}") + "threads = 1\n"
    with running(config, arena="256MiB", kv='disk = "128MiB"\n') as stack:
        complete(stack, 5)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda tail: complete(stack, tail), range(10, 16)))
        until(lambda: hits(top(stack)) > 4.0, 30, "kv, scheduler and workers have told of all that was done")
        said = top(stack)

        (steps,) = said["steps"]["models"]
        assert steps["model"] == "smollm2"
        assert steps["total"] >= 2 * 24  # all of those in two slots at once, or one after the other
        bounds = {share["bound"]: share for share in steps["bounds"]}
        assert bounds["slots"]["steps"] > 0  # six came to two slots
        assert bounds["token_budget"]["steps"] > 0  # the first prompt is longer than a step
        assert abs(sum(share["time_share"] for share in steps["bounds"]) - 1.0) < 1e-9
        assert {knob["key"]: knob["value"] for knob in steps["knobs"]}["slots"] == SLOTS
        assert [line["step"] for line in steps["lines"]] == sorted(line["step"] for line in steps["lines"])
        assert all(0 < line["rows"] <= SLOTS and line["ran_ns"] > 0 for line in steps["lines"])

        arena = said["arena"]
        (known,) = arena["pools"]
        assert known["model"] == "smollm2"
        states = ("free", "leased", "pinned", "cached", "quarantined", "filling")
        assert known["pool"]["total"] == sum(known["pool"][state] for state in states) > 0
        assert {tier["tier"] for tier in arena["tiers"]} == {"memory", "disk"}
        assert {holder["name"] for holder in arena["holders"]} == {"scheduler@smollm2", "worker@smollm2.0.0"}
        hot = arena["prefixes"][0]["prefix"]
        assert hot["tokens"] == 320  # what all of them begin with
        assert hot["hits"] <= 6.0
        assert len(arena["map"]) == len(arena["map_used"]) > 0

        host = said["host"]
        (worker,) = host["workers"]
        assert (worker["name"], worker["skew_s"]) == ("worker@smollm2.0.0", 0.0)
        assert worker["pid"] == stack.pid("worker@smollm2.0.0")
        running_somewhere = {name for core in host["cores"] for name in core["running"]}
        assert {"kv@host", "metrics@host", "scheduler@smollm2", "worker@smollm2.0.0"} <= running_somewhere

        doors = {(each["owner"], each["door"]["door"]): each["door"] for each in said["bus"]["endpoints"]}
        (peer,) = doors["scheduler@smollm2", "steps"]["peers"]
        assert (peer["name"], peer["pid"]) == ("worker@smollm2.0.0", worker["pid"])
        assert peer["rtt_p50_ns"] > 0
        assert {each["name"] for each in doors["kv@host", "pages"]["peers"]} == {
            "scheduler@smollm2",
            "worker@smollm2.0.0",
        }
        telemetry = doors["metrics@host", "telemetry"]
        assert telemetry["refused"] == []  # everything that anybody publishes is understood

        (model,) = said["sheet"]["models"]
        assert (model["architecture"], model["parameters"]) == ("llama", 134_515_008)
        assert model["shared"]
        assert 60 << 20 < model["weight_bytes"] < 1 << 30
        assert model["workers_ready"] == model["workers"] == 1
        assert model["kv_limit_tokens"] == known["pool"]["capacity"] * 16
        assert sum(line["bytes"] for line in said["sheet"]["sheet"]) == said["sheet"]["memory_bytes"]
        assert {"weights", "arena", "process", "available"} <= {line["kind"] for line in said["sheet"]["sheet"]}
