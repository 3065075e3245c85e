"""SIGKILL before each single change that an upgrade makes: either release is current and whole, never anything else."""

import shutil
import signal
from pathlib import Path

import pytest
from stage import Stage


def like(stage: Stage, home: Path) -> Stage:
    """A copy, to be damaged."""
    shutil.copytree(stage.home, home, symlinks=True)
    return Stage(home)


def check(stage: Stage, step: int) -> str:
    """What is current is whole and answers; and what is called whole is."""
    for release in stage.shelf.releases():
        assert {path.name for path in (stage.shelf.place(release.id) / "bin").iterdir()} == {
            "headrace",
            "python",
            "version",
        }
    version = stage.current_version()
    assert version in ("1.0.0", "2.0.0"), step
    assert (stage.shelf.root / "current" / "bin" / "headrace").is_file()
    assert (stage.shelf.root / "current" / "bin" / "version").read_text().strip() == version
    return version


def test_an_upgrade_killed_at_each_step(home: Path) -> None:
    before = Stage(home / "before")
    assert before.install("1.0.0").returncode == 0
    seen, half_made, step = [], 0, 0
    while True:
        step += 1
        stage = like(before, home / str(step))
        killed = stage.install("2.0.0", kill_at=step)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        seen.append(check(stage, step))
        left = stage.shelf.half_made()
        half_made += bool(left)
        if step % 2:  # taken up again
            assert stage.install("2.0.0").returncode == 0
            assert check(stage, step) == "2.0.0"
        else:  # given up
            assert stage.headrace("release", "prune").returncode == 0
            assert check(stage, step) == seen[-1]
        assert stage.shelf.half_made() == []
        names = {path.name for path in (stage.shelf.root / "releases").iterdir()}
        assert names == {release.id for release in stage.shelf.releases()}
    assert step > 12
    assert half_made > 5
    assert seen == sorted(seen)  # the old one up to some step, and from then on the new one
    assert set(seen) == {"1.0.0", "2.0.0"}


@pytest.mark.parametrize("words", [("rollback", "1.0"), ("release", "prune", "--keep", "1")])
def test_going_back_and_pruning_killed_at_each_step(home: Path, words: tuple[str, ...]) -> None:
    before = Stage(home / "before")
    for version in ("0.9.0", "1.0.0", "2.0.0"):
        assert before.install(version).returncode == 0
    step = 0
    while True:
        step += 1
        stage = like(before, home / str(step))
        done = stage.headrace(*words, kill_at=step)
        check(stage, step)
        again = stage.headrace(*words)
        assert again.returncode == 0, again.stderr
        check(stage, step)
        assert stage.headrace("release", "prune").returncode == 0
        assert stage.shelf.half_made() == []
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert step > 3
