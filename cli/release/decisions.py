"""What to do about releases: which is the way back, which are superfluous, may this one be switched to. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

TORCH_BUILDS: Final = ("cpu", "cuda")


class Release(NamedTuple):
    """A whole release on the shelf."""

    id: str
    version: str
    torch: str
    """Which build of torch: `cpu` or `cuda`."""
    python: str
    """Of which Python, for example `3.11`."""
    sequence: int
    """Later ones have greater numbers; times may jump."""
    made: float
    """Unix time, to be shown."""
    failed: str = ""
    """Why it did not become ready when it was switched to."""


class Refused(Exception):
    """It cannot be done as things are. The message says why, and what to do."""


def identify(version: str, wheel_sha256: str, torch: str, python: str) -> str:
    """The same wheel, build of torch and Python make the same release, and anything else another one."""
    digest = hashlib.sha256(f"{wheel_sha256} {torch} {python}".encode()).hexdigest()
    return f"{version}-{digest[:8]}"


def next_sequence(releases: Sequence[Release]) -> int:
    return max((release.sequence for release in releases), default=0) + 1


def torch_build(asked: str, has_nvidia_driver: bool) -> str:
    """The build of torch for this host.

    Raises:
        Refused: no such build.
    """
    if asked and asked not in TORCH_BUILDS:
        raise Refused(f"{asked!r} is not a build of torch; those are {' and '.join(TORCH_BUILDS)}")
    return asked or ("cuda" if has_nvidia_driver else "cpu")


def way_back(releases: Sequence[Release], current: str | None, asked: str = "") -> Release:
    """The release to go back to: the one asked for, otherwise the newest before the current one that did not fail.

    Args:
        asked: an id, or the beginning of exactly one.

    Raises:
        Refused: there is none.
    """
    known = ", ".join(release.id for release in releases) or "none"
    if asked:
        exact = [release for release in releases if release.id == asked]
        found = exact or [release for release in releases if release.id.startswith(asked)]
        if len(found) != 1:
            raise Refused(f"{asked} is {'no release' if not found else 'the beginning of several'}; there are: {known}")
        return found[0]
    here = next((release for release in releases if release.id == current), None)
    if here is None:
        raise Refused(f"no release is current, so there is none before it; name one of: {known}")
    earlier = [release for release in releases if release.sequence < here.sequence and not release.failed]
    if not earlier:
        raise Refused(f"no release before {here.id} is here that is known not to fail; there are: {known}")
    return max(earlier, key=lambda release: release.sequence)


def superfluous(releases: Sequence[Release], current: str | None, in_use: Collection[str], keep: int) -> list[Release]:
    """Those that may be removed, oldest first: not the current one, not the way back, none that runs, not the newest.

    Args:
        in_use: ids of releases that processes run from.
        keep: so many stay in all, where that many are there.
    """
    kept = {release.id for release in releases if release.id in in_use or release.id == current}
    with suppress(Refused):
        kept.add(way_back(releases, current).id)
    oldest_first = sorted(releases, key=lambda release: release.sequence)
    for release in reversed(oldest_first):
        if len(kept) < keep:
            kept.add(release.id)
    return [release for release in oldest_first if release.id not in kept]


def may_switch(fault: str, fault_of_current: str | None) -> bool:
    """Whether a release may become current that finds this fault with the configuration; empty for none.

    One that can do less with it than the current one may not. Where the current one finds fault as well, or there is no
    current one, nothing is lost: a fresh host has no model yet, and a broken file must not hold up the package manager.
    """
    return not fault or fault_of_current is None or bool(fault_of_current)
