"""Who is taken for hung when it does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from cli.supervisor.proc import is_stopped
from cli.supervisor.watching import HUNG_PROBES, STOPPED_PROBES, hangs


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not is_stopped(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_silent_worker_computes_unless_a_signal_holds_it(process: subprocess.Popen[bytes]) -> None:
    assert not hangs("worker@m.0.0", process.pid, 1000)
    stop(process)
    assert hangs("worker@m.0.0", process.pid, STOPPED_PROBES + 1)
    assert not hangs("worker@m.0.0", process.pid, STOPPED_PROBES)
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    assert not hangs("worker@m.0.0", process.pid, 1000)


def test_anybody_else_who_is_silent_hangs() -> None:
    assert hangs("scheduler@m", os.getpid(), HUNG_PROBES + 1)
    assert not hangs("standby@m.0.0", os.getpid(), HUNG_PROBES)
