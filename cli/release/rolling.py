"""What runs on this host goes over to a release: `restart --all` of that release's own command, and what it found.

The commands of a release are the only thing that is asked of it: `status --json`, `check-config`, `restart --all`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli.release.making import clean_environment

_LAST_LINES: Final = 12


class Commands:
    """The `headrace` command of one release."""

    def __init__(self, place: Path, config: Path | None) -> None:
        self._headrace = place / "bin" / "headrace"
        self._config = config

    def runs(self) -> bool:
        """Whether any process of headrace runs here, of whichever release."""
        done = self._call(["status", "--json"])
        try:
            return bool(json.loads(done.stdout)["processes"])
        except (ValueError, KeyError, TypeError):
            return False

    def fault(self) -> str:
        """What it has against the installed configuration; empty for nothing."""
        given = ["-c", str(self._config)] if self._config is not None else []
        done = self._call(["check-config", *given])
        return "" if done.returncode == 0 else _words(done)

    def restart_all(self) -> str:
        """Restart everything as this release. Why it could not, empty where it could."""
        done = self._call(["restart", "--all"], show=True)
        return "" if done.returncode == 0 else _words(done)

    def _call(self, words: Sequence[str], *, show: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it away from anybody's headrace.toml. With `show`, what it says is seen while it runs."""
        command = [str(self._headrace), *words]
        environment = clean_environment()
        if not show:
            return subprocess.run(
                command, capture_output=True, text=True, check=False, cwd="/", env=environment, stdin=subprocess.DEVNULL
            )
        said: list[str] = []
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd="/", env=environment, stdin=subprocess.DEVNULL
        ) as child:
            assert child.stderr is not None
            for line in child.stderr:
                said.append(line)
                print(line, end="", flush=True)
        return subprocess.CompletedProcess(command, child.returncode, "", "".join(said[-_LAST_LINES:]))


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]
    return "\n".join(lines) or f"exit code {done.returncode}"
