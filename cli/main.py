"""The commands. Each imports what it needs when it is called, so that `headrace --help` answers at once."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import cyclopts
from cyclopts import Group, Parameter

from cli.release import app as release
from cli.systemd.command import systemd

if TYPE_CHECKING:
    from bus.config import Config


def _version() -> str:
    """The package's, not that of the folder that the command happens to be in."""
    from bus.build import BUILD

    return f"headrace {BUILD}"


RUNNING: Final = Group("Run", sort_key=1)
USING: Final = Group("Use", sort_key=2)
LOOKING: Final = Group("Look and act", sort_key=3)
MODELS: Final = Group("Models and configuration", sort_key=4)

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

systemd.group, systemd.sort_key = (RUNNING,), 4
app.command(systemd)

ConfigFile = Annotated[Path | None, Parameter(["--config", "-c"])]
Switch = Annotated[bool, Parameter(negative=())]


def _load(given: Path | None) -> tuple[Config, Path | None]:
    """The configuration and where it came from; ends the command with 78 where it is bad."""
    from bus.config import ConfigError, find_config, load_config

    try:
        path = find_config(given)
        return load_config(path), path
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(78) from None


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

    loaded, path = _load(config)
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
        name: kv@host, metrics@host, scheduler@MODEL, worker@MODEL.REPLICA.RANK, ingress@NUMBER or supervisor@host.
        config: Configuration file.
        or_standby: Of a worker: where another process has the name, wait as its standby, and take over when it ends.
    """
    from bus.config import ConfigError
    from bus.names import InvalidName, parse_process, standby_name
    from cli.roles import check_name, load_main

    loaded, path = _load(config)
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


@app.command(group=USING, sort_key=1)
def chat(
    *words: str,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> int:
    """Talk to a model of the running stack.

    For example:

        headrace chat                           # a conversation
        headrace chat "Why is the sky blue?"    # one answer
        headrace chat smollm2 "Hello!"          # of that model
        git diff | headrace chat "What does this change?"

    In a conversation Ctrl-C ends an answer and Ctrl-D the conversation.

    Args:
        words: Model and prompt, or either.
        model: Name of the model; the first that is served when not given.
        system: System prompt.
        temperature: 0 always takes the likeliest token.
        max_tokens: Longest answer.
    """
    from cli.chat import Wishes, talk

    return talk(words, Wishes(model, system, temperature, max_tokens))


@app.command(group=USING, sort_key=2)
def bench(
    *,
    url: str = "",
    compare: str = "",
    model: str = "",
    trace: Path | None = None,
    lognormal: Switch = False,
    requests: int = 64,
    concurrency: int = 8,
    rate: float = 0.0,
    max_prompt: int = 1024,
    max_output: int = 128,
    slo_ttft: float = 2.0,
    slo_tpot: float = 0.1,
    seed: int = 1,
    profile: Switch = False,
    ceilings: Switch = False,
    json: Switch = False,
) -> int:
    """Load a running endpoint with real lengths; measure TTFT, TPOT, tokens a second, goodput.

    For example:

        headrace bench                            # 64 requests, 8 at a time
        headrace bench --rate 2 --requests 120    # Poisson arrivals, 2 a second
        headrace bench --compare http://127.0.0.1:9000/v1
        headrace bench --profile --concurrency 1 --max-prompt 16    # where the time of decode steps goes
        headrace bench --ceilings                 # what this host can do at most, while nothing runs

    With --compare the same load goes to both, in turns, and the ratios are printed.

    Lengths come from a sample of production traffic (Azure LLM inference trace 2023, conversation), cut to the limits.

    Args:
        url: Base URL of an OpenAI-compatible API; that of the configuration when not given.
        compare: Base URL of another one.
        model: Name of the model; the first that is listed when not given.
        trace: CSV with the columns input_tokens, output_tokens (and arrival_s, which is not used).
        lognormal: Draw lengths from log-normal distributions instead of a trace.
        requests: How many.
        concurrency: So many at a time (closed loop).
        rate: Requests a second, Poisson arrivals (open loop), instead of concurrency.
        max_prompt: Longest prompt, tokens.
        max_output: Longest answer, tokens.
        slo_ttft: Seconds to the first token that count as good.
        slo_tpot: Seconds per further token that count as good.
        seed: The same seed makes the same load.
        profile: Print where the time of the workers' steps went, too. The endpoint must be headrace's.
        ceilings: Measure memory bandwidth and arithmetic of this host instead, some five seconds, and keep them: what
            models reach of them is in `headrace status` and in the metrics from then on. Refused while requests run.
        json: Print every number as JSON.
    """
    from bus.config import find_config, load_config
    from cli.bench.command import Asked, measure

    if ceilings:
        from cli.bench.ceilings import measure_host

        return measure_host(as_json=json)

    base = url or f"http://{load_config(find_config()).ingress.http}/v1"
    return measure(
        Asked(
            urls=[base, *([compare] if compare else [])], model=model, trace=trace, lognormal=lognormal,
            requests=requests, concurrency=concurrency, rate=rate, max_prompt=max_prompt, max_output=max_output,
            slo_ttft_s=slo_ttft, slo_tpot_s=slo_tpot, seed=seed,
            profile=profile,
        ),
        as_json=json,
    )  # fmt: skip


@app.command(group=LOOKING, sort_key=1)
def status(*, json: Switch = False) -> int:
    """Every process and every model of this host, as they are now.

    Exit code 1 where nothing runs.

    Args:
        json: For programs: {"processes": [...], "models": [...]}.
    """
    from cli.status import show

    return show(as_json=json)


@app.command(group=LOOKING, sort_key=7)
def usage(
    *,
    by: Literal["model", "tenant", "key", "hour", "day", "request"] = "model",
    since: str = "24h",
    model: str = "",
    limit: int = 1000,
    json: Switch = False,
    csv: Switch = False,
) -> int:
    """What requests used, what that cost, and what the host cost while it was idle.

    For example:

        headrace usage                          # the last 24 hours by model
        headrace usage --by day --since 4w
        headrace usage --by request --since 1h --limit 20
        headrace usage --by tenant --since 30d --csv > june.csv

    Tokens are those that clients were told. Computing is a request's part of the steps that it was in, in core seconds.
    Costs need [cost] price_per_hour in the configuration; they are those of the prices that were in force then.

    Args:
        by: One line for each of these. Hours and days are UTC's; "request" lists the latest.
        since: How far back: minutes, hours, days or weeks, as 90m, 24h, 7d, 4w. The hour that this falls into counts
            in full; beyond 40 days, and by day, the day does.
        model: Only requests of this one.
        limit: Most lines.
        json: Print every number as JSON.
        csv: Print lines for a spreadsheet.
    """
    from cli.usage import show

    return show(by, since, model, limit, as_json=json, as_csv=csv)


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

    loaded, _ = _load(config)
    return show(loaded, replay=replay, ascii=ascii, once=once, json=json, plain=plain)


@app.command(group=LOOKING, sort_key=3)
def drain(name: str, *, deadline: float = 120.0, wait: bool = True, reason: str = "") -> int:
    """Take a process out: it finishes what it has and takes nothing new, until undrain or restart.

    For example:

        headrace drain worker@smollm2.1.0
        headrace drain ingress@1 --no-wait

    Args:
        name: As `headrace status` shows it.
        deadline: Seconds it has.
        wait: Return when it has nothing in hand any more; exit code 1 at the deadline.
        reason: For the audit log.
    """
    from cli.orders import take_out

    return take_out(name, deadline, wait=wait, reason=reason)


@app.command(group=LOOKING, sort_key=4)
def undrain(name: str, *, reason: str = "") -> int:
    """Let a drained process take work again.

    Args:
        name: As `headrace status` shows it.
        reason: For the audit log.
    """
    from cli.orders import take_in

    return take_in(name, reason)


@app.command(group=LOOKING, sort_key=5)
def restart(
    name: str = "",
    *,
    everything: Annotated[bool, Parameter("--all", negative=())] = False,
    deadline: float = 120.0,
    json: Switch = False,
    reason: str = "",
) -> int:
    """End a process and start it again, or everything, one after the other; return when it is ready.

    For example:

        headrace restart scheduler@smollm2
        headrace restart --all              # after an upgrade, or a change of the configuration

    No request is lost: what is in hand goes on at another process, or when this one is back. Only an answer that is not
    streamed ends with an error where its ingress has no time left. What was given up (exit code 78) is tried again.

    Args:
        name: As `headrace status` shows it; tensor-parallel ranks restart together.
        everything: Restart all, each ready before the next; stops at the first that does not come back.
        deadline: Seconds that an ingress has to finish its answers, and a replica where others take new requests; 0
            kills.
        json: Print as JSON what was restarted and what was not.
        reason: For the audit log.
    """
    from cli.restart import restart as roll

    if bool(name) == everything:
        print("give the name of a process, or --all; headrace status lists the names", file=sys.stderr)
        return 2
    return roll(name, deadline, as_json=json, reason=reason)


@app.command(group=LOOKING, sort_key=7)
def cancel(request: str, *, reason: str = "") -> int:
    """End one request; its client gets what was generated so far.

    For example:

        headrace cancel 6d18ea135df1772d
        headrace cancel chatcmpl-6d18ea135df1772d --reason "runs away"

    Args:
        request: Its id, as `headrace top` and answers show it.
        reason: For the audit log.
    """
    from cli.orders import cancel as end

    return end(request, reason)


@app.command(group=LOOKING, sort_key=8)
def limit(model: str, *changes: str, reset: Switch = False, reason: str = "", json: Switch = False) -> int:
    """Which limits of a model hold, and other ones from the next step on.

    For example:

        headrace limit smollm2
        headrace limit smollm2 slots=16 inter_token_target_ms=100
        headrace limit smollm2 --reset

    What runs goes on, also beyond a lower limit; what comes next has to fit. Limits hold until they are reset, over
    restarts of the scheduler, and until a reboot; one whose configuration is changed is the configuration's again.

    Args:
        model: Its name.
        changes: NAME=NUMBER, of slots, step_tokens, inter_token_target_ms, queue_requests, queue_tokens.
        reset: Everything as configured first.
        reason: For the audit log.
        json: For programs: {"now": {...}, "configured": {...}, "most": {...}}.
    """
    from cli.limits import limit as change

    return change(model, changes, reset=reset, reason=reason, as_json=json)


@app.command(group=LOOKING, sort_key=9)
def reload(name: str, *, reason: str = "") -> int:
    """Let a process read again what it can read while it runs: an ingress, the public keys of those who may connect.

    Args:
        name: ingress@0, for example.
        reason: For the audit log.
    """
    from bus.messages.control import Reload
    from cli.orders import tell

    return tell(name, Reload(0, reason))


@app.command(group=LOOKING, sort_key=10)
def ack(code: str, subject: str, *, comment: str = "") -> int:
    """Say that somebody looks after a finding, until it is over.

    For example:

        headrace ack late worker@smollm2.1.0 --comment "disk is being replaced"

    Args:
        code: Of the finding, as `headrace top --once --json` shows it.
        subject: What it is about.
        comment: For others, and for the audit log.
    """
    from bus.messages.control import Acknowledge
    from bus.names import METRICS
    from cli.orders import tell

    return tell(METRICS, Acknowledge(0, code, subject, comment))


@app.command(group=LOOKING, sort_key=11)
def silence(code: str, subject: str, *, duration: Annotated[str, Parameter("--for")] = "1h", comment: str = "") -> int:
    """Do not raise a finding for a while, whether it is there or not.

    For example:

        headrace silence queue-growing smollm2 --for 2h --comment "batch run"
        headrace silence queue-growing smollm2 --for 0    # raise it again

    Args:
        code: Of the finding, as `headrace top --once --json` shows it.
        subject: What it is about.
        duration: At most 7d; 0 ends a silence.
        comment: For others, and for the audit log.
    """
    from bus.logread.query import BadQuery, parse_span
    from bus.messages.control import Silence
    from bus.names import METRICS
    from cli.orders import tell

    try:
        seconds = parse_span(duration)
    except BadQuery as problem:
        print(problem, file=sys.stderr)
        return 2
    return tell(METRICS, Silence(0, code, subject, seconds, comment))


@app.command(group=LOOKING, sort_key=12)
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


@app.command(group=LOOKING, sort_key=13)
def audit_log(*, since: str = "", json: Switch = False) -> int:
    """What operators did, by command or on the screen: who, what, to what, why, and what came of it.

    `headrace audit` is another thing: it counts pages.

    Args:
        since: Not older than this: 30m, 1h, 7d.
        json: One object a line.
    """
    from cli.actions import show

    return show(since, as_json=json)


@app.command(group=LOOKING, sort_key=6)
def audit(*, json: Switch = False) -> int:
    """Count the pages of the arena from every side and compare: states, headers, index, leases, pins.

    In a healthy stack nothing is ever found, at any moment. Requests go on meanwhile. Exit code 1 where something is.

    Args:
        json: For programs: {"pages": 0, "faults": []}.
    """
    from cli.audit import audit as look

    return look(as_json=json)


@app.command(group=LOOKING, sort_key=7)
def explain(request: str, *, json: Switch = False) -> int:
    """Why one request took as long as it did: every wait with its cause, and the step or the requests behind it.

    For example:

        headrace explain chatcmpl-6d18ea135df1772d    # the id that its client has
        headrace explain a135df17                     # as `headrace top` shows it
        headrace explain chatcmpl-6d18ea135df1772d --json

    Known are the last requests, [metrics] timelines of them, and those in hand. Exit code 1 where it is not known, 69
    where the metrics process does not answer.

    Args:
        request: Id of a response (also in the header X-Request-Id), or of a request.
        json: For programs: {"request": "...", "verdict": "...", "spans": [...], "events": [...]}.
    """
    from cli.explain import explain as tell

    return tell(request, as_json=json)


@app.command(group=LOOKING, sort_key=20)
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


@app.command(group=LOOKING, sort_key=22)
def log_level(name: str, level: Literal["debug", "info", "warning", "error"]) -> int:
    """Log more, or less, until the process ends.

    For example:

        headrace log-level scheduler@smollm2 debug

    Args:
        name: As `headrace status` shows it.
        level: From this level up.
    """
    from cli.orders import log_from

    return log_from(name, level)


report_app = cyclopts.App(name="report", group=LOOKING, sort_key=21)
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
        headrace report list                        # those that the supervisor wrote at crashes
        headrace blackbox --bundle /tmp/report.tar.gz --since 10s

    Keys, tokens and credentials are removed, prompts and answers are never in it. It works while nothing runs, too.

    Args:
        output: Where; headrace-report-HOST-TIME.tar.gz here when not given.
        config: Configuration file; that of the running stack when not given.
        crash: Name of a process that died: the report goes to the crash reports, and the oldest of them is let go.
        cause: With --crash, what it died of.
    """
    from cli.report.command import crash_report
    from cli.report.command import report as write

    if crash:
        return crash_report(_load(config)[0], crash, cause)
    return write(_load(config)[0] if config is not None else None, output)


@report_app.command(name="list")
def report_list(*, json: Switch = False) -> int:
    """The crash reports that are kept, the newest last.

    Args:
        json: For programs.
    """
    from cli.report.command import listing

    return listing(as_json=json)


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

    loaded, _ = _load(config)
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

    loaded, path = _load(config)
    return check(loaded, path, as_json=json)


@app.command(group=MODELS, sort_key=5)
def capacity(*, config: ConfigFile = None, json: Switch = False) -> int:
    """How many pages and streams a configuration has room for, and what takes how much memory, before it runs.

    docs/capacity.md has the formulas. Exit code 78 where a model cannot be served.

    Args:
        config: Configuration file.
        json: For programs.
    """
    from cli.capacity.command import show

    loaded, path = _load(config)
    return show(loaded, path, as_json=json)


@app.command(group=MODELS, sort_key=4)
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
