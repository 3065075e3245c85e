"""Other keys than ours: `[keymap]` in a TOML file, `"fleet.drain" = "W"`. Read and checked before the screen opens.

Whatever is remapped, lower case looks and upper case acts.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from textual.binding import Binding, BindingType

ETC: Final = Path("/etc/headrace/top.toml")
ACTING: Final = ("order(", "cancel")  # how the actions begin that lead to an order
_KEY: Final = re.compile(r"(ctrl\+|shift\+|alt\+)*[A-Za-z0-9_]+")
_FUNCTION: Final = re.compile(r"(shift\+)?f([1-9]|1[0-9]|2[0-4])")


class BadKeymap(ValueError):
    """A key map that cannot be; the message names file and key."""


def acts(binding: Binding) -> bool:
    """Whether it leads to an order."""
    return binding.action.startswith(ACTING)


def find_keymap() -> Path | None:
    """`$HEADRACE_TOP`, `$XDG_CONFIG_HOME/headrace/top.toml`, `/etc/headrace/top.toml`: the first that is there."""
    if given := os.environ.get("HEADRACE_TOP"):
        return Path(given)
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "headrace" / "top.toml"
    return next((path for path in (own, ETC) if path.is_file()), None)


def read_keymap(path: Path | None, scopes: Iterable[Iterable[BindingType]]) -> dict[str, str]:
    """Keys by id of binding.

    Args:
        path: None gives no other keys.
        scopes: for each screen, the bindings that are in force together.

    Raises:
        BadKeymap: it cannot be read, or would make keys that do two things, or act where they should look.
    """
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadKeymap(f"{path}: {error}") from None
    if unknown := document.keys() - {"keymap"}:
        raise BadKeymap(f"{path}: {sorted(unknown)[0]}: unknown key; a [keymap] is expected")
    table = document.get("keymap", {})
    try:
        return checked(table, [[b for b in scope if isinstance(b, Binding)] for scope in scopes])
    except BadKeymap as bad:
        raise BadKeymap(f"{path}: {bad}") from None


def checked(keymap: Mapping[str, object], scopes: list[list[Binding]]) -> dict[str, str]:
    """The same, where it can be. Pure.

    Raises:
        BadKeymap: see `read_keymap`.
    """
    known = {binding.id: binding for scope in scopes for binding in scope if binding.id}
    good: dict[str, str] = {}
    for name, key in keymap.items():
        if name not in known:
            raise BadKeymap(f"{name}: no such binding; there are {', '.join(sorted(map(str, known)))}")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise BadKeymap(f'{name}: {key!r} is no key; write for example "W", "f5", "ctrl+k", "slash"')
        upper = len(key) == 1 and key.isupper()
        if acts(known[name]) and not upper and not _FUNCTION.fullmatch(key):
            raise BadKeymap(f"{name}: {key!r}: what acts is an upper case letter or a function key")
        if not acts(known[name]) and upper:
            raise BadKeymap(f"{name}: {key!r}: an upper case letter acts, and this only looks")
        good[name] = key
    for scope in scopes:
        taken: dict[str, str] = {}
        for binding in scope:
            for key in good.get(binding.id or "", binding.key).split(","):
                other = taken.setdefault(key, binding.id or binding.action)
                if other != (binding.id or binding.action) and ({other, binding.id} & good.keys()):
                    raise BadKeymap(f"{binding.id}: {key!r} is the key of {other} on the same screen")
    return good
