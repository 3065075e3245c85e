"""The application that the commands belong to, its groups, and what all of them take. No command lives here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts
from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from bus.config import Config


def _version() -> str:
    """The package's, not that of the folder that the command happens to be in."""
    from bus.build import BUILD

    return f"headrace {BUILD}"


RUNNING: Final = Group("Run", sort_key=1)
USING: Final = Group("Use", sort_key=2)
LOOKING: Final = Group("Look", sort_key=3)
ACTING: Final = Group("Act", sort_key=4)
MODELS: Final = Group("Models and configuration", sort_key=5)

app = cyclopts.App(
    name="headrace",
    help=(
        "Serve language models on this host: processes, one configuration file, one screen.\n\n"
        "Begin with:\n\n    headrace pull smollm2-135m-instruct\n    headrace up --detach\n    headrace chat"
    ),
    help_epilogue=(
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 69 something is missing, 70 a bug, 75 the name is taken by a "
        "running process, 78 bad configuration."
    ),
    group_commands=Group("Other", sort_key=9),
    version=_version,
)

ConfigFile = Annotated[Path | None, Parameter(["--config", "-c"])]
Switch = Annotated[bool, Parameter(negative=())]


def load(given: Path | None) -> tuple[Config, Path | None]:
    """The configuration and where it came from; ends the command with 78 where it is bad."""
    from bus.config import ConfigError, find_config, load_config

    try:
        path = find_config(given)
        return load_config(path), path
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(78) from None
