"""Models, configuration, keys, capacity."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.commands.base import MODELS, ConfigFile, Switch, app, load


@app.command(group=MODELS, sort_key=1)
def pull(model: str) -> int:
    """Fetch a model into the model store, verified.

    For example:

        headrace pull smollm2-135m-instruct
        headrace pull hf:HuggingFaceTB/SmolLM2-135M-Instruct

    Interrupted? Run it again: it goes on where it was. $HEADRACE_MODELS is the store, $HF_ENDPOINT a mirror of the hub,
    $HF_TOKEN the key to gated models.

    Args:
        model: A name of the catalogue (see `headrace models`) or hf:ORG/REPO.
    """
    from cli.models import fetch

    return fetch(model)


@app.command(group=MODELS, sort_key=2)
def models(*, config: ConfigFile = None, json: Switch = False) -> int:
    """The catalogue, the model store, and what the configuration serves.

    Args:
        config: Configuration file.
        json: For programs.
    """
    from cli.models import listing

    loaded, _ = load(config)
    return listing(loaded, as_json=json)


@app.command(group=MODELS, sort_key=3)
def check_config(*, config: ConfigFile = None, json: Switch = False) -> int:
    """Check the configuration and show what is in force. Exit code 78 where it cannot work.

    Looked for in -c, $HEADRACE_CONFIG, ./headrace.toml, /etc/headrace/headrace.toml; without any, the defaults serve
    the demo model. Errors name file, line and key.

    Args:
        config: Configuration file.
        json: For programs.
    """
    from cli.check import check

    loaded, path = load(config)
    return check(loaded, path, as_json=json)


@app.command(group=MODELS, sort_key=4)
def capacity(*, config: ConfigFile = None, json: Switch = False) -> int:
    """How many pages and streams a configuration has room for, and what takes how much memory, before it runs.

    docs/capacity.md has the formulas. Exit code 78 where a model cannot be served.

    Args:
        config: Configuration file.
        json: For programs.
    """
    from cli.capacity.command import show

    loaded, path = load(config)
    return show(loaded, path, as_json=json)


@app.command(group=MODELS, sort_key=5)
def curve_keygen(name: str, *, directory: Path = Path()) -> int:
    """Make a CURVE key pair for tcp sockets.

    NAME.secret stays on its host, readable by its user only; NAME.public goes into the other side's clients directory.
    A host names both in [curve]:

        [curve]
        secret = "/etc/headrace/curve/this-host.secret"
        clients = "/etc/headrace/curve/clients"

    Args:
        name: Of the pair, for example the host's.
        directory: Where to write it.
    """
    from bus.curve import generate, write_pair

    try:
        secret, public = write_pair(directory, name, generate())
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; keys are never overwritten", file=sys.stderr)
        return 1
    print(f"{secret}  keep it on this host, mode 0600\n{public}  copy it into the other side's clients directory")
    return 0
