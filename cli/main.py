"""The `headrace` command."""

from __future__ import annotations

import os
import sys

from cli.accounts.command import keys, projects
from cli.adapters import adapters
from cli.commands import acting, guarding, looking, models, routing, running, using  # noqa: F401  commands register themselves
from cli.commands.base import ACTING, LOOKING, RUNNING, app
from cli.commands.caching import cache
from cli.release import app as release
from cli.systemd.command import systemd

__all__ = ["app", "main"]

systemd.group, systemd.sort_key = (RUNNING,), 4
app.command(systemd)
cache.group, cache.sort_key = (LOOKING,), 9
app.command(cache)
keys.group, keys.sort_key = (ACTING,), 10
projects.group, projects.sort_key = (ACTING,), 11
adapters.group, adapters.sort_key = (ACTING,), 12
app.command(keys)
app.command(adapters)
app.command(projects)
app.command(release.app)
app.command(release.rollback, group=release.INSTALLATION, sort_key=2)


def main() -> None:
    """Entry point of the `headrace` command."""
    try:
        code = app(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `headrace status | head`: nobody reads any more, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
