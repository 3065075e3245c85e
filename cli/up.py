"""`headrace up`: start the supervisor, look on until everything can answer, and then show what the processes say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from bus.config import Config, ConfigError, load_config
from bus.names import SUPERVISOR, PathTooLong, parse_process, run_directory
from cli.check import check_run_directory
from cli.control import Caller, running_names
from cli.down import stop_insisting
from cli.keeper import kept_by_systemd
from cli.models import fetch, missing_models
from cli.status import gather
from cli.supervisor.logfiles import Tail, last_lines, log_path, open_log
from cli.supervisor.plan import desired_units, fingerprint
from cli.supervisor.state import CONFIG_COPY

READY_TIMEOUT_S: Final = 600.0
APPEAR_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.15
_COLOURS: Final = {
    "ingress": "cyan",
    "scheduler": "magenta",
    "worker": "green",
    "kv": "yellow",
    "metrics": "blue",
    "accounts": "blue",
    "batch": "blue",
}


def start(config: Config, path: Path | None, *, detach: bool, fetch_missing: bool) -> int:
    """Start the supervisor, or find it running; wait until every model can answer."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if kept_by_systemd(run_directory()):
        console.print("systemd keeps headrace on this host: systemctl start headrace.target", markup=False)
        console.print("for another stack beside it, set HEADRACE_RUN to another directory", markup=False)
        return 1
    if fetch_missing and (code := _fetch_missing(config)) != 0:
        return code
    problems = missing_models(config)
    try:
        check_run_directory(config)
    except PathTooLong as error:
        problems.append(str(error))
    if problems:
        for problem in problems:
            console.print(problem, markup=False)
        return 78
    # Standbys begin when their workers serve; nobody waits for them.
    names = [unit.name for unit in desired_units(config) if unit.role != "standby"]
    launched: subprocess.Popen[bytes] | None = None
    if SUPERVISOR in running_names():
        if changed := _differences(config):
            console.print(
                "a supervisor runs here already, with another configuration of " + ", ".join(changed), markup=False
            )
            console.print("to apply this one: headrace down, then headrace up")
            return 1
        console.print("a supervisor runs here already; looking on")
    else:
        launched = _launch(path)
    if detach:
        return _announce(console, config) if _wait(console, names, launched) else 1
    # Whoever ends the command in the foreground means the stack: a service manager or a script as much as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not _wait(console, names, launched):
            return 1
        _announce(console, config)
        _follow(console, [SUPERVISOR, *names])
    except KeyboardInterrupt:
        console.print("draining; all stops when the requests under way are done (again Ctrl-C: at once)")
        return stop_insisting(30.0)
    return 0


def _announce(console: Console, config: Config) -> int:
    host = config.ingress.http
    model = config.model[0].name
    console.print(f"\n[bold]ready[/]  http://{host}\n")
    console.print(
        f"  curl http://{host}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f'    -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'\n'
        f"  headrace top      headrace status      headrace down\n",
        markup=False,
    )
    return 0


def _fetch_missing(config: Config) -> int:
    for model in config.model:
        for source in model.sources.values():
            if not source.startswith("path:") and (code := fetch(source)) != 0:
                return code
    return 0


def _differences(config: Config) -> list[str]:
    """Processes that run, or should, in another configuration than this one."""
    try:
        running = load_config(run_directory() / CONFIG_COPY)
    except ConfigError:
        return []  # the supervisor is about to write it, or to go
    names = {unit.name for unit in desired_units(config)} | {unit.name for unit in desired_units(running)}
    return sorted(name for name in names if fingerprint(config, name) != fingerprint(running, name))


def _launch(path: Path | None) -> subprocess.Popen[bytes]:
    """The supervisor gets a session of its own: a closed terminal does not end a stack."""
    log_fd = open_log(SUPERVISOR)
    arguments = ["-c", str(path.resolve())] if path is not None else []
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", SUPERVISOR, *arguments],
            stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log_fd)


def _wait(console: Console, names: list[str], launched: subprocess.Popen[bytes] | None) -> bool:
    """Show states as they change; true when all are ready."""
    began = time.monotonic()
    shown: dict[str, str] = {}
    with Caller() as caller:
        while (passed := time.monotonic() - began) < READY_TIMEOUT_S:
            entries = {entry.name: entry for entry in gather(caller).processes}
            gone = launched is not None and launched.poll() is not None
            if SUPERVISOR not in entries and (gone or passed > APPEAR_TIMEOUT_S):
                console.print("the supervisor did not stay; its last words:")
                _print_end(console, SUPERVISOR)
                return False
            for name in [name for name in names if name in entries]:
                entry = entries[name]
                says = f"{entry.state:<10} {entry.detail if entry.state == 'starting' else ''}".rstrip()
                if shown.get(name) != says:
                    shown[name] = says
                    console.print(f"{passed:6.1f} s  {name:<28} {says}", markup=False)
                if entry.state == "failed":
                    console.print(f"{name} failed: {entry.last_exit}; its last words:", markup=False)
                    _print_end(console, name)
                    console.print(f"all of it: {log_path(name)}", markup=False)
                    console.print("the other processes go on; stop them with: headrace down")
                    return False
            # Processes may have been ready before: it is the supervisor that makes them a stack.
            supervised = SUPERVISOR in entries and entries[SUPERVISOR].state == "ready"
            if supervised and all(shown.get(name) == "ready" for name in names):
                return True
            time.sleep(LOOK_S)
    console.print(f"not ready after {READY_TIMEOUT_S:.0f} s; see: headrace status")
    return False


def _print_end(console: Console, name: str) -> None:
    for line in last_lines(log_path(name), 12):
        console.print("    " + line, markup=False)


def _follow(console: Console, names: list[str]) -> None:
    """Show what processes say from now on, until everything has stopped."""
    tails = {name: Tail(log_path(name)) for name in names}
    while SUPERVISOR in running_names():
        for name, tail in tails.items():
            for line in tail.lines():
                console.print(line, style=_COLOURS.get(parse_process(name).role, ""), markup=False)
        time.sleep(LOOK_S)
