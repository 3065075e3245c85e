"""Run by a new release's own Python before anybody switches to it: can every role be imported?

    /opt/headrace/releases/0.1.0-1f0c9a3e/bin/python -m cli.release.selfcheck

Prints the version. As root it also leaves the bytecode of what it imported, which the services may not write.
"""

from __future__ import annotations

from bus.build import BUILD
from cli.main import app
from cli.roles import ROLES_TO_RUN, load_main


def main() -> None:
    """Raises whatever importing raises."""
    app.parse_args(["status"], print_error=False, exit_on_error=False)
    for role in ROLES_TO_RUN:
        load_main(role)
    print(BUILD)


if __name__ == "__main__":
    main()
