"""What a wheel of headrace says of itself: version, digest, and the locks with hashes that it carries."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

from cli.release.decisions import Refused

_LOCKS: Final = "cli/release/locks"
_NAME: Final = re.compile(r"headrace-([^-]+)-[^/]*\.whl")


class Wheel(NamedTuple):
    """A wheel of headrace, looked into and not yet installed."""

    path: Path
    version: str
    sha256: str

    def locks(self, torch: str) -> dict[str, bytes]:
        """The requirement files for one build of torch, by name: every version with the hashes of its files.

        Raises:
            Refused: it carries none for that build.
        """
        names = ("runtime.lock", f"torch-{torch}.lock")
        try:
            with zipfile.ZipFile(self.path) as archive:
                return {name: archive.read(f"{_LOCKS}/{name}") for name in names}
        except KeyError as error:
            raise Refused(f"{self.path.name} cannot be installed with torch's {torch} build: {error.args[0]}") from None


def open_wheel(given: Path) -> Wheel:
    """The wheel at a path, or the one in a directory.

    Raises:
        Refused: there is none, or several, or it is not a wheel.
    """
    path = given
    if given.is_dir():
        found = sorted(file for file in given.iterdir() if _NAME.fullmatch(file.name))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise Refused(f"{given} must hold exactly one wheel of headrace; it holds: {names}")
        path = found[0]
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise Refused(f"{path} is not a wheel of headrace: expected headrace-VERSION-....whl, or a directory with one")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise Refused(f"{path}: {broken} is damaged; fetch the wheel again")
        return Wheel(path.resolve(), match[1], hashlib.sha256(path.read_bytes()).hexdigest())
    except FileNotFoundError:
        raise Refused(f"{path}: there is no such file") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise Refused(f"{path} cannot be read: {error}") from None


def other_wheels(directory: Path) -> bool:
    """Whether a directory holds what headrace needs as well, and not only its own wheel."""
    return any(file.suffix == ".whl" and not _NAME.fullmatch(file.name) for file in directory.iterdir())
