"""References in one form, `#` or `#/$defs/NAME`, whatever their schema calls its places. Pure.

`$id` gives a part an address of its own, against which the references in it are read, and `$anchor` gives places names
(JSON Schema 2020-12, core, 8.2). Once a reference is said by its place nothing of this is needed, and other rules may
change the schema around the place: so places that are not definitions are copied to where definitions are. A dynamic
reference is an ordinary one where there is one place in the whole schema that it could mean. What leads nowhere within
the schema stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

from ingress.grammar.parts import MAX_DEPTH, Room, Schema, children, within

_MOST_COPIES: Final = 256
# Drafts in which what is beside a reference says nothing.
_OLD: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
_NAMES: Final = ("$id", "$anchor", "$dynamicAnchor")
_DRAFTS: Final = ("http://json-schema.org/", "https://json-schema.org/")


def resolved(schema: Schema) -> Schema:
    """The same schema with every reference in it by its place, and without names of places.

    Raises:
        Unsayable: it would be too large.
    """
    places = _Places(schema)
    whole = places.said(schema, "", MAX_DEPTH)
    definitions = dict(whole.get("$defs", {})) if isinstance(whole.get("$defs"), dict) else {}
    done = 0
    while done < len(places.copies):  # copying one may find more
        pointer, name = list(places.copies.items())[done]
        definitions[name] = places.said(places.at(pointer), places.base_of(pointer), MAX_DEPTH)
        done += 1
    return {**whole, "$defs": definitions} if places.copies else whole


class _Places:
    """What the places of a schema are called."""

    def __init__(self, schema: Schema) -> None:
        self.copies: dict[str, str] = {}  # pointer -> name of its copy
        self._whole = schema
        self._room = Room()
        declared = schema.get("$schema")
        self._old = isinstance(declared, str) and any(old in declared for old in _OLD)
        self._roots: dict[str, str] = {}  # address of a resource -> pointer
        self._anchors: dict[tuple[str, str], str] = {}
        self._dynamic: dict[str, list[str]] = {}
        self._bases: dict[str, str] = {"#": ""}
        self._read(schema, "#", "", MAX_DEPTH)

    def at(self, pointer: str) -> Any:
        """What is at a pointer; None where nothing is."""
        value: Any = self._whole
        for step in pointer[2:].split("/") if pointer != "#" else ():
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    def base_of(self, pointer: str) -> str:
        """The address of the resource that a place is in, as it is before an `$id` of its own."""
        while pointer not in self._bases and "/" in pointer:
            pointer = pointer.rpartition("/")[0]
        return self._bases.get(pointer, "")

    def said(self, schema: Any, base: str, depth: int) -> Any:
        """A part with its references by place. base: the address that it is read against."""
        if not isinstance(schema, dict) or not depth:
            return schema
        self._room.take()
        base = _address(schema, base)
        if self._old and "$ref" in schema:  # in these drafts nothing beside a reference counts
            schema = {key: value for key, value in schema.items() if key in ("$ref", "$defs", "definitions", "$schema")}
        found: Schema = {}
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                place = self._place(key, value, base)
                found["$ref" if place else key] = place or value
            elif not isinstance(value, str) or not (key in _NAMES or (key == "$schema" and value.startswith(_DRAFTS))):
                found[key] = within(key, value, lambda part: self.said(part, base, depth - 1))
        return found

    def _read(self, schema: Any, where: str, base: str, depth: int) -> None:
        if not isinstance(schema, dict) or not depth:
            return
        self._bases[where] = base
        base = _address(schema, base)
        if isinstance(schema.get("$id"), str) or where == "#":
            self._roots.setdefault(base, where)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := schema.get(key), str):
                self._anchors[base, name] = where
        if isinstance(name := schema.get("$dynamicAnchor"), str):
            self._dynamic.setdefault(name, []).append(where)
        for place, part in children(schema, where):
            self._read(part, place, base, depth - 1)

    def _place(self, key: str, reference: str, base: str) -> str:
        """Where a reference leads, in one of the two forms; empty where that cannot be said."""
        try:
            address, fragment = urldefrag(
                urljoin(base, reference) if not reference.startswith("#") else base + reference
            )
        except ValueError:
            return ""
        root = self._roots.get(address)
        if root is None:
            return ""
        if key == "$dynamicRef" and len(self._dynamic.get(fragment, ())) > 1:
            return ""  # it depends on the way that led here
        if not fragment:
            pointer = root
        elif fragment.startswith("/"):
            pointer = root + fragment
        else:
            pointer = self._anchors.get((address, unquote(fragment)), "")
        if not pointer or not isinstance(self.at(pointer), dict | bool):
            return ""
        steps = pointer.split("/")
        if pointer == "#" or (len(steps) == 3 and steps[1] in ("$defs", "definitions")):
            return pointer
        if pointer not in self.copies and len(self.copies) >= _MOST_COPIES:
            return ""
        taken = self._whole.get("$defs")
        name = "at" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0])}_", pointer[1:])
        while isinstance(taken, dict) and name in taken:
            name += "_"
        return f"#/$defs/{self.copies.setdefault(pointer, name)}"


def _address(schema: Mapping[str, Any], base: str) -> str:
    """What references in a schema are read against."""
    if not isinstance(own := schema.get("$id"), str):
        return base
    try:
        return urldefrag(urljoin(base, own))[0]
    except ValueError:
        return base
