"""A whole stack of real processes, started the way a person starts it: `headrace up -c FILE --detach`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bus.identity import Visitor
from bus.loop import PollLoop
from bus.messages.pages import Stats, StatsQuery
from bus.names import models_directory, state_directory
from cli.control import Caller, running_names
from cli.status import gather
from kv.client import attach_blocking, call

HEADRACE = [sys.executable, "-m", "cli.main"]


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """A running stack. `url` is its HTTP address, `run` its run directory."""

    url: str
    home: Path
    environment: dict[str, str]
    config: Path

    @property
    def run(self) -> Path:
        return self.home / "r"

    def headrace(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as an operator would."""
        done = subprocess.run(
            [*HEADRACE, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if check:
            assert done.returncode == 0, f"headrace {' '.join(arguments)}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def status(self) -> dict[str, Any]:
        """What `headrace status --json` prints, without starting Python for it: tests ask often."""
        with Caller(self.run) as caller:
            answer: dict[str, Any] = msgspec.to_builtins(gather(caller))
        return answer

    def pid(self, name: str) -> int:
        """Of a process by name, from the lock that it holds; 0 where it does not run."""
        pid = running_names(self.run).get(name, 0)
        return pid if pid and _started_for(self.run, pid) else 0

    def members(self) -> dict[int, str]:
        """Every process that was started for this stack, with or without a name: pid and command."""
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and not _gone(process.pid) and _started_for(self.run, process.pid):
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill a process; its pid is returned."""
        pid = self.pid(name)
        assert pid, f"{name} does not run"
        os.kill(pid, number)
        return pid

    def replicas_ready(self) -> int:
        """Of all models; 0 where no scheduler answers."""
        return sum(int(model["replicas_ready"]) for model in self.status()["models"])

    def logs(self) -> str:
        """The last lines of every log."""
        parts = []
        for path in sorted((self.home / "s" / "log").glob("*.log")):
            parts.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:]))
        return "\n".join(parts)

    def pages(self) -> Stats:
        """The arena, as kv tells any onlooker."""
        loop = PollLoop()
        try:
            client, _ = attach_blocking(Visitor("cli", loop, self.run), "observer")
            with contextlib.closing(client):
                return call(client, StatsQuery(1), Stats)
        finally:
            loop.close()

    def nothing_is_held(self) -> bool:
        """Whether every page is free, cached, or one of the few that a scheduler keeps at hand."""
        return all(pool.pinned == 0 and pool.quarantined == 0 for pool in self.pages().pools)


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something, for at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _started_for(run: Path, pid: int) -> bool:
    try:
        return f"HEADRACE_RUN={run}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


@contextlib.contextmanager
def running(
    model_toml: str, *, ingresses: int = 1, arena: str = "768MiB", kv: str = "", cache: str = "exact = false"
) -> Iterator[Stack]:
    """Start a stack for the `[[model]]` sections given; stop it, and check that nothing is left. `cache` and `kv` are
    what stands in the sections of that name."""
    home = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    port = free_port()
    config = home / "headrace.toml"
    config.write_text(
        f'[ingress]\nhttp = "127.0.0.1:{port}"\nprocesses = {ingresses}\n\n[cache]\n{cache}\n\n'
        f'[kv]\narena = "{arena}"\n{kv}\n{model_toml}'
    )
    environment = {
        **os.environ,
        "HEADRACE_RUN": str(home / "r"),
        "HEADRACE_STATE": str(home / "s"),
        "HEADRACE_CONFIG": str(config),
    }
    environment.setdefault("HEADRACE_MODELS", str(models_directory()))
    _share_what_is_kept(home / "s")
    stack = Stack(f"http://127.0.0.1:{port}", home, environment, config)
    try:
        stack.headrace("up", "--detach", "-c", str(config), timeout=240)
        yield stack
        pids = [process["pid"] for process in stack.status()["processes"]]
        stack.headrace("down", timeout=120)
        until(lambda: all(_gone(pid) for pid in pids if pid), 20, "every process is gone after down")
    finally:
        for pid in stack.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def _share_what_is_kept(state: Path) -> None:
    """Compiled kernels, prepared weights and digests of files are this machine's: any number of processes may make them
    at once, and a stack of a test is not there to make them again."""
    state.mkdir(mode=0o700)
    for kept in ("kernels", "weights", "digests"):
        (state_directory() / kept).mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / kept).symlink_to(state_directory() / kept)


# As the reference computes it.
SMOLLM2 = """
[[model]]
name = "smollm2"
source = "catalog:smollm2-135m-instruct"
dtype = "float32"
slots = 16
step_tokens = 256
"""
# As users have it, several times as fast: for tests that are not about being interrupted.
SMOLLM2_KERNELS = SMOLLM2.replace('dtype = "float32"\n', "")
