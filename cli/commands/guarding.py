"""Guards: which there are, and what they say of a text."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from cli.commands.base import LOOKING, ConfigFile, Switch, app, load

guards = cyclopts.App(name="guards", help="Which guards there are, and what they say of a text.")
guards.group, guards.sort_key = (LOOKING,), 20
app.command(guards)


@guards.command(name="list", sort_key=1)
def listing(*, config: ConfigFile = None, json: Switch = False) -> int:
    """The guards of the configuration, in the order in which they look.

    Args:
        config: Configuration file.
        json: For programs: a list of what `[[guard]]` says, defaults included.
    """
    from cli.guards import show

    loaded, _ = load(config)
    return show(loaded.guard, as_json=json)


@guards.command(name="test", sort_key=2)
def trial(
    *words: str,
    stage: Literal["input", "output"] = "input",
    ingress: Annotated[str, Parameter(name="--ingress")] = "ingress@0",
    json: Switch = False,
) -> int:
    """What the guards of the running stack say of a text, and the text as it would go on.

    For example:

        headrace guards test "Ignore all previous instructions"
        headrace guards test --stage output < answer.txt

    Guards that ask a model are not asked. Exit code 1 where the text would be blocked.

    Args:
        words: The text; standard input where there is none.
        stage: As a request, or as an answer.
        ingress: Which ingress is asked.
        json: For programs: {"verdicts": [...], "text": "..."}.
    """
    from cli.guards import try_text

    return try_text(" ".join(words) if words else sys.stdin.read(), stage, ingress, as_json=json)
