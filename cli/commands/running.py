"""Start everything, stop it, run one process."""

from __future__ import annotations

import gc
import sys

from cli.commands.base import RUNNING, ConfigFile, Switch, app, load


@app.command(group=RUNNING, sort_key=1)
def up(*, config: ConfigFile = None, detach: Switch = False, pull: Switch = False) -> int:
    """Start everything that one configuration asks for, and keep it alive.

    For example:

        headrace up                   # the demo model on http://127.0.0.1:8080
        headrace up -c big.toml --detach

    In the foreground it shows what the processes say, and Ctrl-C drains and stops them. Processes that run already are
    adopted: after a crash of the supervisor, run it again.

    Args:
        config: Configuration file; where it is looked for otherwise, check-config says.
        detach: Return when every model can answer; stop it later with `headrace down`.
        pull: Fetch missing models first.
    """
    from cli.up import start

    loaded, path = load(config)
    return start(loaded, path, detach=detach, fetch_missing=pull)


@app.command(group=RUNNING, sort_key=2)
def down(*, deadline: float = 30.0) -> int:
    """Drain and stop everything.

    Args:
        deadline: Seconds that requests under way have to finish; 0 does not wait.
    """
    from cli.down import stop

    return stop(deadline)


@app.command(group=RUNNING, sort_key=3)
def run(name: str, *, config: ConfigFile = None, or_standby: Switch = False) -> int:
    """Run one process in the foreground: what systemd units and `headrace up` call.

    For example:

        headrace run kv@host
        headrace run worker@smollm2.0.0 -c /etc/headrace/headrace.toml

    Args:
        name: kv@host, metrics@host, accounts@host, scheduler@MODEL, worker@MODEL.REPLICA.RANK, ingress@NUMBER,
            batch@host or supervisor@host.
        config: Configuration file.
        or_standby: Of a worker: where another process has the name, wait as its standby, and take over when it ends.
    """
    from bus.config import ConfigError
    from bus.names import InvalidName, parse_process, standby_name
    from cli.roles import check_name, load_main

    loaded, path = load(config)
    try:
        check_name(name, loaded)
    except (InvalidName, ConfigError) as error:
        print(error, file=sys.stderr)
        return 78
    if or_standby and parse_process(name).role == "worker":
        from cli.control import running_names

        name = standby_name(name) if name in running_names() else name
    gc.disable()  # importing makes hundreds of thousands of objects and no garbage; `run_process` goes back on it
    return load_main(parse_process(name).role)(name, loaded, path)
