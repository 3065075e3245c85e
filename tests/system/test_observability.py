"""Metrics, traces and the ledger of a real stack under load, while its processes are killed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from expressions import named
from otlp import GIVEN, Collector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from stack import SMOLLM2, Stack, running, until

from headrace_client import Client
from metrics.core.instruments import HELP

pytestmark = [pytest.mark.system, pytest.mark.model]

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
SETTINGS = """disk = "256MiB"
[cost]
price_per_hour = 3.6
currency = "EUR"
[traces]
endpoint = "{endpoint}"
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()


@pytest.fixture(scope="module")
def stack(collector: Collector) -> Iterator[Stack]:
    with running(SMOLLM2, ingresses=2, kv=SETTINGS.format(endpoint=collector.endpoint)) as stack:
        yield stack


# --- the ledger ----------------------------------------------------------------------------------------------------


def ask(stack: Stack, number: int) -> dict[str, int]:
    """One request of some kind; the usage that its client is told."""
    body: dict[str, Any] = {
        "model": "smollm2",
        "prompt": f"Item {number}: once upon a time",
        "max_tokens": 12 + number % 9,
    }
    match number % 4:
        case 0:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        case 1:
            body |= {"n": 2, "seed": number}
        case 2:
            body |= {"stop": ["e"]}
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    if "stream" not in body:
        usage: dict[str, Any] = reply.json()["usage"]
    else:
        events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
        usage = json.loads(events[-1])["usage"]
    return {
        "requests": body.get("n", 1),
        "prompt_tokens": usage["prompt_tokens"],
        "generated_tokens": usage["completion_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }


def serving(stack: Stack, dead: list[int]) -> int:
    """Ingresses that are ready, and not those that were killed."""
    ingresses = [process for process in stack.status()["processes"] if process["role"] == "ingress"]
    return sum(process["state"] == "ready" and process["pid"] not in dead for process in ingresses)


def ledger(stack: Stack) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(stack.headrace("usage", "--json", "--since", "1h").stdout)
    return report


def test_the_ledger_has_what_clients_were_told_whoever_is_killed_meanwhile(stack: Stack) -> None:
    before = ledger(stack)["total"]
    told: list[dict[str, int]] = []
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, stack, number) for number in range(60)]
        for _ in range(4):
            done = sum(answer.done() for answer in answers)
            until(lambda least=done + 8: sum(answer.done() for answer in answers) >= min(60, least), 120, "answers")
            killed = stack.kill("metrics@host")
            until(lambda gone=killed: stack.pid("metrics@host") not in (0, gone), 30, "metrics is back")
        told = [answer.result() for answer in answers]

    # What an ingress has not delivered when it dies is delivered by another, or by its successor.
    frozen = stack.kill("metrics@host", signal.SIGSTOP)
    told += [ask(stack, number) for number in range(60, 64)]
    dead = [stack.kill(victim) for victim in ("ingress@0", "ingress@1")]
    os.kill(frozen, signal.SIGCONT)
    until(lambda: serving(stack, dead) == 2, 60, "ingresses are back")

    told.append(ask(stack, 3))  # it goes on
    expected = {key: before[key] + sum(usage[key] for usage in told) for key in told[0]}
    until(lambda: ledger(stack)["total"]["requests"] >= expected["requests"], 60, "the ledger")
    total = ledger(stack)["total"]
    assert {key: total[key] for key in expected} == expected
    assert total["failed"] == 0
    assert total["compute_s"] > total["prefill_s"] > 0


def test_usage_is_told_as_table_json_and_csv(stack: Stack) -> None:
    for number in range(6):
        ask(stack, number)
    until(lambda: ledger(stack)["total"]["requests"] >= 6, 30, "the ledger")
    report = ledger(stack)
    assert report["currency"] == "EUR"
    assert report["host"]["cost"] == pytest.approx(report["host"]["up_s"] / 1000, rel=0.01)
    assert 0 < report["host"]["utilisation"] <= 1
    assert report["total"]["cost"] + report["host"]["idle_cost"] == pytest.approx(report["host"]["cost"], rel=0.01)
    table = stack.headrace("usage").stdout
    assert "smollm2" in table
    assert "went into no request" in table
    rows = list(csv.DictReader(io.StringIO(stack.headrace("usage", "--by", "request", "--limit", "5", "--csv").stdout)))
    assert len(rows) == 5
    assert {row["model"] for row in rows} == {"smollm2"}
    assert stack.headrace("usage", "--since", "yesterday", check=False).returncode == 2


# --- the exposition ------------------------------------------------------------------------------------------------


def scrape(stack: Stack, accept: str) -> str:
    reply = httpx.get(f"{stack.url}/metrics", headers={"accept": accept}, timeout=30)
    assert reply.status_code == 200
    kind = reply.headers["content-type"]
    assert kind.startswith("application/openmetrics-text" if "openmetrics" in accept else "text/plain; version=0.0.4")
    return reply.text


def families(stack: Stack) -> list[Any]:
    ask(stack, 0)
    time.sleep(2)  # samples are told twice a second
    return list(openmetrics_families(scrape(stack, OPENMETRICS)))


def test_both_formats_are_what_they_say_they_are_and_latencies_lead_to_requests(stack: Stack) -> None:
    found = {family.name: family for family in families(stack)}
    assert {family.name for family in text_string_to_metric_families(scrape(stack, "*/*"))} >= found.keys()
    exemplars = [
        sample.exemplar.labels["request_id"]
        for sample in found["gen_ai_server_time_to_first_token_seconds"].samples
        if sample.exemplar
    ]
    known = {row["group"] for row in json.loads(stack.headrace("usage", "--by", "request", "--json").stdout)["rows"]}
    assert exemplars
    assert known.issuperset(exemplars)


def test_names_follow_the_conventions(stack: Stack) -> None:
    for family in families(stack):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert family.name.startswith(("headrace_", "gen_ai_server_"))
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|millis|milliseconds|us|kb|mb|gb|percent|counter|gauge|histogram)(_|$)", family.name)
        if family.unit:
            assert family.name.endswith(f"_{family.unit}")
        if family.name.endswith(("_count", "_sum", "_bucket", "_total")):
            raise AssertionError(f"{family.name} has the suffix of another type")


def test_histograms_of_one_name_have_one_set_of_bounds(stack: Stack) -> None:
    for family in families(stack):
        bounds: dict[str, list[str]] = defaultdict(list)
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                bounds[sample.labels["instance"]].append(sample.labels["le"])
        assert len({tuple(sorted(set(each))) for each in bounds.values()}) <= 1, family.name


def test_dashboard_and_rules_name_only_what_is_there(stack: Stack) -> None:
    there = {sample.name for family in families(stack) for sample in family.samples}
    declared = {"headrace_mbu_ratio", "headrace_mfu_ratio"}  # a family without a sample until the host is measured
    assert named() - there - declared == set()
    assert declared <= {family.name for family in families(stack)}


def test_the_page_says_what_is_exposed(stack: Stack) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    for family in families(stack):
        assert family.name in said, f"{family.name} is not in the table"
        kind, labels = said[family.name]
        assert kind == family.type
        for sample in family.samples:
            assert sample.labels.keys() - {"le", "instance"} == labels, family.name
    only_when_counted = {
        "headrace_bus_refused", "headrace_ingress_refused", "headrace_ingress_resubmitted", "headrace_kv_disk_errors",
        "headrace_ingress_unprotected", "headrace_kv_audit_faults", "headrace_reasoning_tokens",
    }  # fmt: skip
    unconfigured = ("headrace_cache_", "headrace_guard", "headrace_route_", "headrace_upstream_")
    not_here = {name for name in said if name.startswith(unconfigured) or name == "headrace_route"}
    assert said.keys() - {family.name for family in families(stack)} <= only_when_counted | not_here
    assert {name.removesuffix("_total") for name in HELP if not re.search("ttft|e2e|inter_token", name)} <= said.keys()


# --- traces --------------------------------------------------------------------------------------------------------


def test_a_clients_trace_has_the_request_and_its_parts_through_both_doors(stack: Stack, collector: Collector) -> None:
    body = {"model": "smollm2", "prompt": "Trace me", "max_tokens": 5}
    parents = [GIVEN.replace("4bf9", "aaaa"), GIVEN.replace("4bf9", "bbbb")]
    reply = httpx.post(f"{stack.url}/v1/completions", json=body, headers={"traceparent": parents[0]}, timeout=60)
    assert reply.status_code == 200
    with Client(run=stack.run) as client:
        answer = client.complete("Trace me too", max_tokens=5, traceparent=parents[1])
    for parent, response in zip(parents, (reply.json()["id"], answer.id), strict=True):
        trace = parent[3:35]

        def there(trace: str = trace) -> list[Any]:
            return [span for span in collector.spans() if span.trace_id.hex() == trace]

        until(lambda there=there: len(there()) == 4, 30, "spans")
        root = there()[0]
        assert [span.name for span in there()] == ["request smollm2", "queue", "prefill", "decode"]
        assert root.parent_span_id.hex() == parent[36:52]
        told = {each.key: each.value for each in root.attributes}
        assert told["headrace.request"].string_value == response.partition("-")[2]
        assert told["gen_ai.usage.output_tokens"].int_value == 5


def test_a_collector_that_hangs_is_nobodys_concern(stack: Stack, collector: Collector) -> None:
    collector.hold.clear()
    threads = [threading.Thread(target=ask, args=(stack, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert "headrace_traces_dropped_spans" in scrape(stack, OPENMETRICS)
    collector.hold.set()
