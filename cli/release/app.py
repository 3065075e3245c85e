"""The commands `headrace release ...` and `headrace rollback`, with their help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import cyclopts
from cyclopts import Group, Parameter

INSTALLATION: Final = Group("Installation", sort_key=6)

app = cyclopts.App(
    name="release",
    group=INSTALLATION,
    sort_key=1,
    help=(
        "Releases of headrace, side by side in /opt/headrace: make one of a wheel, list and remove them.\n\n"
        "For example:\n\n"
        "    headrace release install headrace-0.2.0-py3-none-linux_x86_64.whl\n"
        "    headrace release list\n"
        "    headrace rollback"
    ),
)

Root = Annotated[Path, Parameter("--root")]
_ROOT = Path("/opt/headrace")


@app.command(sort_key=1)
def install(
    wheel: Path,
    *,
    wheels: Path | None = None,
    torch: str = "",
    python: Path = Path("/usr/bin/python3"),
    config: Path | None = None,
    restart: bool = True,
    root: Root = _ROOT,
) -> int:
    """Make a release of a wheel, make it current, and restart what runs as it; go back where that fails.

    For example:

        headrace release install headrace-0.2.0-py3-none-linux_x86_64.whl
        headrace release install /srv/wheels          # this wheel and all others from there, without a network

    What it needs is installed by hash, as the wheel's locks say: from a directory of wheels, or from pip's index. It is
    checked before the switch: it must import, and do with the configuration what the current release can. The switch is
    one rename. A release that is there already is only switched to. May be repeated at any time.

    Args:
        wheel: The wheel, or a directory that holds it.
        wheels: A directory with the wheels of everything else; otherwise $HEADRACE_WHEELS, or what /etc/headrace/wheels
            names, or the index.
        torch: Build of torch, cpu or cuda; otherwise $HEADRACE_TORCH, or cuda where there is an NVIDIA driver.
            $TORCH_INDEX is the index of the cpu build.
        python: Of which Python; services must be able to run it.
        config: Configuration to check with, /etc/headrace/headrace.toml where there is one.
        restart: Restart what runs, one process after the other; --no-restart leaves that for later.
        root: Where releases are.
    """
    from cli.release.commands import Asked
    from cli.release.commands import install as act

    return act(Asked(wheel, wheels, torch, python, config, root, restart), os.environ)


@app.command(name="list", sort_key=2)
def list_(*, json: Annotated[bool, Parameter(negative=())] = False, root: Root = _ROOT) -> int:
    """What is there, which is current, what runs from which.

    Args:
        json: For programs.
        root: Where releases are.
    """
    from cli.release.commands import listing

    return listing(root, as_json=json)


@app.command(sort_key=3)
def prune(*, keep: int = 3, dry_run: Annotated[bool, Parameter(negative=())] = False, root: Root = _ROOT) -> int:
    """Remove the oldest releases, and half-made ones.

    Never the current one, the one that rollback would go to, nor one that a process runs from.

    Args:
        keep: So many stay.
        dry_run: Only say what would be removed.
        root: Where releases are.
    """
    from cli.release.commands import prune as act

    return act(keep, root, dry=dry_run)


def rollback(release: str = "", *, config: Path | None = None, restart: bool = True, root: Root = _ROOT) -> int:
    """Go back to the release before this one, or to any by its id, and restart what runs as it.

    For example:

        headrace rollback                   # the newest before the current one that did not fail
        headrace rollback 0.1.0-1f0c9a3e

    No request is lost: it is `restart --all` of that release. Where that does not become ready, this one comes back.

    Args:
        release: Its id, or the beginning of it, as `headrace release list` shows it.
        config: Configuration to check with.
        restart: Restart what runs; --no-restart leaves that for later.
        root: Where releases are.
    """
    from cli.release.commands import rollback as act

    return act(release, config, root, restart=restart)
