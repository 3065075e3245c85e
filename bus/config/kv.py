"""`[kv]`: the page arena and its disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from bus.config.section import ConfigError, Problem, Section, parse_size, unless

MIN_DISK: Final = 64 << 20  # four segments of the disk tier


class KvConfig(Section, frozen=True):
    """`[kv]`: the page arena.

    Attributes:
        arena: its size.
        slab: unit in which pools take memory from the arena.
        hugepages: "auto" uses them where the host has enough reserved, "on" refuses to start without, "off".
        disk: bytes of files that keep pages beyond the arena and a reboot; "0" keeps none.
        disk_path: their directory; empty is `pages` in the state directory.
    """

    arena: str = "1GiB"
    slab: str = "32MiB"
    hugepages: Literal["auto", "on", "off"] = "auto"
    disk: str = "0"
    disk_path: str = ""


def problems(kv: KvConfig) -> Iterator[Problem]:
    """What types cannot say."""
    yield from unless(parse_size, kv.arena, ("kv", "arena"))
    yield from unless(parse_size, kv.slab, ("kv", "slab"))
    yield from unless(_parse_disk, kv.disk, ("kv", "disk"))
    if kv.disk_path and not Path(kv.disk_path).expanduser().is_absolute():
        yield ("kv", "disk_path"), f"{kv.disk_path!r} is not an absolute path"


def _parse_disk(text: str) -> None:
    if 0 < parse_size(text) < MIN_DISK:
        raise ConfigError(f'{text!r} is too small to be of use; write at least {MIN_DISK >> 20}MiB, or "0" for none')
