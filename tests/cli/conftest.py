"""Run directories that are short enough for sockets, and a stack of real processes whose model roles are stand-ins."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.control import Caller
from cli.status import Entry, gather

ROOT = Path(__file__).parents[2]
CONFIG = """
[ingress]
http = "127.0.0.1:1"
[kv]
arena = "64MiB"
[[model]]
name = "toy"
source = "path:/tmp"
tensor_parallel = 2
"""


@dataclass
class Host:
    """A run directory with everything that an operator can do to it."""

    home: Path
    environment: dict[str, str]

    @property
    def run(self) -> Path:
        return self.home / "r"

    def headrace(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def up(self, config: str = "headrace.toml") -> subprocess.CompletedProcess[str]:
        return self.headrace("up", "--detach", "-c", config)

    def status(self) -> dict[str, Entry]:
        """Processes by name, as `headrace status` gathers them."""
        with Caller(self.run) as caller:
            return {entry.name: entry for entry in gather(caller).processes}

    def pid(self, name: str) -> int:
        """From the lock that the process holds."""
        return int((self.run / f"{name}.lock").read_text().split()[1])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def tell(self, name: str, kind: str, text: str = "") -> Path:
        """Leave a stand-in the file that it obeys."""
        path = self.run / f"{name}.{kind}"
        path.write_text(text)
        return path

    def log(self, name: str) -> str:
        return (self.home / "s" / "log" / f"{name}.log").read_text()

    def survivors(self) -> list[int]:
        """Pids that hold a name here and live."""
        pids = [holder(lock) for lock in self.run.glob("*@*.lock")]
        return [pid for pid in pids if pid and alive(pid)]


def holder(lock: Path) -> int:
    """The pid that a lock file names; 0 where it is not there, or was never written."""
    words = lock.read_text().split() if lock.exists() else []
    return int(words[1]) if len(words) > 1 else 0


def started_for(run: Path) -> list[int]:
    """Every process with this run directory, those too that have no name yet."""
    mark, found = f"HEADRACE_RUN={run}".encode(), []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return found


def alive(pid: int) -> bool:
    """Not gone, and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for something that must come; the time only ends a test that has failed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def waiting() -> Callable[..., None]:
    """`until`, for tests."""
    return until


@pytest.fixture
def host() -> Iterator[Host]:
    home = Path(tempfile.mkdtemp(prefix="hrc", dir="/tmp"))
    (home / "headrace.toml").write_text(CONFIG)
    environment = {
        **os.environ,
        "HEADRACE_RUN": str(home / "r"),
        "HEADRACE_STATE": str(home / "s"),
        "HEADRACE_MODELS": str(home / "m"),
        "PYTHONPATH": f"{ROOT / 'tests' / 'cli' / 'standins'}:{ROOT}",
    }
    environment.pop("HEADRACE_CONFIG", None)
    (home / "r").mkdir()
    host = Host(home, environment)
    yield host
    if (pid := holder(host.run / "supervisor@host.lock")) and alive(pid):
        os.kill(pid, signal.SIGKILL)  # first, or it would start the others again
    for pid in started_for(host.run):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
