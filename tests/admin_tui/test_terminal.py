"""The real thing in a real terminal: tmux on a socket of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).parent / "data" / "demo.ndjson"
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "admin_tui", "--replay", str(DEMO)]

pytestmark = pytest.mark.system


class Terminal:
    """A tmux server with one pane of 120 x 34."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._socket = str(directory / "t")
        command = " ".join([f"cd {ROOT} &&", *COMMAND, *options, "; echo ended with $?; sleep 60"])
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "34", command)

    def _tmux(self, *arguments: str) -> str:
        environment = {**os.environ, "TEXTUAL_ANIMATIONS": "none", "LC_ALL": "C.UTF-8"}
        for size in ("COLUMNS", "LINES"):  # a test runner sets them, and they win over the terminal's own size
            environment.pop(size, None)
        done = subprocess.run(
            ["tmux", "-S", self._socket, *arguments], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def pane(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, true: Callable[[str], bool]) -> str:
        """The pane, once it is so; the deadline only stops a test that fails."""
        deadline = time.monotonic() + 30
        while not true(pane := self.pane()):
            assert time.monotonic() < deadline, pane
            time.sleep(0.1)
        return pane

    def title(self) -> str:
        return self._tmux("display-message", "-p", "#{pane_title}")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")
    opened: list[Terminal] = []

    def open_terminal(*options: str) -> Terminal:
        opened.append(Terminal(tmp_path, *options))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def test_screens_keys_and_a_clean_end(terminal: Callable[..., Terminal]) -> None:
    top = terminal()
    pane = top.until(lambda pane: "advisor" in pane and "replay" in pane.splitlines()[0])
    assert "headrace" in pane.splitlines()[0]
    assert all(len(line) <= 120 for line in pane.splitlines())
    top.press("2")
    top.until(lambda pane: "LAST EXIT" in pane and "worker@smollm2.0.0" in pane)
    top.press("D")
    top.until(lambda pane: "Takes nothing new" in pane)
    top.press("Escape")  # alone: with a key right after it, a terminal says alt and that key
    top.until(lambda pane: "Takes nothing new" not in pane)
    top.press("4")
    top.until(lambda pane: "TOK IN/OUT" in pane)
    top.press("q")
    top.until(lambda pane: "ended with 0" in pane)


def test_ascii_draws_with_ascii_only(terminal: Callable[..., Terminal]) -> None:
    top = terminal("--ascii")
    pane = top.until(lambda pane: "advisor" in pane)
    assert pane.isascii()


@pytest.mark.parametrize(("options", "code"), [(["--once", "--json"], 0), (["--plain"], 0)])
def test_the_same_without_a_screen(options: list[str], code: int) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    if "--json" in options:
        document = json.loads(done.stdout)
        assert {model["model"] for model in document["models"]} == {"smollm2", "qwen2.5-coder-0.5b"}
        assert document["findings"][0]["subject"] == "worker@smollm2.1.0"
    else:
        assert "process: worker@smollm2.1.0 late" in done.stdout
        for kind in ("steps", "host", "worker", "pool", "prefix", "lease", "weights", "memory", "door"):
            assert f"\n{kind}: " in done.stdout, kind


def test_what_cannot_be_shown_is_said_with_an_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.ndjson"
    bad.write_text("nonsense\n")
    for path in (bad, tmp_path / "missing.ndjson"):
        done = subprocess.run(
            [sys.executable, "-m", "admin_tui", "--replay", str(path)],
            capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 66
        assert path.name in done.stderr
