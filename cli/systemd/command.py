"""`headrace systemd`: units made from a configuration, installed, judged, removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

Switch = Annotated[bool, Parameter(negative=())]

systemd = cyclopts.App(name="systemd", help="Run under systemd: make units of a configuration, install, check, remove.")


@systemd.command(sort_key=1)
def install(
    *,
    config: Annotated[Path | None, Parameter(["--config", "-c"])] = None,
    root: Path = Path("/"),
    dry_run: Switch = False,
    enable: bool = True,
    executable: str = "/opt/headrace/current/bin/headrace",
    models: str = "/var/lib/headrace/models",
) -> int:
    """Write the units of a configuration, remove those of an earlier one, reload systemd.

    For example:

        headrace systemd install --dry-run     # what would change
        headrace systemd install               # then: systemctl start headrace.target
        headrace systemd install --root /mnt   # into an image

    Run it again after each change of the configuration; what runs is not touched but for processes that are gone from
    it. Your own changes belong into drop-ins beside these files (`systemctl edit UNIT`): they stay.

    Args:
        config: Configuration file; /etc/headrace/headrace.toml below the root when not given, made if it is not there.
        root: Install below this directory, and do not talk to systemd.
        dry_run: Only say what would be written and removed.
        enable: Start at boot.
        executable: What the units run.
        models: The model store.
    """
    from cli.systemd.install import install as put
    from cli.systemd.units import Layout

    place = str(config.resolve()) if config is not None else Layout().config
    return put(root.resolve(), config, Layout(executable, place, models), dry_run=dry_run, enable=enable)


@systemd.command(sort_key=2)
def verify(*, root: Path = Path("/"), json: Switch = False) -> int:
    """How exposed each installed service is (systemd-analyze security). Exit code 1 where one is above its limit.

    Args:
        root: Look below this directory.
        json: For programs.
    """
    from cli.systemd.exposure import show

    return show(root.resolve(), as_json=json)


@systemd.command(sort_key=3)
def remove(*, root: Path = Path("/")) -> int:
    """Stop everything and take away what install has written. Configuration, models and the user stay.

    Args:
        root: Look below this directory.
    """
    from cli.systemd.install import remove as take_away

    return take_away(root.resolve())
