"""What must not leave this host in a report, and taking it out of texts. Nothing here writes anything.

Two nets. Values that are known to be secret are removed wherever they stand: of environment variables by their names,
of key files that the configuration names, of credentials that the service manager passed. What looks like a secret is
removed by its shape: keys after their names, bearer tokens, users in URLs, private keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from bus.config import Config

REMOVED: Final = "[removed]"
_SHORTEST: Final = 6  # a shorter value stands in too many places that have nothing to do with it
_LARGEST_FILE: Final = 64 << 10
_NAME: Final = re.compile(r"secret|passw|credential|token$|api_?key|private|authorization|^key$|_key$", re.IGNORECASE)
# Each looks no further than it must from any character: logs may hold whatever a peer liked to say.
_SHAPES: Final = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?<=[Bb]earer )\s*[^\s\"',]+"),
    re.compile(r"\b(?:sk|pk|hf|ghp|gho|glpat|xox[abp])[-_][A-Za-z0-9_-]{8,}"),
    re.compile(
        r"(?P<name>[A-Za-z_-]{0,40}(?:secret|passwd|password|credential|api[_-]?key|authorization|token|private[_-]?key))"
        r"(?P<between>[\"']?\s*[:=]\s*)(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;}\]]+)",
        re.IGNORECASE,
    ),
)


class Secrets:
    """What is secret here.

    Args:
        values: to be removed wherever they stand.
    """

    def __init__(self, values: frozenset[str]) -> None:
        ordered = sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    @classmethod
    def of(cls, config: Config | None, environment: Mapping[str, str] = os.environ) -> Secrets:
        """Of this host, as far as it can be known."""
        values = {value for name, value in environment.items() if _NAME.search(name)}
        if config is not None:
            values |= set(_secret_values(msgspec.to_builtins(config)))
            if config.curve is not None:
                values |= set(_of_file(Path(config.curve.secret)))
        if directory := environment.get("CREDENTIALS_DIRECTORY"):
            for path in sorted(Path(directory).glob("*")):
                values |= set(_of_file(path))
        return cls(frozenset(values))

    def clean(self, text: str) -> str:
        """The text without them."""
        if self._values is not None:
            text = self._values.sub(REMOVED, text)
        for shape in _SHAPES:
            text = shape.sub(_removed, text)
        return text

    def clean_tree(self, tree: Any) -> Any:
        """The same for plain data: every text in it, and whatever has the name of a secret."""
        if isinstance(tree, dict):
            return {
                key: REMOVED if _secret_name(key) and isinstance(value, str) and value else self.clean_tree(value)
                for key, value in tree.items()
            }
        if isinstance(tree, list | tuple):
            return [self.clean_tree(item) for item in tree]
        return self.clean(tree) if isinstance(tree, str) else tree


def _removed(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return f"{groups['name']}{groups['between']}{REMOVED}" if groups else REMOVED


def _secret_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.search(name) is not None


def _secret_values(tree: Any) -> Iterator[str]:
    """Of keys that have the name of a secret. A path in such a place is none itself."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if _secret_name(key) and isinstance(value, str) and not value.startswith("/"):
                yield value
            yield from _secret_values(value)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _secret_values(item)


def _of_file(path: Path) -> Iterator[str]:
    """Whatever a file of keys may hold: its lines, the quoted strings in them, and the words."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        yield line.strip()
        yield from re.findall(r'"([^"]+)"', line)
        yield from (word for word in line.split() if len(word) >= 12)
