"""Servers that are measured: started by a command, or running already. Their processes are found by a mark in their
environment, so that what each of them started counts as its own."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from bus.names import models_directory

MARK: Final = "HEADRACE_BENCHMARK"
PATIENCE_S: Final = 300.0


class Server(NamedTuple):
    """One that answers.

    Attributes:
        began: when it was started, seconds of CLOCK_MONOTONIC; 0.0 where it ran already.
    """

    url: str
    mark: str
    began: float


class NotServing(Exception):
    """A server could not be started. The message has the end of what it said."""


@contextmanager
def serving(command: str, model: str, file: Path, threads: int, state: Path) -> Iterator[Server]:
    """Run a server.

    Args:
        command: `headrace`, and what its [[model]] shall have, as in `headrace slots=8`; or a URL; or a command line,
            in which {port}, {file} and {threads} are replaced.
        model: that headrace serves, as its configuration has it.
        file: of the same weights.
        state: where headrace keeps what it lays out once; the next start finds it there.

    Raises:
        NotServing: it ends, or does not answer `/health` in `PATIENCE_S`.
    """
    if command.startswith("http"):
        yield Server(command, "", 0.0)
    elif command.split()[0] == "headrace":
        with _headrace(model, threads, state, command.split()[1:]) as server:
            yield server
    else:
        with _started(command, file, threads) as server:
            yield server


def pss_mib(server: Server) -> float:
    """Memory of all its processes, shared pages in proportion, MiB; 0 for one that was not started here."""
    total = 0
    for process in Path("/proc").iterdir() if server.mark else ():
        with suppress(OSError):
            if process.name.isdigit() and f"{MARK}={server.mark}\0".encode() in (process / "environ").read_bytes():
                rollup = (process / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


@contextmanager
def _headrace(model: str, threads: int, state: Path, settings: Sequence[str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="hrb", dir="/tmp") as home:
        port, mark = _free_port(), uuid.uuid4().hex
        config = Path(home) / "headrace.toml"
        config.write_text(
            f'[ingress]\nhttp = "127.0.0.1:{port}"\n[cache]\nexact = false\n[kv]\narena = "1GiB"\n'
            f'[[model]]\nname = "bench"\nsource = "{model}"\nthreads = {threads}\nslots = 32\n'
            + "".join(f"{line}\n" for line in settings)
        )
        environment = {
            **os.environ, "HEADRACE_MODELS": str(models_directory()), "HEADRACE_RUN": f"{home}/r",
            "HEADRACE_STATE": str(state), MARK: mark,
        }  # fmt: skip

        def headrace(*arguments: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "cli.main", *arguments], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise NotServing(f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}")

        began = time.monotonic()
        headrace("up", "--detach", "-c", str(config))
        try:
            yield Server(f"http://127.0.0.1:{port}", mark, began)
        finally:
            headrace("down", "--deadline", "0")


@contextmanager
def _started(command: str, file: Path, threads: int) -> Iterator[Server]:
    port, mark = _free_port(), uuid.uuid4().hex
    arguments = [part.format(port=port, file=file, threads=threads) for part in shlex.split(command)]
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                arguments, stdout=said, stderr=said, env={**os.environ, MARK: mark}, start_new_session=True
            )
        except OSError as error:
            raise NotServing(f"{arguments[0]}: {error.strerror}") from error
        try:
            server = Server(f"http://127.0.0.1:{port}", mark, began)
            while not _healthy(server.url):
                if process.poll() is not None or time.monotonic() > began + PATIENCE_S:
                    said.seek(0)
                    raise NotServing(f"{command}: {said.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.02)
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
