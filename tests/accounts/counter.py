"""Real ingresses with a tiny model, before a scheduler that plays a part, with a real accounts and metrics process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_stage import Stage

from cli.main import app

SETTINGS = """
[accounts]
keys = "required"
unleased_s = {unleased_s}
[[price]]
model = "*"
input = 1000
cached_input = 100
output = 3000
"""


class Counter:
    """The stage, and an operator before it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._environment = {
            **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HEADRACE_RUN": str(stage.run),
            "HEADRACE_STATE": str(stage.run / "s"), "HEADRACE_CONFIG": str(stage.config),
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """A process beside the ingresses; returns when it listens."""
        self.processes[name] = self.stage.beside(name)

    def kill(self, name: str) -> None:
        """As the kernel does when memory is short."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def headrace(self, *words: str, code: int = 0) -> str:
        """The command, as an operator types it; in this process, since starting Python would take longer than it."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name, value in self._environment.items():
                patch.setenv(name, value)
            try:
                done = app(list(words))
            except SystemExit as ended:
                done = ended.code
        said = out.getvalue()
        assert done == code, f"{words}: {said}{err.getvalue()}\n{self.logs()}"
        return said if code == 0 else err.getvalue()

    def asked(self, *words: str) -> Any:
        """The same, of what prints JSON."""
        return json.loads(self.headrace(*words, "--json"))

    def key(self, *words: str) -> tuple[str, str]:
        """A new key: its id and itself."""
        made = self.asked("keys", "create", "test", *words)
        return made["id"], made["key"]

    def ask(self, key: str, *, tokens: int = 4, prompt: str = "Hello!", **more: Any) -> httpx.Response:
        """A completion."""
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "seed": 0, **more}
        return self.stage.visits.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})

    def allowance(self, scope: str, dimension: str) -> Any:
        """How a limit or budget stands, as the accounts process says."""
        found = self.asked("keys", "limits", scope)["allowances"]
        return next(each for each in found if each["dimension"] == dimension)

    def logs(self) -> str:
        """Of everybody."""
        return "\n".join(path.read_text() for path in sorted(self.stage.run.glob("*.log")))


@contextlib.contextmanager
def counter(ingresses: int = 2, *, unleased_s: float = 30.0, tables: str = "", text: str = "") -> Iterator[Counter]:
    """Everything is ready; afterwards nothing of it is left."""
    stage = Stage(ingresses, settings=SETTINGS.format(unleased_s=unleased_s), tables=tables, text=text)
    desk = Counter(stage)
    try:
        for name in ("metrics@host", "accounts@host"):
            desk.start(name)
        stage.wait()
        yield desk
    finally:
        for process in desk.processes.values():
            process.kill()
            process.wait()
        stage.close()
