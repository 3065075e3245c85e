"""What `make deb` makes, looked at from outside; and the locks that it carries."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from building import ROOT, can_build, deb, unpack

LOCKS = ROOT / "cli" / "release" / "locks"


def pins(text: str) -> dict[str, str]:
    """Names and versions of a lock."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE | re.IGNORECASE))


def test_the_locks_with_hashes_are_of_the_same_versions() -> None:
    plain = pins((ROOT / "requirements.lock").read_text())
    runtime = pins((LOCKS / "runtime.lock").read_text())
    cpu, cuda = (pins((LOCKS / f"torch-{build}.lock").read_text()) for build in ("cpu", "cuda"))
    assert {**runtime, "torch": plain["torch"]} == plain
    assert cpu == {"torch": f"{plain['torch']}+cpu"}
    assert cuda["torch"] == plain["torch"]
    assert not cuda.keys() & runtime.keys()


@pytest.mark.parametrize("lock", sorted(LOCKS.iterdir()), ids=lambda path: path.name)
def test_everything_in_a_lock_has_a_hash(lock: Path) -> None:
    requirements = lock.read_text().replace("\\\n", " ").splitlines()
    assert requirements
    for requirement in requirements:
        assert re.fullmatch(r"[a-z0-9._-]+==\S+( +--hash=sha256:[0-9a-f]{64})+", requirement), requirement[:60]


@can_build
def test_the_package_holds_wheel_configuration_launcher_and_nothing_else(home: Path) -> None:
    package = deb("7.1.0")
    tree = unpack(package, home / "tree")
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir() or path.is_symlink()}
    files -= {name for name in files if name.startswith("DEBIAN/")}
    assert files == {
        "etc/headrace/headrace.toml",
        "usr/bin/headrace",
        "usr/share/doc/headrace/changelog.gz",
        "usr/share/doc/headrace/copyright",
        "usr/share/doc/headrace/install.md",
        "usr/share/headrace/headrace-7.1.0-py3-none-linux_x86_64.whl",
    }
    assert (tree / "usr/bin/headrace").readlink() == Path("/opt/headrace/current/bin/headrace")
    assert (tree / "DEBIAN/conffiles").read_text() == "/etc/headrace/headrace.toml\n"
    control = (tree / "DEBIAN/control").read_text()
    assert "Version: 7.1.0\n" in control
    assert "@" not in control.replace("headrace@", "")
    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if "root/root" not in line]
    subprocess.run(["md5sum", "--check", "--quiet", "DEBIAN/md5sums"], cwd=tree, check=True)
    for script in ("postinst", "prerm", "postrm"):
        assert (tree / "DEBIAN" / script).stat().st_mode & 0o777 == 0o755


@can_build
def test_the_wheel_carries_locks_kernels_and_units(home: Path) -> None:
    tree = unpack(deb("7.1.0"), home / "tree")
    (wheel,) = (tree / "usr/share/headrace").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("cli/release/locks/runtime.lock", "deploy/systemd/units/headrace.target", "bus/catalogue.toml"):
        assert wanted in names
    assert len([name for name in names if re.fullmatch(r"workers/kernels/lib/headrace-[0-9a-f]{16}\.so", name)]) == 4
    assert not [name for name in names if name.startswith("tests/") or name.endswith(".pyc")]
    # A bare Python can run the installer from it: nothing but the standard library.
    script = f"import sys; sys.path.insert(0, {str(wheel)!r}); import cli.release.__main__"
    done = subprocess.run(["/usr/bin/python3", "-S", "-E", "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@can_build
def test_the_same_sources_make_the_same_package() -> None:
    assert deb("7.1.0").read_bytes() == deb("7.1.0", again=True).read_bytes()
