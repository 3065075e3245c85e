"""The parts of a report, each by its name in the file. Reports are written when things are broken, so what cannot
be had is no failure: its reason stands in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bus.blackbox import files
from bus.blackbox.reading import Decoder
from bus.config import Config, ConfigError, load_config
from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.observe import Exposition, GetExposition, ToObserver
from bus.names import METRICS, OBSERVE_DOOR, run_directory, state_directory
from cli.blackbox.entries import Told, told
from cli.check import as_toml
from cli.control import Caller, running_names
from cli.report.host import describe
from cli.report.secrets import Secrets
from cli.status import gather
from cli.supervisor.logfiles import log_directory
from cli.supervisor.state import CONFIG_COPY, STATE_FILE
from cli.systemd import telling
from cli.systemd.ends import End
from cli.systemd.running import loaded

LOG_BYTES: Final = 256 << 10  # of the end of each log
JOURNAL_BYTES: Final = 2 << 20  # of the end of what journalctl prints
ENTRIES: Final = 5_000  # of the end of each recording
FATAL_BYTES: Final = 256 << 10
MOST_FILES: Final = 2_000  # that are listed with their sizes
ASK_S: Final = 3.0


class Part(NamedTuple):
    """One file in the report."""

    name: str
    data: bytes


def parts(config: Config | None, secrets: Secrets, ends: Sequence[End] = ()) -> Iterator[Part]:
    """All of them.

    Args:
        config: in force; None takes that of the running stack, or what is left of it.
        ends: of the units that the report is about.
    """
    config = config or _running_config()
    under_systemd = loaded(run_directory())
    keeper: tuple[str, Callable[[], Any]] = (
        ("units.json", telling.units)
        if under_systemd
        else ("supervisor.json", lambda: msgspec.json.decode((run_directory() / STATE_FILE).read_bytes()))
    )
    plain = [("host.json", describe), ("status.json", _status), keeper, ("sizes.json", _sizes)]
    if ends:
        plain.append(("ends.json", lambda: [{**msgspec.to_builtins(end), "cause": end.cause} for end in ends]))
    for name, make in plain:
        yield _attempt(name, lambda make=make: _json(secrets.clean_tree(msgspec.to_builtins(make()))))  # type: ignore[misc]
    yield _attempt("config.toml", lambda: _config(config, secrets))
    yield _attempt("metrics.txt", lambda: secrets.clean(_exposition()).encode())
    for path in sorted(log_directory().glob("*.log")):
        yield _attempt(f"logs/{path.name}", lambda path=path: secrets.clean(_end(path, LOG_BYTES)).encode())  # type: ignore[misc]
    for name, asked in telling.logs(ends) if under_systemd else ():
        yield _attempt(f"logs/{name}.log", lambda asked=asked: _journal(asked, secrets))  # type: ignore[misc]
    yield from _recordings(secrets)


def _journal(asked: list[str], secrets: Secrets) -> bytes:
    """The end of it: where it is too long, from the beginning of a line."""
    said = telling.journal(asked)
    kept = said[-JOURNAL_BYTES:].partition(b"\n")[2] if len(said) > JOURNAL_BYTES else said
    return secrets.clean(kept.decode("utf-8", "replace")).encode()


def _recordings(secrets: Secrets) -> Iterator[Part]:
    """As they are printed by `headrace blackbox --json`, behind a line that says whose they are. Never with content,
    whatever was recorded."""
    decoder = Decoder()
    for each in files.found(files.directory(run_directory())):
        fatal = files.fatal_path(each.path)
        if (recording := decoder.read(each.path, fatal)) is None:
            continue
        kept = told(recording, last=ENTRIES, content=False)
        name = f"blackbox/{each.name}.{each.epoch}"
        yield _attempt(f"{name}.jsonl", lambda kept=kept: _lines(kept, secrets))  # type: ignore[misc]
        if recording.fatal:
            yield Part(f"{name}.fatal", secrets.clean(recording.fatal[:FATAL_BYTES]).encode())


def _lines(kept: Told, secrets: Secrets) -> bytes:
    head = {name: getattr(kept, name) for name in ("process", "epoch", "pid", "build", "same_boot")}
    lines = [head, *(secrets.clean_tree(msgspec.to_builtins(entry)) for entry in kept.entries)]
    return b"\n".join(map(msgspec.json.encode, lines)) + b"\n"


def _attempt(name: str, make: Callable[[], bytes]) -> Part:
    try:
        return Part(name, make())
    except Exception as error:  # whatever it is, the other parts matter more
        return Part(f"{name}.missing", f"{type(error).__name__}: {error}\n".encode())


def _json(tree: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n"


def _running_config() -> Config | None:
    try:
        return load_config(run_directory() / CONFIG_COPY)
    except ConfigError:
        return None


def _config(config: Config | None, secrets: Secrets) -> bytes:
    """As it is understood, not as it is written: comments may say anything."""
    if config is None:
        return b"# no configuration is in force here\n"
    clean = msgspec.convert(secrets.clean_tree(msgspec.to_builtins(config)), Config)
    return (as_toml(clean) + "\n").encode()


def _status() -> Any:
    with Caller() as caller:
        return {"names": running_names(caller.run), **msgspec.to_builtins(gather(caller))}


def _exposition() -> str:
    """What the metrics process would tell Prometheus.

    Raises:
        TimeoutError: it does not answer.
    """
    if METRICS not in running_names():
        raise TimeoutError(f"{METRICS} does not run")
    loop, answers = PollLoop(), list[Any]()
    link: Link[Any] = Link(
        Visitor("cli", loop), METRICS, OBSERVE_DOOR, "observe", ToObserver, on_message=answers.append
    )  # fmt: skip
    asked = False
    try:
        until = time.monotonic() + ASK_S
        while not answers and not link.refusal and (left := until - time.monotonic()) > 0:
            asked = asked or link.send(GetExposition(1))
            loop.turn(min(left, 0.05))
    finally:
        link.close()
        loop.close()
    if not answers or not isinstance(answers[0], Exposition):
        raise TimeoutError(f"{METRICS} does not answer: {link.refusal or 'it is busy'}")
    return bytes(answers[0].text).decode()


def _sizes() -> dict[str, Any]:
    """Every file of ours with its size, and how much the directories hold in all."""
    places = {"run": run_directory(), "state": state_directory()}
    return {name: {"path": str(path), **_listing(path)} for name, path in places.items()}


def _listing(directory: Path) -> dict[str, Any]:
    found: dict[str, int] = {}
    total = count = 0
    for path in sorted(directory.rglob("*")):
        try:
            if not path.is_symlink() and path.is_file():
                size = path.stat().st_size
                total, count = total + size, count + 1
                if len(found) < MOST_FILES:
                    found[str(path.relative_to(directory))] = size
        except OSError:
            continue
    return {"bytes": total, "files": count, "sizes": found}


def _end(path: Path, most: int) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        text = file.read().decode("utf-8", "replace")
    return text.partition("\n")[2] if size > most else text
