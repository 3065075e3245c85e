"""A second release beside the first: its own tree, its own Python. An upgrade is `headrace restart --all` of the new
one, and the way back is that of the old one."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "bus",
    "batch",
    "cli",
    "kv",
    "metrics",
    "admin_tui",
    "headrace_client",
)  # the other roles are stand-ins here

pytestmark = pytest.mark.system


def release(home: Path, build: str) -> Path:
    """A tree of that release with a Python that imports it; the Python's path."""
    tree = home / build
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "bus" / "build.py").write_text(f'BUILD = "{build}"\n')
    venv.create(tree / "venv", symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(tree / "venv"), "platbase": str(tree / "venv")})
    (Path(paths["purelib"]) / "headrace.pth").write_text(f"{tree}\n{sysconfig.get_paths()['purelib']}\n")
    return tree / "venv" / "bin" / "python"


def restart_all(host, python: Path) -> None:
    done = subprocess.run(
        [python, "-m", "cli.main", "restart", "--all"],
        env=host.environment, cwd=host.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def programs(host) -> set[tuple[str, str]]:
    """Release and Python of every process."""
    commands = {p.build: Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in host.status().values()}
    return {(build, command.split(b"\0")[0].decode()) for build, command in commands.items()}


def test_an_upgrade_and_the_way_back(host, waiting) -> None:
    old, new = release(host.home, "8.0.0"), release(host.home, "9.0.0")
    host.environment["PYTHONPATH"] = str(ROOT / "tests" / "cli" / "standins")
    up = subprocess.run(
        [old, "-m", "cli.main", "up", "--detach"], env=host.environment, cwd=host.home, capture_output=True, text=True
    )
    assert up.returncode == 0, up.stderr
    assert programs(host) == {("8.0.0", str(old))}
    before, supervisor = {p.name: p.pid for p in host.status().values()}, host.pid("supervisor@host")

    restart_all(host, new)
    assert programs(host) == {("9.0.0", str(new))}
    assert host.pid("supervisor@host") == supervisor
    assert not [name for name, pid in before.items() if name != "supervisor@host" and host.pid(name) == pid]

    killed = host.kill("kv@host")
    waiting(lambda: host.pid("kv@host") not in (0, killed), "what dies later comes back")
    waiting(lambda: host.status()["kv@host"].state == "ready", "and as what it was")
    assert programs(host) == {("9.0.0", str(new))}

    restart_all(host, old)
    assert programs(host) == {("8.0.0", str(old))}
    saved = msgspec.json.decode((host.run / "supervisor.json").read_bytes())
    assert len(saved["units"]) == len(before) - 1
