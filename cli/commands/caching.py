"""Answers that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from cli.commands.base import ConfigFile, Switch, load

cache = cyclopts.App(name="cache", help="Answers that are kept: what they save, what would be matched by meaning.")


@cache.command
def status(*, json: Switch = False) -> int:
    """What is kept in each namespace, and what it has saved.

    Args:
        json: Print it as JSON.
    """
    from cli.caching import status as show

    return show(as_json=json)


@cache.command
def report(namespace: str, *, limit: int = 20, json: Switch = False) -> int:
    """Which questions would be, or were, matched by meaning, and how often the answers differ.

    Args:
        namespace: As `headrace cache status` shows it.
        limit: Pairs that are shown, the newest first.
        json: Print it as JSON.
    """
    from cli.caching import report as show

    return show(namespace, limit=limit, as_json=json)


@cache.command
def flush(
    namespace: str = "",
    *,
    everything: Annotated[bool, Parameter("--all", negative=())] = False,
    json: Switch = False,
    reason: str = "",
) -> int:
    """Serve nothing any more of what is kept, at once and at every ingress.

    Args:
        namespace: As `headrace cache status` shows it.
        everything: Of all namespaces.
        json: Print what was done as JSON.
        reason: For the audit log.
    """
    from cli.caching import flush as do

    return do(namespace, everything=everything, reason=reason, as_json=json)


@cache.command
def calibrate(
    namespace: str, *, budget: float = 0.0, off: Switch = False, json: Switch = False, reason: str = ""
) -> int:
    """Choose the threshold by what was seen in shadow and in audits; from there on a namespace that is "on" serves.

    Args:
        namespace: As `headrace cache status` shows it.
        budget: Share of wrong matches that is tolerated, with 95 % confidence; the configured one where not given.
        off: Stop serving instead.
        json: Print what was done as JSON.
        reason: For the audit log.
    """
    from cli.caching import calibrate as do

    return do(namespace, budget=budget, off=off, reason=reason, as_json=json)


@cache.command
def prepare(*, encoder: Path | None = None, config: ConfigFile = None) -> int:
    """Make the vectors that matching by meaning begins with, from the encoder. Takes about a minute and needs nothing
    running.

    Args:
        encoder: Directory of a BERT encoder (safetensors); that of `[cache] encoder` where not given.
        config: The configuration file.
    """
    from cli.caching import prepare as make

    return make(load(config)[0], encoder)
