"""What runs on this host goes over to a release: `restart --all` of that release's own command, and what it found.

A release is only asked by its commands: `status --json`, `check-config`, `systemd install`, `restart --all`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from cli.release.making import clean_environment

UNIT: Final = Path("/etc/systemd/system/headrace-kv.service")
_LAST_LINES: Final = 12


class Units(NamedTuple):
    """What the installed units of systemd were made with."""

    executable: str
    config: str
    models: str


def units_made_with(unit: str) -> Units | None:
    """Read from the text of one of them; None where it is not as `headrace systemd install` writes it."""
    start = re.search(r"^ExecStart=(\S+) run \S+ -c (\S+)$", unit, re.MULTILINE)
    models = re.search(r"^Environment=.*HEADRACE_MODELS=(\S+)", unit, re.MULTILINE)
    return Units(start[1], start[2], models[1]) if start is not None and models is not None else None


def installed_units(root: Path) -> Units | None:
    """Of this host's units, if they run what is current on this shelf."""
    try:
        found = units_made_with(UNIT.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found if found is not None and found.executable == str(root / "current" / "bin" / "headrace") else None


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

    def make_units(self, units: Units) -> str:
        """Units as this release wants them, with what they were made with. Why that failed, empty where it did not."""
        words = ["--config", units.config, "--executable", units.executable, "--models", units.models]
        done = self._call(["systemd", "install", "--no-enable", *words])
        return "" if done.returncode == 0 else _words(done)

    def restart_all(self) -> str:
        """Restart everything as this release, showing how it goes. Why it could not, empty where it could."""
        done = self._call(["restart", "--all", "--json"], show=True)
        if done.returncode == 0:
            return ""
        try:
            report = json.loads(done.stdout)
            return f"{report['failed']}: {report['reason']}"
        except (ValueError, KeyError, TypeError):  # it was refused before anything was restarted
            return _words(done)

    def _call(self, words: Sequence[str], *, show: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it away from anybody's headrace.toml. With `show`, what it says is seen while it runs."""
        command, last = [str(self._headrace), *words], deque[str](maxlen=_LAST_LINES)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
            env=clean_environment(),
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stderr is not None
            with ThreadPoolExecutor(1) as reader:
                answer = reader.submit(child.stdout.read)
                for line in child.stderr:
                    last.append(line)
                    if show:
                        print(line, end="", flush=True)
        return subprocess.CompletedProcess(command, child.returncode, answer.result(), "".join(last))


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]
    return "\n".join(lines) or f"exit code {done.returncode}"
