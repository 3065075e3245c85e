"""A release made with the real venv, pip and wheels, as a user's hand or bad luck ends it in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from building import WHEELS, can_build, deb, unpack

from cli.release.shelf import Shelf

pytestmark = [
    pytest.mark.slow,
    can_build,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not list(WHEELS.glob("torch-*.whl")), reason=f"no wheels in {WHEELS}; make wheels fetches them"),
]


def test_made_by_a_bare_python_and_killed_on_the_way(home: Path) -> None:
    """All of its processes at once, where a power cut would."""
    (wheel,) = (unpack(deb("7.1.0"), home / "tree") / "usr/share/headrace").iterdir()
    shelf = Shelf(home / "opt")
    command = [
        "/usr/bin/python3",
        "-m",
        "cli.release",
        wheel,
        "--wheels",
        WHEELS,
        "--torch",
        "cpu",
        "--root",
        shelf.root,
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(wheel), "HEADRACE_STATE": str(home / "state")}
    reached = (
        lambda place: (place / "pyvenv.cfg").exists(),
        lambda place: list(place.glob("lib/*/site-packages/torch/lib/*.so")),
        lambda place: list(place.glob("lib/*/site-packages/torch/__pycache__/*")),  # being imported
    )
    for number, there in enumerate(reached):
        with (home / f"log{number}").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 250
        while not any(there(place) for place in (shelf.root / "releases").glob("*")):
            assert process.poll() is None, (home / f"log{number}").read_text()
            assert time.monotonic() < until
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert shelf.releases() == []
        assert shelf.current() is None
        assert len(shelf.half_made()) == 1
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "half-made: removed" in done.stdout
    (release,) = shelf.releases()
    assert (release.version, shelf.current()) == ("7.1.0", release.id)
    # What it made works for any user, and is exactly what the locks say.
    headrace = shelf.root / "current" / "bin" / "headrace"
    environment |= {"HEADRACE_RUN": f"{home}/run", "HEADRACE_MODELS": f"{home}/models", "PYTHONPATH": ""}
    said = subprocess.run([headrace, "--version"], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "headrace 7.1.0"
    python = shelf.root / "current" / "bin" / "python"
    freeze = [python, "-m", "pip", "freeze", "--exclude", "headrace", "--exclude", "setuptools"]
    frozen = subprocess.run(freeze, env=environment, capture_output=True, text=True, check=True).stdout.split()
    locks = "".join((shelf.place(release.id) / name).read_text() for name in ("runtime.lock", "torch-cpu.lock"))
    assert {line.lower().replace("_", "-") for line in frozen} == {
        word for word in locks.split() if "==" in word and not word.startswith(("--", "setuptools"))
    }


def test_a_wheel_that_is_not_what_the_lock_says_is_not_installed(home: Path) -> None:
    """One byte is enough."""
    wheels = home / "wheels"
    wheels.mkdir()
    for file in WHEELS.iterdir():
        (wheels / file.name).symlink_to(file)
    victim = next(wheels.glob("idna-*.whl"))
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (wheel,) = (unpack(deb("7.1.0"), home / "tree") / "usr/share/headrace").iterdir()
    shelf = Shelf(home / "opt")
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "cli.release", wheel, "--wheels", wheels, "--torch", "cpu", "--root", shelf.root],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(wheel)}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1
    assert "HASHES" in done.stderr
    assert "idna" in done.stderr
    assert list((shelf.root / "releases").iterdir()) == []
