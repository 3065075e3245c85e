"""A shelf with releases whose venv and pip are stand-ins, and the real installer, which can be killed at any step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from cli.release.shelf import Shelf

ROOT: Final = Path(__file__).parents[2]
STANDIN: Final = Path(__file__).parent / "standin_python.sh"

# Everything that changes the disk or starts a program is announced to this hook before it is done.
KILL_AT: Final = """
import os, signal, sys
left = int(sys.argv.pop(1))
def before(event, arguments):
    global left
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "subprocess.Popen")
    if event == "open" and isinstance(arguments[2], int):
        changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if changes:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from cli.main import app  # everything is imported before
import cli.release.commands, cli.release.app
if left:
    sys.addaudithook(before)
sys.exit(app(sys.argv[1:]))
"""


class Stage:
    """One shelf, and the files that tell the stand-ins what to do."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.shelf = Shelf(home / "opt")
        self.python = home / "python3"
        shutil.copy(STANDIN, self.python)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HEADRACE")},
            "STAGE": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def wheel(self, version: str) -> Path:
        """A wheel of that version; all that is in it are locks."""
        path = self.home / f"headrace-{version}-py3-none-any.whl"
        if not path.exists():
            with zipfile.ZipFile(path, "w") as archive:
                for name in ("runtime", "torch-cpu", "torch-cuda"):
                    archive.writestr(f"cli/release/locks/{name}.lock", "rich==15.0.0 --hash=sha256:00\n")
        return path

    def install(self, version: str, *, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        """`headrace release install`, killed before its n-th change of anything."""
        return self.headrace(
            "release", "install", str(self.wheel(version)), "--python", str(self.python), kill_at=kill_at
        )

    def headrace(self, *words: str, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        """A command on this shelf."""
        return subprocess.run(
            self.command(*words, kill_at=kill_at),
            env=self.environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    def command(self, *words: str, kill_at: int = 0) -> list[str]:
        return [sys.executable, "-c", KILL_AT, str(kill_at), *words, "--root", str(self.shelf.root)]

    def say(self, name: str, text: str = "") -> None:
        """Tell the stand-ins something."""
        (self.home / name).write_text(text)

    def unsay(self, name: str) -> None:
        (self.home / name).unlink()

    def runs(self) -> None:
        """From now on processes of headrace run on this host."""
        self.say("status", '{"processes": ["kv@host"]}')

    def restarts(self) -> list[str]:
        """As which versions everything was restarted, in order."""
        path = self.home / "restarts"
        return path.read_text().split() if path.exists() else []

    def current_version(self) -> str:
        """The version of what `current` leads to, which must be whole."""
        whole = {release.id: release.version for release in self.shelf.releases()}
        return whole[Path(os.readlink(self.shelf.root / "current")).name]
