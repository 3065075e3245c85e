"""headrace installed and running under the systemd of a test machine, as an operator would have it.

The program is this checkout with the packages of this Python, shown to the machine where an installation has them. The
interpreter is shown too where it is not the system's: a user's own (pyenv) is in a directory that no service may enter.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from machine import Machine

CHECKOUT: Final = Path(__file__).parents[2]
PORT: Final = 8080
SOURCE, SITE, PYTHON, MODELS = (
    "/opt/headrace/source",
    "/opt/headrace/site",
    "/opt/headrace/python",
    "/opt/headrace/models",
)
HEADRACE: Final = "/opt/headrace/current/bin/headrace"
START_S: Final = 180.0

CONFIG: Final = f"""
[ingress]
http = "127.0.0.1:{PORT}"
processes = 2
zmq = "tcp://127.0.0.1:8200"

[kv]
arena = "384MiB"

[curve]
secret = "/etc/headrace/curve/host.secret"
clients = "/etc/headrace/curve/clients"

[[model]]
name = "smollm2"
source = "catalog:smollm2-135m-instruct"
threads = 1
slots = 8

[[model]]
name = "pair"
source = "catalog:smollm2-135m-instruct"
tensor_parallel = 2
threads = 1
slots = 4
context_tokens = 1024
"""


def binds() -> dict[Path, str]:
    """What of this host an installation needs."""
    found = {CHECKOUT: SOURCE, Path(sysconfig.get_paths()["purelib"]): SITE, _models(): MODELS}
    if not sys.base_prefix.startswith("/usr"):
        found[Path(sys.base_prefix)] = PYTHON
    return found


def _models() -> Path:
    from bus.names import models_directory

    return models_directory()


def launcher() -> str:
    """The program that the units run."""
    base = Path(sys.base_prefix)
    real = Path(os.path.realpath(sys.executable))
    python = real if str(base).startswith("/usr") else Path(PYTHON) / real.relative_to(base.resolve())
    return (
        "#!/bin/sh\n"
        f"export PYTHONPATH={SOURCE}:{SITE} PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH={PYTHON}/lib\n"
        f'exec {python} -m cli.main "$@"\n'
    )


@dataclass
class Stream:
    """A streamed completion, as far as it was read."""

    ids: list[int] = field(default_factory=list)
    finish: str = ""
    response: str = ""
    last: str = ""
    breaks: int = 0


@dataclass
class Installation:
    """A machine with headrace in it."""

    machine: Machine

    def headrace(self, *arguments: str, check: bool = True, user: str = "") -> str:
        """What the command says."""
        return self.machine.run(HEADRACE, *arguments, check=check, user=user).stdout

    def pid(self, unit: str) -> int:
        """Of a unit's main process, in the machine; 0 where none runs."""
        return int(self.machine.show(unit, "MainPID").get("MainPID", "0"))

    def status(self) -> dict[str, Any]:
        """`headrace status --json`."""
        told: dict[str, Any] = json.loads(
            self.headrace("status", "--json", check=False) or '{"processes":[],"models":[]}'
        )
        return told

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        connection = self._connection()
        with contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def complete(
        self, prompt: str, tokens: int, *, model: str = "smollm2", seen: Callable[[int], None] = lambda _: None
    ) -> Stream:
        """A streamed completion to its end, taken up again at another ingress where its own dies.

        Args:
            seen: is told how many tokens there are, after each event.
        """
        stream = Stream()
        body = {
            "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, "stream": True,
        }  # fmt: skip
        until = time.monotonic() + 120
        while not stream.finish and time.monotonic() < until:
            try:
                connection = self._connection()
                with contextlib.closing(connection):
                    if stream.response:
                        headers = {"Last-Event-ID": stream.last} if stream.last else {}
                        connection.request("GET", f"/v1/streams/{stream.response}", headers=headers)
                    else:
                        headers = {"content-type": "application/json", "x-resumable": "true"}
                        connection.request("POST", "/v1/completions", json.dumps(body), headers)
                    self._read(connection.getresponse(), stream, seen)
            except (OSError, http.client.HTTPException):
                stream.breaks += 1
                time.sleep(0.1)
        return stream

    def _read(self, reply: http.client.HTTPResponse, stream: Stream, seen: Callable[[int], None]) -> None:
        assert reply.status == 200, reply.read().decode()
        stream.response = stream.response or reply.headers["x-request-id"]
        identifier = ""
        while line := reply.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                identifier = value
            elif name == "data" and value != "[DONE]":
                event = json.loads(value)
                assert "error" not in event, event
                for choice in event["choices"]:
                    stream.ids += choice.get("token_ids") or []
                    stream.finish = choice.get("finish_reason") or stream.finish
                stream.last = identifier or stream.last
                seen(len(stream.ids))
                reply.readline()
        if not stream.finish:
            raise http.client.IncompleteRead(b"")

    def _connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        connection.sock = self.machine.connect(PORT, timeout=120)
        return connection

    def ready(self) -> bool:
        """Whether every model answers."""
        try:
            return self.get("/ready")[0] == 200
        except OSError:
            return False


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something, for at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@contextlib.contextmanager
def installed(config: str = CONFIG) -> Iterator[Installation]:
    """A machine in which `headrace systemd install` was run and everything is ready."""
    with Machine.boot("headrace", binds=binds()) as machine:
        here = Installation(machine)
        machine.run(
            "systemd-tmpfiles", "--create", "--prefix=/run/log/journal"
        )  # whose group may read it, as after a boot
        machine.run("mkdir", "-p", "/var/lib/headrace")
        machine.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/headrace")
        machine.write("/opt/headrace/releases/test/bin/headrace", launcher(), 0o755)
        machine.run("ln", "-sfn", "releases/test", "/opt/headrace/current")
        machine.run("rm", "-rf", "/etc/headrace")
        machine.write("/etc/headrace/headrace.toml", config)
        here.headrace("curve-keygen", "host", "--directory", "/etc/headrace/curve")
        here.headrace("curve-keygen", "laptop", "--directory", "/etc/headrace/laptop")
        machine.run("mkdir", "-p", "/etc/headrace/curve/clients")
        machine.run("cp", "/etc/headrace/laptop/laptop.public", "/etc/headrace/curve/clients/")
        here.headrace("systemd", "install")
        machine.run("ln", "-s", MODELS, "/var/lib/headrace/models")
        _give_kernels(machine)
        machine.systemctl("start", "--no-block", "headrace.target")
        until(here.ready, START_S, "every model answers")
        yield here


def _give_kernels(machine: Machine) -> None:
    """What was compiled on this host, if anything: a minute of a compiler less."""
    from bus.names import state_directory

    for library in (state_directory() / "kernels").glob("*.so"):
        target = machine.path(f"/var/lib/headrace/kernels/{library.name}")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(library.read_bytes())
        machine.run("chown", "-R", "headrace:", "/var/lib/headrace/kernels")
