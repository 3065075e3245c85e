"""What the supervisor's decisions ask for. Pure data."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["info", "warning", "error"]


class Spawn(NamedTuple):
    """Start the process."""

    name: str


class Promote(NamedTuple):
    """The process of `standby` is that of `name` now."""

    name: str
    standby: str


class AskDrain(NamedTuple):
    """Tell it to take nothing new."""

    name: str
    deadline_s: float


class AskUndrain(NamedTuple):
    """Tell it to take work again."""

    name: str


class AskStop(NamedTuple):
    """Tell it to drain and end."""

    name: str
    deadline_s: float


class Kill(NamedTuple):
    """SIGKILL."""

    name: str
    pid: int


class Say(NamedTuple):
    """For the operator's eyes."""

    level: Level
    name: str
    text: str


class Finished(NamedTuple):
    """Everything has ended; so may the supervisor."""


Action = Spawn | Promote | AskDrain | AskUndrain | AskStop | Kill | Say | Finished
