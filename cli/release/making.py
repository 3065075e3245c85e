"""A release from a wheel: a virtual environment with exactly what the wheel's locks name, by their hashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cli.release.decisions import Refused, Release, identify, next_sequence, torch_build
from cli.release.shelf import Shelf
from cli.release.wheel import Wheel, other_wheels

PYTHON: Final = Path("/usr/bin/python3")
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
WHEELS_FILE: Final = Path("/etc/headrace/wheels")
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
_PYTHONS: Final = ("3.11", "3.12")
_LAST_LINES: Final = 12

Tell = Callable[[str], None]


class Ingredients(NamedTuple):
    """What a release is made of."""

    wheel: Wheel
    python: Path
    python_version: str
    torch: str
    wheels: Path | None
    """A directory with all wheels, where no index is to be asked."""
    torch_index: str

    @property
    def id(self) -> str:
        return identify(self.wheel.version, self.wheel.sha256, self.torch, self.python_version)


def gather(
    wheel: Wheel, *, python: Path, wheels: Path | None, torch: str, given: Path, environment: Mapping[str, str]
) -> Ingredients:
    """Decide of what a release is made.

    Args:
        wheels: A directory asked for; otherwise $HEADRACE_WHEELS, what /etc/headrace/wheels names, or `given` itself.
        torch: The build asked for; otherwise $HEADRACE_TORCH, or what suits this host.
        given: What was given as the wheel: a directory may hold all the others as well.

    Raises:
        Refused: one of them cannot be used.
    """
    if wheels is None and (named := environment.get("HEADRACE_WHEELS") or _named_in_file()):
        wheels = Path(named)
    if wheels is None and given.is_dir() and other_wheels(given):
        wheels = given
    if wheels is not None and not wheels.is_dir():
        raise Refused(f"{wheels} is not a directory of wheels")
    return Ingredients(
        wheel, python, _usable(python),
        torch_build(torch or environment.get("HEADRACE_TORCH", ""), NVIDIA_DRIVER.exists()),
        wheels.resolve() if wheels is not None else None,
        environment.get("TORCH_INDEX") or CPU_INDEX,
    )  # fmt: skip


def make(shelf: Shelf, lock: int, of: Ingredients, tell: Tell) -> Release:
    """Make it. What fails or is interrupted leaves nothing behind; what is killed, a half-made directory.

    Raises:
        Refused: it cannot be made; the message has the last words of what failed.
    """
    place = shelf.place(of.id)
    locks = of.wheel.locks(of.torch)
    whole = False
    try:
        place.mkdir(mode=0o755)
        tell(f"{of.id}: a virtual environment of {of.python} ({of.python_version})")
        _run([of.python, "-m", "venv", place], lock, "apt install python3-venv")
        for name, text in locks.items():
            (place / name).write_bytes(text)
        count = sum(text.count(b"==") for text in locks.values())
        tell(f"{of.id}: {count} wheels from {of.wheels or 'the package index'}, torch for {of.torch}")
        pip: list[str | Path] = [place / "bin" / "python", "-m", "pip", "--isolated", "--disable-pip-version-check"]
        pip += ["install", "--quiet", "--no-compile", "--no-deps"]
        where, environment = _sources(of)
        advice = (
            f"without a network: make wheels fetches all of them; HEADRACE_WHEELS=DIR, or DIR in {WHEELS_FILE}"
            if of.wheels is None
            else f"{of.wheels} must hold every wheel of the lock; make wheels fetches them"
        )
        requirements = [word for name in locks for word in ("--requirement", place / name)]
        _run([*pip, "--require-hashes", *where, *requirements], lock, advice, environment)
        _run([*pip, "--no-index", of.wheel.path], lock, "fetch the wheel again", environment)
        tell(f"{of.id}: does it import?")
        says = _run([place / "bin" / "python", "-m", "cli.release.selfcheck"], lock, "the wheel is of no use here")
        if says.strip() != of.wheel.version:
            raise Refused(f"{of.wheel.path.name} calls itself {says.strip()} when it runs")
        release = Release(
            of.id, of.wheel.version, of.torch, of.python_version, next_sequence(shelf.releases()), time.time()
        )
        shelf.complete(release)
        whole = True
    finally:
        if not whole and place.exists():
            shutil.rmtree(place, ignore_errors=True)
    return release


def _sources(of: Ingredients) -> tuple[list[str | Path], dict[str, str]]:
    """Where pip looks. A host's pip.conf names its mirrors and certificates; a directory is all there is."""
    if of.wheels is not None:
        return ["--no-index", "--find-links", of.wheels], {"PIP_CONFIG_FILE": os.devnull}
    return (["--extra-index-url", of.torch_index] if of.torch == "cpu" else []), {}


def _named_in_file() -> str:
    try:
        return WHEELS_FILE.read_text().strip()
    except OSError:
        return ""


def _usable(python: Path) -> str:
    """The version of a Python to make releases of.

    Raises:
        Refused: it is none, too old or new, or lies where service users cannot run it.
    """
    try:
        real = python.resolve(strict=True)
        asked = "import ensurepip, sys, venv; print('.'.join(map(str, sys.version_info[:2])))"
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False, cwd="/")
    except OSError as error:
        raise Refused(f"{python}: {error.strerror}; apt install python3 python3-venv") from None
    if done.returncode:
        raise Refused(f"{python} cannot make virtual environments; apt install python3-venv")
    version = done.stdout.strip()
    if version not in _PYTHONS:
        raise Refused(f"{python} is Python {version}; headrace runs on {' and '.join(_PYTHONS)}")
    if shut := [str(folder) for folder in real.parents if not folder.stat().st_mode & 0o001]:
        raise Refused(f"{real} lies in {shut[-1]}, where services cannot run it; use /usr/bin/python3")
    return version


def _run(command: Sequence[str | Path], lock: int, advice: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a step with the lock in its hands; what it printed.

    Raises:
        Refused: it failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", pass_fds=[lock], stdin=subprocess.DEVNULL,
        env={**clean_environment(), **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        words = "\n    ".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
        ended = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise Refused(f"{' '.join(str(word) for word in command[:4])} ... {ended}:\n    {words}\n{advice}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Ours without what would make another release's Python import something else."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON") and key != "VIRTUAL_ENV"}
