"""Units put in place, and taken away again. What is in them is decided in `units.py`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bus.config import Config, ConfigError, load_config, parse_config
from cli.systemd.host import this_host
from cli.systemd.placement import TooFewGpus
from cli.systemd.units import MARK, OTHER, UNITS, Layout, Unfit, example, render

EXIT_CONFIG: Final = 78
EXIT_MISSING: Final = 69


def install(root: Path, config_path: Path | None, layout: Layout, *, dry_run: bool, enable: bool) -> int:
    """Write the units of a configuration below `root`, remove those of an earlier one, and tell systemd."""
    try:
        config = _configuration(root, config_path, layout, dry_run=dry_run)
        files = render(config, this_host(), layout)
    except (ConfigError, Unfit, TooFewGpus) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    stale = sorted(_ours(root) - files.keys())
    changed = [path for path, text in files.items() if not _same(root / path, text)]
    if dry_run:
        for path in changed:
            print(f"{'change' if (root / path).exists() else 'create'}  /{path}")
        for path in stale:
            print(f"remove  /{path}")
        print(f"{len(files) - len(changed)} of {len(files)} files are as they should be", file=sys.stderr)
        return 0
    live = root == Path("/") and _systemd_runs()
    try:
        if live:
            _stop_gone(stale)
        for path in changed:
            _write(root / path, files[path])
        _remove(root, stale)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; run this as root, or give --root", file=sys.stderr)
        return 1
    print(f"{len(changed)} files written, {len(stale)} removed, {len(files) - len(changed)} as they were")
    if live:
        return _tell_systemd(enable=enable)
    print("on its host, as root: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")
    return 0


def remove(root: Path) -> int:
    """Stop everything, and take every file of `install` away. Configuration, models and user stay."""
    paths = sorted(_ours(root) | {path for path in OTHER.values() if _is_ours(root / path)})
    if not paths:
        print(f"nothing of headrace systemd install is in {root}")
        return 0
    live = root == Path("/") and _systemd_runs()
    if live:
        _run("systemctl", "disable", "--quiet", "headrace.target")
        _run("systemctl", "stop", "headrace.target", "headrace-*.path", "headrace-*.service", "headrace-*.socket")
        _run("systemctl", "stop", "headrace.slice")  # empty now, and there until somebody stops it
    _remove(root, paths)
    if live:
        _run("systemctl", "daemon-reload")
        _run("systemctl", "reset-failed", "headrace*")
    print(f"{len(paths)} files removed; configuration, models and the user headrace stay")
    return 0


def _configuration(root: Path, given: Path | None, layout: Layout, *, dry_run: bool) -> Config:
    """The file of the installation; where there is none yet, the example, which is put there.

    Raises:
        ConfigError: see there.
    """
    path = given or root / layout.config.lstrip("/")
    if given is not None or path.is_file():
        return load_config(path)
    text = example()
    if not dry_run:
        _write(path, text)
        print(f"no configuration yet: wrote an example to {path}")
    return parse_config(text, "the example")


def _tell_systemd(*, enable: bool) -> int:
    steps = [
        ("systemd-sysusers", f"/{OTHER['sysusers.conf']}"),
        ("systemd-tmpfiles", "--create", f"/{OTHER['tmpfiles.conf']}"),
        ("systemctl", "daemon-reload"),
        *([("systemctl", "enable", "--quiet", "headrace.target")] if enable else []),
    ]
    for step in steps:
        if not _run(*step):
            return 1
    print("next: systemctl start headrace.target\n      headrace status\n      journalctl --namespace=headrace -f")
    return 0


def _run(*command: str) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def _systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def _stop_gone(stale: Iterable[str]) -> None:
    """Processes that the configuration has no more: their units are about to disappear under them."""
    units = {Path(path).parent.name.removesuffix(".d") for path in stale if path.endswith("/30-configuration.conf")}
    sockets = {
        unit.replace(".service", ".socket") for unit in units if re.match(r"headrace-(scheduler|ingress)@", unit)
    }
    if units:
        _run("systemctl", "stop", *sorted(units | sockets))


# --- files ------------------------------------------------------------------------------------------------------------


def _ours(root: Path) -> set[str]:
    """Unit files that an `install` has written."""
    return {str(path.relative_to(root)) for path in (root / UNITS).glob("headrace*/*") if _is_ours(path)} | {
        str(path.relative_to(root)) for path in (root / UNITS).glob("headrace*") if _is_ours(path)
    }


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return MARK in file.readline()
    except (OSError, UnicodeDecodeError):
        return False


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _write(path: Path, text: str) -> None:
    """Whole or not at all: systemd may read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.chmod(0o644)
    scratch.replace(path)


def _remove(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (root / path).unlink(missing_ok=True)
        parent = (root / path).parent
        if parent.name.endswith(".d") and parent.is_dir() and not os.listdir(parent):
            shutil.rmtree(parent)
