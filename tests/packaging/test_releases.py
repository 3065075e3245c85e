"""Installing, going back, removing: the real commands on a real directory, with stand-ins for venv and pip."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stage import ROOT, Stage

from cli.release.decisions import Refused
from cli.release.making import _usable
from cli.release.rolling import Units, units_made_with
from cli.systemd.units import fill


def listed(stage: Stage) -> dict[str, dict[str, object]]:
    answer = json.loads(stage.headrace("release", "list", "--json").stdout)
    return {release["version"]: release for release in answer["releases"]}


def test_install_upgrade_and_back(stage: Stage) -> None:
    first = stage.install("1.0.0")
    assert first.returncode == 0, first.stderr
    assert stage.current_version() == "1.0.0"
    assert stage.restarts() == []  # nothing runs
    assert stage.install("2.0.0").returncode == 0
    assert stage.current_version() == "2.0.0"
    assert stage.headrace("rollback").returncode == 0
    assert stage.current_version() == "1.0.0"
    refused = stage.headrace("rollback")
    assert refused.returncode == 1
    assert "no release before" in refused.stderr
    again = stage.install("2.0.0")
    assert "is here already" in again.stdout
    assert stage.current_version() == "2.0.0"
    assert [release["current"] for release in listed(stage).values()] == [False, True]


def test_what_runs_is_restarted_as_the_new_release(stage: Stage) -> None:
    stage.install("1.0.0")
    stage.runs()
    with running_from(stage):
        assert "everything runs as 2.0.0" in stage.install("2.0.0").stdout
    assert stage.restarts() == ["2.0.0"]
    with running_from(stage):
        assert stage.headrace("rollback").returncode == 0
    assert stage.restarts() == ["2.0.0", "1.0.0"]


def test_a_release_that_does_not_become_ready_is_left_again(stage: Stage) -> None:
    stage.install("1.0.0")
    stage.runs()
    stage.say("broken-2.0.0")
    with running_from(stage):
        done = stage.install("2.0.0")
    assert done.returncode == 1
    assert "worker@m.0.0 fails" in done.stdout  # said while it happened
    assert "as before" in done.stderr
    assert stage.current_version() == "1.0.0"
    assert stage.restarts() == ["1.0.0"]
    assert listed(stage)["2.0.0"]["failed"] == "worker@m.0.0: died five times"
    assert stage.install("3.0.0").returncode == 0
    stage.headrace("rollback")
    assert stage.current_version() == "1.0.0"  # past the one that failed


def test_a_release_that_cannot_use_the_configuration_is_not_switched_to(stage: Stage) -> None:
    stage.install("1.0.0")
    stage.say("fault-2.0.0")
    done = stage.install("2.0.0")
    assert done.returncode == 1
    assert "model[0]: no such file" in done.stderr
    assert stage.current_version() == "1.0.0"
    stage.say("fault-1.0.0")  # the configuration is at fault, not the release
    assert stage.install("2.0.0").returncode == 0
    assert stage.current_version() == "2.0.0"


@pytest.mark.parametrize(("trouble", "says"), [("pip-fails", "no matching distribution"), ("import-fails", "libcuda")])
def test_what_cannot_be_made_leaves_nothing_behind(stage: Stage, trouble: str, says: str) -> None:
    stage.install("1.0.0")
    stage.say(trouble)
    done = stage.install("2.0.0")
    assert done.returncode == 1
    assert says in done.stderr
    assert [path.name[:5] for path in (stage.shelf.root / "releases").iterdir()] == ["1.0.0"]
    assert stage.current_version() == "1.0.0"


def test_prune_leaves_what_is_needed(stage: Stage) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0"):
        stage.install(version)
    stage.headrace("rollback", "2.0")
    with running_from(stage, "4.0.0"):
        assert "3.0.0" in stage.headrace("release", "prune", "--keep", "1", "--dry-run").stdout
        assert len(stage.shelf.releases()) == 5
        assert stage.headrace("release", "prune", "--keep", "1").returncode == 0
    assert [release.version for release in stage.shelf.releases()] == ["1.0.0", "2.0.0", "4.0.0"]


def test_files_are_readable_by_services_whatever_the_umask(stage: Stage) -> None:
    before = os.umask(0o077)
    try:
        assert stage.install("1.0.0").returncode == 0
    finally:
        os.umask(before)
    place = stage.shelf.place(stage.shelf.current() or "")
    for path in (stage.shelf.root, place.parent, place, place / "bin" / "headrace", place / "release.json"):
        assert path.stat().st_mode & 0o004, path


def test_a_python_that_services_cannot_run_is_refused(home: Path) -> None:
    shut = home / "shut"
    shut.mkdir(mode=0o700)
    (shut / "python3").symlink_to("/usr/bin/python3")
    _usable(shut / "python3")  # the link may lie anywhere
    (shut / "python3").unlink()
    (shut / "python3").write_text("#!/bin/sh\necho 3.11\n")
    (shut / "python3").chmod(0o755)
    with pytest.raises(Refused, match="services cannot run it"):
        _usable(shut / "python3")
    (shut / "python3").write_text("#!/bin/sh\necho 3.14\n")
    with pytest.raises(Refused, match=r"Python 3\.14; headrace runs on 3\.11 and 3\.12"):
        _usable(shut / "python3")


def test_a_release_that_is_half_removed_is_not_whole(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.install("1.0.0")
    (release,) = stage.shelf.releases()

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        stage.shelf.remove(release.id)
    assert stage.shelf.half_made() == [release.id]
    assert stage.shelf.releases() == []
    assert stage.shelf.current() is None


def test_what_the_installed_units_were_made_with_is_read_from_them() -> None:
    made_with = Units("/opt/headrace/current/bin/headrace", "/srv/headrace.toml", "/srv/models")
    template = (ROOT / "deploy/systemd/units/headrace-kv.service").read_text()
    assert units_made_with(fill(template, made_with._asdict())) == made_with
    assert units_made_with("[Service]\nExecStart=/usr/bin/true\n") is None


def test_two_at_once_and_an_orphan_of_a_killed_one(stage: Stage) -> None:
    stage.install("1.0.0")
    stage.say("hold")
    install = ("release", "install", str(stage.wheel("2.0.0")), "--python", str(stage.python))
    first = subprocess.Popen(
        stage.command(*install), env=stage.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 30
    while not (stage.home / "holding").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    refused = stage.install("3.0.0")
    assert refused.returncode == 1
    assert f"being changed by process {first.pid}" in refused.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    # Its pip still writes into the half-made release, and so still has the lock.
    assert "left running" in stage.headrace("release", "prune").stderr
    assert len(stage.shelf.half_made()) == 1
    stage.unsay("hold")
    until = time.monotonic() + 30
    while (done := stage.install("2.0.0")).returncode != 0:
        assert "being changed" in done.stderr
        assert time.monotonic() < until
    assert "half-made: removed" in done.stdout
    assert stage.current_version() == "2.0.0"
    assert stage.shelf.half_made() == []


@contextmanager
def running_from(stage: Stage, version: str = "") -> Iterator[None]:
    """A process that runs from a release, the current one unless a version is given."""
    ids = {release.version: release.id for release in stage.shelf.releases()}
    place = stage.shelf.place(ids[version] if version else stage.shelf.current() or "")
    (place / "bin" / "waits").write_text("import time; time.sleep(600)\n")
    (place / "bin" / "python3").symlink_to("/usr/bin/python3")
    process = subprocess.Popen([place / "bin" / "python3", place / "bin" / "waits"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
