"""What prompts of 2,000 tokens do to those who are being answered: with one pool of replicas, and with two.

    python -m benchmarks.disaggregation [--seconds 40] [--streams 4] [--every 4]

The same host and model as one replica with all threads, as two replicas with half of them each, and as a prefill and a
decode replica with half each. `--streams` answers are streamed; every `--every` seconds a prompt of random tokens
arrives. Printed are the times between two tokens of the streams, the times to the first token of the prompts, and what
the streams made in all. The first prompts are warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx

from bus.names import models_directory

LAYOUTS = {
    "one replica": "",
    "two replicas": "replicas = 2\n",
    "prefill + decode": "[model.pools]\nprefill = 1\ndecode = 1\n",
}
WARM_S = 6.0


@contextmanager
def stack(layout: str, options: argparse.Namespace) -> Iterator[str]:
    """A running stack; its URL."""
    with tempfile.TemporaryDirectory(prefix="hrb", dir="/tmp") as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(home) / "headrace.toml"
        config.write_text(
            f'[ingress]\nhttp = "127.0.0.1:{port}"\n[cache]\nexact = false\n[kv]\narena = "1GiB"\n'
            '[[model]]\nname = "bench"\n'
            f'source = "{options.model}"\nslots = 16\ninter_token_target_ms = {options.target_ms}\n{layout}'
        )
        environment = {
            **os.environ, "HEADRACE_MODELS": str(models_directory()), "HEADRACE_RUN": f"{home}/r",
            "HEADRACE_STATE": f"{home}/s",
        }  # fmt: skip

        def headrace(*arguments: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "cli.main", *arguments], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}")

        headrace("up", "--detach", "-c", str(config))
        url = f"http://127.0.0.1:{port}"
        try:
            while _ready(url) < (2 if layout else 1):
                time.sleep(0.1)
            yield url
        finally:
            headrace("down", "--deadline", "0")


def _ready(url: str) -> int:
    """Replicas that are."""
    models = httpx.get(f"{url}/ready").json().get("models", [])
    return int(models[0]["replicas_ready"]) if models else 0


def follow(url: str, prompt: str | list[int], tokens: int, until: float, times: list[float]) -> None:
    """One answer; when its tokens came."""
    body = {"model": "bench", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True, "seed": 1}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as reply:
        if reply.status_code != 200:
            sys.exit(reply.read().decode())
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
                if times[-1] > until:
                    return


def measure(url: str, options: argparse.Namespace) -> dict[str, float]:
    """Run the load; the figures."""
    gaps: list[float] = []
    firsts: list[float] = []
    made: list[int] = []
    began = time.monotonic()
    warm, until = began + WARM_S, began + WARM_S + options.seconds

    def stream(number: int) -> None:
        count = 0
        while time.monotonic() < until:
            times: list[float] = []
            follow(url, f"The story of the number {number} begins", 400, until, times)
            gaps.extend(b - a for a, b in pairwise(times) if a > warm)
            count += sum(time > warm for time in times)
        made.append(count)

    def prompts() -> None:
        draw = random.Random(7)
        while time.monotonic() < until:
            asked, times = time.monotonic(), list[float]()
            follow(url, [draw.randrange(1000, 40_000) for _ in range(options.prompt)], 2, until + 60, times)
            if asked > warm:
                firsts.append(times[0] - asked)
            time.sleep(max(0.0, asked + options.every - time.monotonic()))

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(options.streams)]
    threads.append(threading.Thread(target=prompts))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gaps.sort()
    return {
        "tpot_p50_ms": 1e3 * gaps[len(gaps) // 2],
        "tpot_p99_ms": 1e3 * gaps[len(gaps) * 99 // 100],
        "tpot_max_ms": 1e3 * gaps[-1],
        "ttft_p50_s": sorted(firsts)[len(firsts) // 2],
        "prompts": len(firsts),
        "stream_tokens_per_s": sum(made) / options.seconds,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="catalog:smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two prompts")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of each")
    parser.add_argument("--target-ms", type=float, default=250.0, help="inter_token_target_ms")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for name, layout in LAYOUTS.items():
        with stack(layout, options) as url:
            found[name] = measure(url, options)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.model}  {options.streams} streams, {options.prompt} tokens every {options.every:g} s"
    )
    print(f"{'':18}{'TPOT p50':>10}{'p99':>8}{'max':>8} ms{'TTFT p50':>10} s{'streams':>9} tok/s")
    for name, row in found.items():
        print(
            f"{name:18}{row['tpot_p50_ms']:10.1f}{row['tpot_p99_ms']:8.1f}{row['tpot_max_ms']:8.1f}"
            f"{row['ttft_p50_s']:13.2f}{row['stream_tokens_per_s']:11.1f}"
        )
    one, two = found["one replica"], found["prefill + decode"]
    print(f"prefill + decode over one replica: TPOT p99 {two['tpot_p99_ms'] / one['tpot_p99_ms']:.2f}, "
          f"TTFT {two['ttft_p50_s'] / one['ttft_p50_s']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
