"""The life of a package on a host: a real .deb, real wheels, a real systemd, a real model, and answers under way.

Installed, configured, upgraded under load, rolled back, upgraded to a release that does not run, removed, purged.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from building import ROOT, WHEELS, broken, can_build, deb, directory

sys.path.insert(0, str(ROOT / "tests" / "systemd"))

from installation import Installation, Stream, until
from machine import Machine, why_not

from bus.names import models_directory

INSTALL_S: Final = 280.0
PROMPT: Final = "The capital of France is"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.machine,
    can_build,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.skipif(not list(WHEELS.glob("torch-*.whl")), reason=f"no wheels in {WHEELS}; make wheels fetches them"),
]


class Host(Installation):
    """A machine with Debian's package manager, and packages and wheels to give to it."""

    def dpkg(self, *words: str, check: bool = True) -> str:
        """What dpkg says."""
        done = self.machine.run("dpkg", *words, check=check, timeout=INSTALL_S)
        return done.stdout + done.stderr + f"exit code {done.returncode}"

    def version(self) -> set[str]:
        """Of all processes that run."""
        return {process["build"] for process in self.status()["processes"]}

    def package_state(self) -> str:
        """As dpkg knows it; empty where it does not."""
        return self.machine.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "headrace", check=False).stdout.strip()

    def releases(self) -> list[str]:
        """The versions on the shelf."""
        path = self.machine.path("/opt/headrace/releases")
        return sorted(entry.name.split("-")[0] for entry in path.iterdir())

    def leaves(self) -> list[str]:
        """Units that systemd knows, loaded or as a file."""
        words = ("headrace*", "--no-legend", "--plain", "--no-pager")
        listed = self.machine.systemctl("list-units", "--all", *words)
        listed += self.machine.systemctl("list-unit-files", *words, check=False)  # 1 where there is none
        return [line.split()[0] for line in listed.splitlines()]


@pytest.fixture
def host() -> Iterator[Host]:
    packages = directory() / "packages"
    for version in ("0.8.0", "0.9.0"):
        deb(version)
    shown = {packages: "/srv/packages", broken(deb("0.9.5")).parent: "/srv/broken", WHEELS: "/srv/wheels"}
    shown[models_directory()] = "/srv/models"
    with Machine.boot("package", binds=shown) as machine:
        # Whatever this host itself has of headrace is not there.
        for path in ("/var/lib/headrace", "/opt/headrace", "/etc/headrace"):
            machine.run("rm", "-rf", path)
        yield Host(machine)


class Load:
    """Streams without a pause, from when it is entered to when it is left."""

    def __init__(self, host: Host) -> None:
        self._host, self._ends = host, threading.Event()
        self.streams: list[Stream] = []
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                self.streams.append(self._host.complete(PROMPT, 48))
            except Exception as error:
                self.errors.append(error)
                return

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def check(self, expected: list[int]) -> None:
        """Every stream came to its end, with the tokens that it has when nothing is disturbed."""
        assert not self.errors
        assert self.streams
        assert [stream.ids for stream in self.streams if stream.ids != expected] == []


def test_the_life_of_a_package(host: Host) -> None:
    machine = host.machine
    # Without wheels and without a network nothing is half there, and it can be taken up.
    said = host.dpkg("--install", "/srv/packages/headrace_0.8.0_amd64.deb", check=False)
    assert "exit code 1" in said
    assert "HEADRACE_WHEELS=DIR" in said
    assert host.package_state() == "iF"
    assert host.releases() == []
    machine.write("/etc/headrace/wheels", "/srv/wheels\n")
    host.dpkg("--configure", "headrace")
    assert host.package_state() == "ii"
    assert host.releases() == ["0.8.0"]
    assert machine.systemctl("is-enabled", "headrace.target").strip() == "enabled"
    # The configuration is the operator's from now on.
    toml = machine.path("/etc/headrace/headrace.toml")
    toml.write_text(toml.read_text().replace('"1GiB"', '"256MiB"') + "threads = 1\n")
    refused = machine.run("headrace", "check-config", check=False)
    assert refused.returncode == 78
    assert "headrace pull smollm2-135m-instruct" in refused.stdout + refused.stderr
    machine.run("sh", "-c", "cp /srv/models/SmolLM2-* /var/lib/headrace/models/")  # instead of a pull
    machine.run("headrace", "check-config")
    machine.run("headrace", "systemd", "install")
    machine.systemctl("start", "headrace.target")
    until(host.ready, 90, "every model answers")
    expected = host.complete(PROMPT, 48).ids
    assert len(expected) == 48
    assert host.version() == {"0.8.0"}

    # Upgrade under load.
    arena = host.pid("headrace-kv.service")
    with Load(host) as load:
        host.dpkg("--install", "/srv/packages/headrace_0.9.0_amd64.deb")
        assert host.version() == {"0.9.0"}
    load.check(expected)
    assert host.pid("headrace-kv.service") not in (0, arena)
    assert "256MiB" in toml.read_text()

    # And back, and once more to what dpkg thinks is there.
    with Load(host) as load:
        machine.run("headrace", "rollback", timeout=INSTALL_S)
        assert host.version() == {"0.8.0"}
    load.check(expected)
    again = host.dpkg("--install", "/srv/packages/headrace_0.9.0_amd64.deb")
    assert "is here already" in again
    assert host.version() == {"0.9.0"}

    # A release that imports, and does not run.
    with Load(host) as load:
        said = host.dpkg("--install", "/srv/broken/headrace_0.9.5_amd64.deb", check=False)
    load.check(expected)
    assert "exit code 1" in said
    assert "does not become ready; back to 0.9.0" in said
    until(host.ready, 60, "every model answers as before")
    assert host.version() == {"0.9.0"}
    assert "failed: scheduler@smollm2" in machine.run("headrace", "release", "list").stdout
    host.dpkg("--install", "/srv/packages/headrace_0.9.0_amd64.deb")
    assert host.package_state() == "ii"

    # Removed: what was asked is answered, then nothing is left but what is the operator's.
    streams: list[Stream] = []
    asked = threading.Event()
    asking = threading.Thread(target=lambda: streams.append(host.complete(PROMPT, 48, seen=lambda _: asked.set())))
    asking.start()
    assert asked.wait(60)
    host.dpkg("--remove", "headrace")
    asking.join()
    assert streams[0].ids == expected
    assert host.leaves() == []
    for gone in ("/opt/headrace", "/usr/bin/headrace", "/usr/share/headrace", "/etc/sysusers.d/headrace.conf"):
        assert not os.path.lexists(machine.path(gone)), gone
    assert "256MiB" in toml.read_text()
    assert list(machine.path("/var/lib/headrace/models").glob("*.gguf"))
    assert machine.run("getent", "passwd", "headrace").stdout

    # Installed again it is what it was; purged, all of it goes, but not a disk that somebody mounted there.
    host.dpkg("--install", "/srv/packages/headrace_0.8.0_amd64.deb")
    machine.systemctl("start", "headrace.target")
    until(host.ready, 90, "every model answers")
    assert host.complete(PROMPT, 48).ids == expected
    disk = "/var/lib/headrace/disk"
    machine.run("sh", "-c", f"mkdir {disk} && mount -t tmpfs tmpfs {disk} && touch {disk}/mine")
    said = host.dpkg("--purge", "headrace")
    assert "mounted below it" in said
    assert "user headrace stays" in said
    assert [entry.name for entry in machine.path("/var/lib/headrace").iterdir()] == ["disk"]
    assert machine.path(f"{disk}/mine").exists()
    assert host.leaves() == []
    assert not machine.path("/etc/headrace").exists()
    machine.run("umount", disk)
    host.dpkg("--install", "/srv/packages/headrace_0.8.0_amd64.deb", check=False)  # no wheels any more: half-configured
    host.dpkg("--purge", "headrace")
    assert not machine.path("/var/lib/headrace").exists()
    assert machine.run("getent", "passwd", "headrace", check=False).returncode == 2
    assert host.package_state() == ""
