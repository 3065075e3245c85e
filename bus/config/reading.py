"""The file that is read, and where in it a mistake is."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path

import msgspec

from bus.config.section import ConfigError, Where
from bus.config.whole import Config, problems


def find_config(given: Path | None = None) -> Path | None:
    """The file to read: `given`, `$HEADRACE_CONFIG`, `./headrace.toml`, `/etc/headrace/headrace.toml`, or none.

    Raises:
        ConfigError: a file that was asked for by name does not exist.
    """
    asked = given or (Path(env) if (env := os.environ.get("HEADRACE_CONFIG")) else None)
    if asked is not None:
        if not asked.is_file():
            raise ConfigError(f"{asked}: no such configuration file")
        return asked.resolve()
    for path in (Path("headrace.toml"), Path("/etc/headrace/headrace.toml")):
        if path.is_file():
            return path.resolve()
    return None


def load_config(path: Path | None) -> Config:
    """Read and check a file; `None` gives the defaults.

    Raises:
        ConfigError: with file, line and key.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> Config:
    """Like `load_config`, from text; `origin` names it in errors."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_located(text, origin, str(error))) from None
    for where, problem in problems(config):
        raise ConfigError(f"{origin}:{_line_of(text, where)}: {_dotted(where)}: {problem}")
    return config


def _dotted(where: Where) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def _located(text: str, origin: str, message: str) -> str:
    """msgspec's message with its line. It ends in "- at `$.model[0].dtype`" and may name an unknown field."""
    problem, _, path = message.partition(" - at `")
    where: list[str | int] = [
        int(number) if number else name for name, number in re.findall(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]", path)
    ]
    if unknown := re.search(r"unknown field `([^`]*)`", problem):
        near = difflib.get_close_matches(unknown[1], _keys(tuple(where)), 1)
        where.append(unknown[1])
        problem = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{origin}:{_line_of(text, tuple(where))}: {_dotted(tuple(where))}: {problem}"


def _keys(where: Where) -> list[str]:
    """The keys of a section."""
    kind: msgspec.inspect.Type = msgspec.inspect.type_info(Config)
    for part in where:
        if isinstance(part, str) and isinstance(kind, msgspec.inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == part)
        elif isinstance(kind, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            kind = kind.item_type
        if isinstance(kind, msgspec.inspect.UnionType):  # a section that may be left out
            kind = next((one for one in kind.types if isinstance(one, msgspec.inspect.StructType)), kind)
    return [field.encode_name for field in kind.fields] if isinstance(kind, msgspec.inspect.StructType) else []


def _line_of(text: str, where: Where) -> int:
    """The line of a key, found by reading table headers as TOML writes them; else the table's line, else 1."""
    names = [part for part in where if isinstance(part, str)]
    index = next((part for part in where if isinstance(part, int)), 0)
    table = names[0] if names else ""
    key = names[-1] if len(names) > 1 else ""
    best = 1
    current, seen = "", -1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?", line):
            current = header[2].strip("\"'")
            if current == table:
                seen = seen + 1 if header[1] == "[[" else index
                if seen == index:
                    best = number
        elif assigned := re.match(r"\s*[\"']?([A-Za-z0-9_.-]+)[\"']?\s*=", line):
            if current == table and seen == index and key and assigned[1] == key:
                return number
            if current == "" and table and assigned[1].split(".")[0] == table:
                best = number
    return best
