"""Packages made for tests, once for all of them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
# Where `make wheels` puts them; tests have no network.
WHEELS: Final = Path(os.environ.get("HEADRACE_WHEELS") or ROOT / "dist" / "wheels")
NEEDED: Final = [tool for tool in ("dpkg-deb", "g++") if shutil.which(tool) is None]
can_build = pytest.mark.skipif(
    bool(NEEDED), reason=f"packages are built with {' and '.join(NEEDED)}, which is not here"
)
_MADE: Final = tempfile.TemporaryDirectory(prefix="headrace-packages-")


def directory() -> Path:
    """Where they are."""
    return Path(_MADE.name)


@functools.cache
def deb(version: str, *, again: bool = False) -> Path:
    """A package of this checkout that calls itself that version."""
    out = directory() / ("again" if again else "packages")
    done = subprocess.run(
        [ROOT / "deploy/debian/build.sh", out, version],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def unpack(package: Path, to: Path) -> Path:
    """A package's files, and its control files in DEBIAN."""
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "--raw-extract", package, to], check=True)
    return to


def broken(package: Path) -> Path:
    """A package of the same contents, but its schedulers refuse to run, which only shows when they are started."""
    out = directory() / "broken"
    tree = unpack(package, out / "tree")
    (wheel,) = (tree / "usr/share/headrace").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "wheel")
    main = out / "wheel" / "scheduler" / "main.py"
    main.write_text(main.read_text() + "\n\ndef main(*_: object) -> int:\n    return 78\n")
    wheel.unlink()
    subprocess.run([sys.executable, "-m", "wheel", "pack", out / "wheel", "--dest-dir", wheel.parent], check=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, out / package.name], check=True)
    return out / package.name
