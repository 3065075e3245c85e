"""The load generator: loads that are the same by seed, sums that are right, and runs against a server of this test."""

from __future__ import annotations

import asyncio
import http.server
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.drive import Outcome, run
from cli.bench.http import HttpFailed, event_data, request
from cli.bench.load import BadTrace, lognormal_lengths, make_jobs, trace_lengths
from cli.bench.profile import NoProfile, Series, profile_of
from cli.bench.report import Summary, compare, percentile, summarise, tpot_of


def test_the_sample_is_the_trace_that_its_readme_says() -> None:
    lengths = trace_lengths(None)
    assert len(lengths) == 500
    assert lengths[:3] == [(374, 44), (396, 109), (879, 55)]


@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.0, 2.0, 50.0]))
def test_a_load_is_decided_by_its_seed_and_keeps_its_limits(seed: int, rate: float) -> None:
    def jobs() -> list[object]:
        lengths = lognormal_lengths(random.Random(seed))
        return list(make_jobs(lengths, 20, max_prompt=300, max_output=40, rate=rate, seed=seed))

    first = jobs()
    assert first == jobs()
    for prompt, output, after in first:  # type: ignore[misc]
        assert 1 <= len(prompt) <= 300
        assert 1 <= output <= 40
        assert (after > 0) == (rate > 0)


def test_arrivals_are_poisson_of_the_rate_and_prompts_share_no_prefix() -> None:
    jobs = make_jobs(cycle([(50, 5)]), 2000, max_prompt=50, max_output=5, rate=4.0, seed=7)
    gaps = [job.after_s for job in jobs]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.1)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.25)
    assert len({tuple(job.prompt[:16]) for job in jobs}) == len(jobs)


def test_bad_traces_are_told(tmp_path: Path) -> None:
    for text in ("input_tokens,output_tokens\n", "a,b\n1,2\n", "input_tokens,output_tokens\nx,2\n"):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(BadTrace, match=r"t\.csv"):
            trace_lengths(tmp_path / "t.csv")
    with pytest.raises(BadTrace, match="cannot be read"):
        trace_lengths(tmp_path / "none.csv")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_value_with_that_share_at_or_below(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    at_or_below = sum(value <= found for value in values) / len(values)
    below = sum(value < found for value in values) / len(values)
    assert at_or_below >= share - 1e-9
    assert below < share


def outcome(sent: float, arrivals: list[float], tokens: int, **changed: object) -> Outcome:
    return Outcome(
        prompt_tokens=10, wanted_tokens=tokens, sent_s=sent, status=200, output_tokens=tokens, arrivals=arrivals,
        ended_s=arrivals[-1] if arrivals else sent, **changed,
    )  # fmt: skip


def summary_of(outcomes: list[Outcome], seconds: float = 10.0) -> Summary:
    return summarise("u", "m", outcomes, seconds, slo_ttft_s=1.0, slo_tpot_s=0.5)


def test_the_sums() -> None:
    quick = outcome(0.0, [0.5, 0.75, 1.0], 3)  # TTFT 0.5, TPOT 0.25
    coarse = outcome(1.0, [1.5, 3.5], 9)  # two events brought nine tokens: TPOT 0.25, not 2
    late = outcome(2.0, [4.0], 1)  # TTFT 2: not good; one token has no TPOT
    refused = Outcome(10, 5, 0.0, status=429, problem="status 429: full")
    broken = Outcome(10, 5, 0.0, status=200, problem="the stream ended without an answer")
    summary = summary_of([quick, coarse, late, refused, broken])
    assert (summary.completed, summary.refused, summary.failed) == (3, 1, 1)
    assert summary.good == 2
    assert summary.goodput_per_s == pytest.approx(0.2)
    assert summary.output_tokens_per_s == pytest.approx(1.3)
    assert summary.ttft_s.p50 == pytest.approx(0.5)
    assert summary.ttft_s.p99 == pytest.approx(2.0)
    assert summary.tpot_s.p99 == pytest.approx(0.25)
    assert tpot_of(late) == 0.0
    assert summary.itl_s.p99 == pytest.approx(2.0)
    assert summary.problems == ["status 429: full", "the stream ended without an answer"]
    assert summary_of([]).ttft_s.p50 == 0.0


def test_a_comparison_says_even_where_the_rounds_disagree() -> None:
    def rounds(*tokens: int) -> list[Summary]:
        return [summary_of([outcome(0.0, [0.5, 0.5 + 9 / count], count)], 10.0) for count in tokens]

    ratios = {ratio.measure: ratio for ratio in compare(rounds(20, 30, 25), rounds(10, 10, 10))}
    assert ratios["output tokens/s"].verdict() == "better"
    assert (ratios["output tokens/s"].low, ratios["output tokens/s"].high) == (2.0, 3.0)
    assert ratios["TPOT p50"].verdict() == "better", "less is better there"
    ratios = {ratio.measure: ratio for ratio in compare(rounds(20, 30, 5), rounds(10, 10, 10))}
    assert ratios["output tokens/s"].verdict() == "even"


def test_events() -> None:
    assert event_data(b"id: 1\ndata: {}") == b"{}"
    assert event_data(b"data:a\ndata: b") == b"a\nb"
    assert event_data(b": keep-alive") == b""


def exposition(steps: int) -> str:
    """Counters of two replicas after so many steps; of rank 1 too, which works at the same time and does not count."""
    series = {
        "step_seconds_count": steps, "step_seconds_sum": 0.010 * steps, "step_wait_seconds_total": 0.030 * steps,
        "step_tokens_total": 7 * steps,
    }  # fmt: skip
    parts = {"attention": 0.002 * steps, "gate and up": 0.006 * steps, "everything else": 0.002 * steps}
    lines = []
    for replica, rank, times in ((0, 0, 1), (0, 1, 1), (1, 0, 0)):
        labels = f'model="toy",replica="{replica}",rank="{rank}"'
        lines += [f"headrace_{name}{{{labels}}} {value * times}" for name, value in series.items()]
        lines += [
            f'headrace_step_part_seconds_total{{{labels},part="{part}"}} {100 + value * times}'
            for part, value in parts.items()
        ]
    return "\n".join(lines) + "\n"


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers like an engine that is slow by the clock. Prompts longer than 100 tokens are refused, longer than 50
    break off."""

    protocol_version = "HTTP/1.1"
    speed = 1.0
    seen: list[dict[str, object]]

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "toy"}]}'
        if self.path == "/metrics":
            # Each request made a step of 10 ms; another replica has been idle all the time.
            body = exposition(len(self.seen)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(asked)
        size = len(asked["prompt"])
        if size > 100:
            body = b'{"error": {"message": "full"}}'
            self.send_response(429)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(asked["max_tokens"]):
            time.sleep(0.002 * self.speed)
            self._chunk(f'id: x:{number}\r\ndata: {{"choices": [{{"text": "é"}}]}}\r\n\r\n'.encode())
        if size > 50:
            self.close_connection = True
            return
        usage = json.dumps({"choices": [], "usage": {"completion_tokens": asked["max_tokens"]}})
        self._chunk(f"data: {usage}\n\ndata: [DONE]\n\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        # In two pieces, cut where it hurts: within a character or a line end.
        for piece in (data[:-2], data[-2:]):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def serve(speed: float) -> tuple[str, type[Endpoint], http.server.ThreadingHTTPServer]:
    handler = type("Handler", (Endpoint,), {"speed": speed, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v1", handler, server


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[Endpoint]]]:
    url, handler, server = serve(1.0)
    yield url, handler
    server.shutdown()
    server.server_close()


def test_every_request_is_measured_and_failures_are_told(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    lengths = iter([(10, 4), (20, 6), (120, 4), (60, 3)])
    jobs = make_jobs(lengths, 4, max_prompt=1000, max_output=100, rate=0, seed=1)
    outcomes, seconds = asyncio.run(run(url, "toy", jobs, concurrency=2, token="key"))
    first, second, refused, broken = outcomes
    assert (first.problem, first.output_tokens, len(first.arrivals)) == ("", 4, 4)
    assert (second.problem, second.output_tokens, len(second.arrivals)) == ("", 6, 6)
    assert refused.status == 429
    assert "full" in refused.problem
    assert "closed in the middle" in broken.problem
    assert first.sent_s <= first.arrivals[0] <= first.arrivals[-1] <= first.ended_s <= seconds
    asked = handler.seen[0]
    assert asked["ignore_eos"] is True
    assert asked["stream_options"] == {"include_usage": True}


def test_nobody_there_is_told() -> None:
    with pytest.raises(HttpFailed, match=r"127\.0\.0\.1:1/v1/models: ConnectionRefused"):
        asyncio.run(request("GET", "http://127.0.0.1:1/v1/models"))


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "bench", "--requests", "6", "--concurrency", "3", "--max-prompt", "40",
         "--max-output", "5", *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_command_prints_a_table_and_json(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, _ = endpoint
    told = bench("--url", url)
    assert told.returncode == 0, told.stderr
    assert "6 of 6 requests" in told.stdout
    found = json.loads(bench("--url", url, "--json", "--rate", "100").stdout)
    assert found["runs"][url][0]["completed"] == 6
    assert found["runs"][url][0]["model"] == "toy"
    assert found["ratios"] == []
    down = bench("--url", "http://127.0.0.1:1/v1")
    assert down.returncode == 1
    assert "headrace status" in down.stderr


def test_a_profile_is_of_the_run_and_of_first_ranks(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, _ = endpoint
    profile = json.loads(bench("--url", url, "--json", "--profile").stdout)["profile"]
    assert (profile["steps"], profile["tokens"]) == (7, 49), "six requests and one to warm up"
    assert profile["step_s"] == pytest.approx(0.010)
    assert profile["parts"][0]["name"] == "gate and up"
    assert {part["name"]: round(part["share"], 6) for part in profile["parts"]} == {
        "gate and up": 0.6, "attention": 0.2, "everything else": 0.2,
    }  # fmt: skip
    told = bench("--url", url, "--profile")
    assert "7 steps of 10.00 ms" in told.stdout
    assert "gate and up" in told.stdout


def test_a_profile_of_what_has_no_counters_is_refused() -> None:
    reading = {("headrace_step_seconds_count", (("model", "other"), ("rank", "0"))): 5.0}
    with pytest.raises(NoProfile, match="no worker of 'toy'"):
        profile_of({}, reading, "toy", 1.0)


def test_a_profile_says_how_long_steps_ran() -> None:
    def reading(steps: int) -> dict[Series, float]:
        return {
            (f"headrace_step_seconds_{what}", (("model", "toy"), ("rank", rank), ("replica", replica))): value
            for replica, rank in (("0", "0"), ("0", "1"), ("1", "0"), ("2", "0"))
            for what, value in (
                ("count", 5.0 + steps * (replica != "2")),
                ("sum", 0.5 + 0.1 * steps * (replica != "2")),
            )
        } | {("headrace_step_part_seconds_total", (("model", "toy"), ("part", "all"), ("rank", "0"))): float(steps)}

    profile = profile_of(reading(0), reading(20), "toy", 8.0)
    assert profile.steps == 40, "of two replicas; the third made none"
    assert profile.busy == pytest.approx(2 * 20 * 0.1 / (8.0 * 2))


def test_two_endpoints_get_the_same_load_in_turns(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    slow_url, slow, server = serve(20.0)
    try:
        found = json.loads(bench("--url", url, "--compare", slow_url, "--json").stdout)
    finally:
        server.shutdown()
        server.server_close()
    assert len(found["runs"][url]) == len(found["runs"][slow_url]) == 3
    assert sorted(map(str, handler.seen)) == sorted(map(str, slow.seen))
    assert len({str(asked["prompt"]) for asked in handler.seen}) == 3 * 6 + 1, "no round repeats another's prompts"
    tokens = next(ratio for ratio in found["ratios"] if ratio["measure"] == "output tokens/s")
    assert tokens["median"] > 1
