"""See what runs, what happened, and why."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from cli.commands.base import LOOKING, ConfigFile, Switch, app, load


@app.command(group=LOOKING, sort_key=1)
def status(*, json: Switch = False) -> int:
    """Every process and every model of this host, as they are now.

    Exit code 1 where nothing runs.

    Args:
        json: For programs: {"processes": [...], "models": [...]}.
    """
    from cli.status import show

    return show(as_json=json)


@app.command(group=LOOKING, sort_key=2)
def top(
    *,
    config: ConfigFile = None,
    replay: Path | None = None,
    ascii: Switch = False,
    once: Switch = False,
    json: Switch = False,
    plain: Switch = False,
) -> int:
    """The operator's screen: processes, requests, where the time goes.

    Lower case looks, upper case acts; ? shows the keys.

    Args:
        config: Configuration file.
        replay: Play a recording instead of the live stack.
        ascii: Without special characters.
        once: Print once and end.
        json: Print as JSON, with --once.
        plain: Print lines, for pipes and screen readers.
    """
    from admin_tui.app import run as show
    from cli.systemd.screen import ScreenKeeper

    loaded, _ = load(config)
    return show(loaded, replay=replay, ascii=ascii, once=once, json=json, plain=plain, keeper=ScreenKeeper())


@app.command(group=LOOKING, sort_key=3)
def explain(request: str, *, json: Switch = False) -> int:
    """Why one request took as long as it did: every wait with its cause, and the step or the requests behind it.

    For example:

        headrace explain chatcmpl-6d18ea135df1772d    # the id that its client has
        headrace explain a135df17                     # as `headrace top` shows it
        headrace explain chatcmpl-6d18ea135df1772d --json

    Known are the last requests, [metrics] timelines of them, and those in hand. Exit code 1 where it is not known, 69
    where the metrics process does not answer.

    Args:
        request: Id of a response (of every answer in its header X-Request-Id), of a request, or what the client called
            it (X-Client-Request-Id).
        json: For programs: {"request": "...", "verdict": "...", "spans": [...], "events": [...]}.
    """
    from cli.explain import explain as tell

    return tell(request, as_json=json)


@app.command(group=LOOKING, sort_key=4)
def usage(
    *,
    by: Literal["model", "tenant", "organisation", "project", "key", "hour", "day", "request", "call"] = "model",
    since: str = "24h",
    model: str = "",
    project: str = "",
    key: str = "",
    limit: int = 1000,
    json: Switch = False,
    csv: Switch = False,
) -> int:
    """What requests used, what that cost, and what the host cost while it was idle.

    For example:

        headrace usage                          # the last 24 hours by model
        headrace usage --by day --since 4w
        headrace usage --by request --since 1h --limit 20
        headrace usage --by organisation --since 30d --csv > june.csv
        headrace usage --by day --since 30d --project acme/web

    Tokens are those that clients were told. Computing is a request's part of the steps that it was in, in core seconds.
    Costs need [cost] price_per_hour in the configuration; they are those of the prices that were in force then.

    Args:
        by: One line for each of these. Hours and days are UTC's; "request" lists the latest, "call" too, with the
            samples of a call as one.
        since: How far back: minutes, hours, days or weeks, as 90m, 24h, 7d, 4w. The hour that this falls into counts
            in full; beyond 40 days, and by day, the day does.
        model: Only requests of this one.
        project: Only requests of this project, or of this organisation.
        key: Only requests with this key (its id).
        limit: Most lines.
        json: Print every number as JSON.
        csv: Print lines for a spreadsheet.
    """
    from cli.usage import Only, show

    return show(by, since, Only(model, key, project), limit, as_json=json, as_csv=csv)


@app.command(group=LOOKING, sort_key=5)
def logs(
    name: str = "",
    *,
    request: str = "",
    level: str = "debug",
    grep: str = "",
    since: str = "",
    lines: Annotated[int, Parameter(["--lines", "-n"])] = 200,
    follow: Annotated[bool, Parameter(["--follow", "-f"], negative=())] = False,
    json: Switch = False,
    source: Literal["auto", "files", "journal"] = "auto",
) -> int:
    """What the processes said: from their log files, or from the journal under systemd.

    For example:

        headrace logs                                # the last 200 lines of everybody
        headrace logs scheduler@smollm2 -f
        headrace logs --request 6d18ea135df1772d     # one request, through all processes
        headrace logs --level warning --since 1h

    Args:
        name: Beginning of a process's name; everybody when not given.
        request: Only lines about this request.
        level: This one and worse: debug, info, warning, error, critical.
        grep: Only lines in which this regular expression is found, whatever the case.
        since: Not older than this: 30s, 5m, 1h, 2d.
        lines: At most so many; 0 is all that is kept.
        follow: Go on with what comes.
        json: One object a line.
        source: Where to read; "auto" finds out.
    """
    from bus.logread.query import BadQuery
    from cli.logs import make_query, show

    try:
        query = make_query(name, request, level, grep, since)
    except BadQuery as problem:
        print(problem, file=sys.stderr)
        return 2
    return show(query, lines=lines, follow=follow, as_json=json, kind=None if source == "auto" else source)


@app.command(group=LOOKING, sort_key=6)
def audit_log(*, since: str = "", json: Switch = False) -> int:
    """What operators did, by command or on the screen: who, what, to what, why, and what came of it.

    `headrace audit` is another thing: it counts pages.

    Args:
        since: Not older than this: 30m, 1h, 7d.
        json: One object a line.
    """
    from cli.actions import show

    return show(since, as_json=json)


@app.command(group=LOOKING, sort_key=7)
def audit(*, json: Switch = False) -> int:
    """Count the pages of the arena from every side and compare: states, headers, index, leases, pins.

    In a healthy stack nothing is ever found, at any moment. Requests go on meanwhile. Exit code 1 where something is.

    Args:
        json: For programs: {"pages": 0, "faults": []}.
    """
    from cli.audit import audit as look

    return look(as_json=json)


@app.command(group=LOOKING, sort_key=8)
def blackbox(
    name: str = "",
    *,
    incarnation: Annotated[int, Parameter(["--incarnation", "-i"])] = 0,
    since: str = "",
    request: str = "",
    lines: Annotated[int, Parameter(["--lines", "-n"])] = 50,
    follow: Annotated[bool, Parameter(["--follow", "-f"], negative=())] = False,
    last_death: Switch = False,
    everything: Annotated[bool, Parameter("--all", negative=())] = False,
    bundle: Path | None = None,
    json: Switch = False,
) -> int:
    """The last messages and log lines of a process, alive or dead; of all processes, in order of time, without NAME.

    For example:

        headrace blackbox --last-death                  # who died last, and its last second
        headrace blackbox worker@smollm2.0.0            # now
        headrace blackbox worker@smollm2.0.0 -i 1       # the incarnation before
        headrace blackbox --since 30s                   # everybody, in order of time
        headrace blackbox --request chatcmpl-6d18ea135df1772d
        headrace blackbox scheduler@smollm2 --follow

    ← is received, → is sent. Prompts, answers and token ids are not recorded unless [blackbox] content says so.
    Exit code 1 where nothing is found.

    Args:
        name: As `headrace status` shows it.
        incarnation: 0 is the newest, 1 the one before; or an epoch.
        since: 30s, 5m or 2h ago, or the time of day, 14:05:30.
        request: Only what concerns this request: the id of an answer, or a number as `headrace top` shows it.
        lines: So many, where neither --since nor --request is given; 0 shows all.
        follow: Go on with what comes.
        last_death: The process that died last, how, and its last second; with NAME that one.
        everything: Heartbeats too.
        bundle: Read a report (`headrace report`) instead of this host's recordings.
        json: A JSON object for each.
    """
    from cli.blackbox.command import Asked, show

    return show(Asked(name, incarnation, since, request, lines, everything, follow, last_death, bundle, json))


report_app = cyclopts.App(name="report", group=LOOKING, sort_key=9)
app.command(report_app)


@report_app.default
def report(
    *,
    output: Annotated[Path | None, Parameter(["--output", "-o"])] = None,
    config: ConfigFile = None,
    crash: str = "",
    cause: str = "",
) -> int:
    """Write configuration, versions, status, metrics, recordings and the ends of the logs into one file (.tar.gz).

    For example:

        headrace report -o /tmp/report.tar.gz
        headrace report list                        # those that were written at crashes
        headrace report show /tmp/report.tar.gz     # what is in one, from any host
        headrace blackbox --bundle /tmp/report.tar.gz --since 10s

    Keys, tokens and credentials are removed, prompts and answers are never in it. It works while nothing runs, too.

    Args:
        output: Where; headrace-report-HOST-TIME.tar.gz here when not given.
        config: Configuration file; that of the running stack when not given.
        crash: Name of a process that died: the report goes to the crash reports, and the oldest of them is let go.
        cause: With --crash, what it died of.
    """
    from cli.report.command import NICE, crash_report
    from cli.report.command import report as write

    if crash:
        os.nice(NICE)
        return crash_report(load(config)[0], crash, cause)
    return write(load(config)[0] if config is not None else None, output)


@report_app.command(name="ended", show=False)
def report_ended(*, config: ConfigFile = None) -> int:
    """Take the notes that units left as they ended, and write a crash report where one is due. For systemd.

    Args:
        config: Configuration file.
    """
    from cli.report.command import units_ended

    return units_ended(load(config)[0])


@report_app.command(name="show")
def report_show(bundle: Path, *, part: str = "") -> int:
    """What a report says, of this host or another: who died, versions, processes, units, last log lines and messages.

    For example:

        headrace report show report.tar.gz
        headrace report show report.tar.gz --part logs/systemd.log

    Nothing is unpacked to disk, and nothing in it can reach the terminal or other files. Exit code 1 where it is
    refused.

    Args:
        bundle: The file.
        part: Print this part of it instead.
    """
    from cli.report.command import show

    return show(bundle, part)


@report_app.command(name="list")
def report_list(*, json: Switch = False) -> int:
    """The crash reports that are kept, the newest last.

    Args:
        json: For programs.
    """
    from cli.report.command import listing

    return listing(as_json=json)
