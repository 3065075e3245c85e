"""`headrace check-config`: what is in force, what cannot work (exit code 78), and what may not (a warning)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from bus.catalogue import ModelMissing, locate
from bus.config import Config, ModelConfig, parse_address, parse_size
from bus.curve import BadKeyFile, read_keys
from bus.memfd import room_for_memory
from bus.names import LONGEST_DOOR, socket_path
from cli.control import running_names
from cli.models import missing_models
from cli.supervisor.plan import desired_units


class Verdict(msgspec.Struct, frozen=True):
    """What was found, in `headrace check-config --json`."""

    file: str
    config: Config
    problems: list[str]
    warnings: list[str]


def check(config: Config, path: Path | None, *, as_json: bool) -> int:
    """Print the configuration in force and what is wrong with it. Exit code 78 where it cannot work."""
    verdict = Verdict(str(path or ""), config, [*missing_models(config), *_problems(config)], _warnings(config))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(verdict)).decode())
    else:
        print(f"# {path or 'no file: the defaults'}\n{as_toml(config)}")
        for problem in verdict.problems:
            print(f"error: {path or 'defaults'}: {problem}", file=sys.stderr)
        for warning in verdict.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if not verdict.problems:
            print("# this can be served: " + ", ".join(unit.name for unit in desired_units(config)))
    return 78 if verdict.problems else 0


def _problems(config: Config) -> list[str]:
    """What will stop a process from starting, beyond missing models."""
    found: list[str] = []

    def attempt(key: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (BadKeyFile, OSError) as error:
            found.append(f"{key}: {error}")

    if (curve := config.curve) is not None:
        attempt("curve.secret", lambda: read_keys(Path(curve.secret), secret=True))
        if not any(Path(curve.clients).glob("*.public")):
            found.append(f"curve.clients: {curve.clients} holds no *.public file, so nobody could connect")
    attempt("$HEADRACE_RUN", lambda: check_run_directory(config))
    return found


def check_run_directory(config: Config) -> None:
    """Whether the sockets of every process have room in the run directory's path.

    Raises:
        PathTooLong: they have not.
    """
    socket_path(max((unit.name for unit in desired_units(config)), key=len), LONGEST_DOOR)


def _warnings(config: Config) -> list[str]:
    """What depends on the moment: memory and the address. Not asked of a stack that has both already."""
    running = running_names()
    found = []
    if "kv@host" not in running:
        arena, weights = parse_size(config.kv.arena), sum(map(_weight_bytes, config.model))
        room = room_for_memory()
        if arena + weights > room.bytes:
            found.append(
                f"memory: the arena takes {arena >> 20} MiB and the models' files {weights >> 20} MiB, but "
                f"{room.limit} leaves {max(0, room.bytes) >> 20} MiB; lower [kv] arena or serve less"
            )
    if config.blackbox.content and parse_size(config.blackbox.size):
        found.append(
            "blackbox.content: prompts, answers and token ids are recorded in the run directory, where whoever can act "
            "as this user reads them; set it to false when you have seen what you were after"
        )
    if not any(name.startswith("ingress@") for name in running) and (trouble := _address_trouble(config.ingress.http)):
        found.append(f"ingress.http: {trouble}")
    if config.traces.endpoint and find_spec("opentelemetry") is None:
        found.append("traces.endpoint: OpenTelemetry is not installed, nothing is traced: pip install 'headrace[otel]'")
    return found


def _weight_bytes(model: ModelConfig) -> int:
    files: list[Path] = []
    for source in model.sources.values():
        try:
            path = locate(source)
        except ModelMissing:
            continue
        files += [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files) * model.all_replicas


def _address_trouble(address: str) -> str:
    """Why nobody could listen there now; empty where one could."""
    host, port = parse_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    return ""


def as_toml(config: Config) -> str:
    """The whole configuration, as a file could say it."""
    sections = {name: value for name, value in msgspec.to_builtins(config).items() if value}
    return "\n".join(_table("", sections)[1:])


def _table(name: str, table: dict[str, object]) -> list[str]:
    """Its pairs, and then the tables in it."""
    pairs = {key: item for key, item in table.items() if item is not None and not _has_tables(item)}
    lines = [f"{key} = {msgspec.json.encode(item).decode()}" for key, item in pairs.items()]
    for key, item in table.items():
        inner = f"{name}.{key}" if name else key
        if isinstance(item, dict):
            lines += ["", f"[{inner}]", *_table(inner, item)]
        elif isinstance(item, list | tuple):
            for each in item:
                lines += ["", f"[[{inner}]]", *_table(inner, each)] if isinstance(each, dict) else []
    return lines


def _has_tables(item: object) -> bool:
    return isinstance(item, dict) or (isinstance(item, list | tuple) and any(isinstance(each, dict) for each in item))
