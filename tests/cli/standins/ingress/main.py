"""A process with nothing to do; see README.md beside."""

from __future__ import annotations

from pathlib import Path

from bus.config import Config
from bus.messages.control import Ok, Rejected, ToProcess
from bus.process import Description, Life, run_process


class Idle:
    """Does as the files in the run directory say."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def _file(self, kind: str) -> Path:
        return self._life.run / f"{self._life.name}.{kind}"

    def start(self) -> None:
        self._look()
        if self._life.state == "starting":
            self._life.loop.every(0.05, self._look)
            self._life.ready()

    def _look(self) -> None:
        if self._file("exit").exists():
            self._life.fail("told to by a file", int(self._file("exit").read_text()))

    def describe(self) -> Description:
        return Description(load=1.0 if self._file("busy").exists() else 0.0, detail="a stand-in")

    def drain(self) -> None: ...

    def undrain(self) -> None: ...

    def drained(self) -> bool:
        return not self._file("busy").exists()

    def hand_over(self) -> None:
        self._file("busy").unlink(missing_ok=True)

    def stop(self) -> None: ...

    def control(self, message: ToProcess) -> Ok | Rejected | None:  # noqa: ARG002
        return None


def main(name: str, config: Config, config_path: Path | None) -> int:
    return run_process(name, config, config_path, Idle, loop="poll")
