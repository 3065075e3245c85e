"""headrace and its peers in turn, on this machine, with the same weights, HTTP in to HTTP out.

    python -m benchmarks.serving MODEL.gguf --peer 'llama.cpp=llama-server -m {file} --port {port} -t {threads} -np 32'

Peers are commands, each with a name; {file}, {port} and {threads} are replaced in them. `headrace KEY=VALUE` is
headrace with another setting of its [[model]], for comparing it with itself. A URL is a server that runs already; its
model is asked for by `--model-name`. benchmarks/README.md has commands for known peers.
Each round starts every server anew, runs all scenarios, and ends it; medians over the rounds are printed, with half
their range, and how much better headrace is than the best peer: 2 is twice as good, also where less is better.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.serving.client import Failed, ask
from benchmarks.serving.report import OURS, keep, table
from benchmarks.serving.scenarios import Figure, Load, run
from benchmarks.serving.servers import NotServing, Server, pss_mib, serving
from bus.catalogue import ModelMissing, locate


def main() -> None:
    """Measure and print."""
    options = _options()
    servers = {OURS: f"headrace {options.ours}".strip(), **dict(each.split("=", 1) for each in options.peer)}
    for name in options.without:
        servers.pop(name, None)
    load = Load(
        tuple(options.streams), options.tokens, tuple(options.prompts), options.repeats, tuple(options.rates),
        options.seconds,
    )  # fmt: skip
    file: Path = options.file
    rounds: dict[str, list[list[Figure]]] = {name: [] for name in servers}
    left_out: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="hrs", dir="/tmp") as state:
        try:
            if OURS in servers:  # its weights are laid out once and for all
                with serving(servers[OURS], options.model, file, options.threads, Path(state)):
                    pass
            for turn in range(options.rounds):
                for name, command in servers.items():
                    if name in left_out:
                        continue
                    print(f"round {turn + 1} of {options.rounds}: {name}", file=sys.stderr)
                    try:
                        with serving(command, options.model, file, options.threads, Path(state)) as server:
                            rounds[name].append(_measure(server, options.model_name, load, turn))
                    except (NotServing, Failed) as problem:  # what was measured of the others is not lost with it
                        if name == OURS:
                            raise
                        print(f"{name} is left out: {problem}", file=sys.stderr)
                        left_out.add(name)
        except (NotServing, Failed) as problem:
            sys.exit(str(problem))
    rounds = {name: told for name, told in rounds.items() if name not in left_out}
    machine = {
        "date": time.strftime("%Y-%m-%d"), "cpu": _cpu(), "threads": options.threads, "load": os.getloadavg()[0],
        "model": file.name, "python": platform.python_version(), "servers": servers, "rounds": options.rounds,
    }  # fmt: skip
    print("  ".join(f"{key} {value}" for key, value in machine.items() if key != "servers"))
    print("\n".join(table(rounds)))
    if options.keep:
        keep(options.keep, machine, rounds)


def _measure(server: Server, model: str, load: Load, turn: int) -> list[Figure]:
    ask(server.url, model, "Once upon a time", 1)
    started = time.monotonic() - server.began if server.began else 0.0
    figures = run(server.url, model, load, seed=turn)
    return [
        *figures,
        Figure("start to first token", started, "s", False),
        Figure("memory, PSS", pss_mib(server), "MiB", False),
    ]


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, a directory of safetensors, or catalog:NAME")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="a server to compare with")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave a server out")
    parser.add_argument("--ours", default="", metavar="KEY=VALUE", help='for headrace\'s [[model]], as quantize="int4"')
    parser.add_argument("--model-name", default="bench", help="what servers call the model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=128, help="of each stream's answer")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1024, 2048], help="lengths of prompts")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0], help="Poisson arrivals, requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="that they arrive")
    parser.add_argument("--repeats", type=int, default=3, help="of prefill and cached prefixes in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a file for everything measured, as benchmarks/results/NAME.json")
    options = parser.parse_args()
    try:
        options.file = locate(options.model)
    except ModelMissing as missing:
        parser.error(str(missing))
    for each in options.peer:
        if "=" not in each:
            parser.error(f"--peer {each}: NAME=COMMAND or NAME=http://…")
    return options


if __name__ == "__main__":
    main()
