"""The hottest prefixes, and who holds pages, as table rows. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.filters import Value
from admin_tui.glyphs import Glyphs
from admin_tui.links import Link
from admin_tui.look import Look
from admin_tui.panel import UNKNOWN, Scene, age_of_said
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, rate, sanitize
from bus.messages.details import ModelPrefix
from bus.messages.vitals import Holder

PREFIX_COLUMNS: Final = (
    Column("digest", "PREFIX", 12),
    Column("model", "MODEL", 0),
    Column("tokens", "TOKENS", 7, True),
    Column("refs", "HELD BY", 7, True),
    Column("hits", "HITS/MIN", 8, True),
    Column("saved", "TOK/MIN SAVED", 13, True, screen=100),
    Column("age", "KNOWN FOR", 9, True, screen=110),
    Column("last", "LAST HIT", 8, True, screen=70),
)
PREFIX_SORTS: Final = ("saved", "hits", "tokens", "refs", "age")
HOLDER_COLUMNS: Final = (
    Column("name", "HOLDER", 0),
    Column("state", "LEASE", 10),
    Column("epoch", "EPOCH", 9, True, screen=100),
    Column("pid", "PID", 7, True, screen=100),
    Column("leased", "LEASED", 8, True),
    Column("pinned", "PINNED", 8, True),
    Column("writers", "MAY STILL WRITE", 24, screen=110),
)
HOLDER_SORTS: Final = ("leased", "name", "pinned")


def age_s(scene: Scene) -> float:
    """Of what kv said last."""
    pages = scene.world.details.pages
    return age_of_said(scene, "pages", pages.at_ns, pages.heard_ns) if pages else UNKNOWN


def prefix_facts(entry: ModelPrefix, now_ns: int) -> dict[str, Value]:
    """A prefix as filters and sorting see it."""
    prefix = entry.prefix
    return {
        "digest": prefix.digest.hex(),
        "model": entry.model,
        "tokens": prefix.tokens,
        "refs": prefix.refs,
        "hits": entry.hits_per_min,
        "saved": entry.hits_per_min * prefix.tokens,
        "age": (now_ns - prefix.since_ns) / 1e9,
        "last": (now_ns - prefix.last_ns) / 1e9,
    }


def prefixes(scene: Scene, look: Look) -> list[Row]:
    """The largest of what is sorted by first."""
    pages = scene.world.details.pages
    if pages is None:
        return []
    kept = [f for entry in pages.prefixes if look.keeps(f := prefix_facts(entry, pages.at_ns), faulty=False)]
    kept.sort(key=lambda f: f[look.sort], reverse=not look.reverse)
    return [Row(f"{f['model']} {f['digest']}", partial(_prefix, f)) for f in kept]


def _prefix(f: dict[str, Value]) -> Cells:
    digest = str(f["digest"])
    return {
        "digest": Text(digest[:11] + "…" if len(digest) > 12 else digest, palette.WATER),
        "model": Text(sanitize(str(f["model"]), 48), palette.TEXT),
        "tokens": Text(count(float(f["tokens"])), palette.TEXT),
        "refs": Text(count(float(f["refs"])), palette.TEXT if f["refs"] else palette.SOFT),
        "hits": Text(rate(float(f["hits"])), palette.TEXT),
        "saved": Text(count(float(f["saved"])), palette.GOOD),
        "age": Text(duration(float(f["age"])), palette.SOFT),
        "last": Text(duration(float(f["last"])), palette.SOFT),
    }


def requests_with(scene: Scene, key: str) -> Link | None:
    """Requests that begin with the prefix of a row: those of its model that found as much of their prompt."""
    pages = scene.world.details.pages
    for entry in pages.prefixes if pages else ():
        if key == f"{entry.model} {entry.prefix.digest.hex()}":
            return Link("requests", filter=f"model={entry.model} cached>={entry.prefix.tokens}")
    return None


def holder_facts(holder: Holder) -> dict[str, Value]:
    """Who holds pages, as filters and sorting see it."""
    return {
        "name": holder.name,
        "role": holder.role,
        "state": "stale" if holder.stale else "ok",
        "epoch": holder.epoch,
        "pid": holder.pid,
        "leased": holder.leased,
        "pinned": holder.pinned,
        "writers": " ".join(holder.writers),
    }


def holders(scene: Scene, look: Look) -> list[Row]:
    """Stale ones first: their pages come back only when nobody can write them."""
    pages = scene.world.details.pages
    if pages is None:
        return []
    kept = [f for holder in pages.holders if look.keeps(f := holder_facts(holder), faulty=holder.stale)]
    kept.sort(key=lambda f: f[look.sort], reverse=look.reverse != (look.sort != "name"))
    kept.sort(key=lambda f: f["state"] != "stale")
    return [Row(f"{f['name']} {f['epoch']}", partial(_holder, f, scene.glyphs)) for f in kept]


def _holder(f: dict[str, Value], glyphs: Glyphs) -> Cells:
    stale = f["state"] == "stale"
    sign = (
        Text(f"{glyphs.states['late']} stale", palette.WARN)
        if stale
        else Text(f"{glyphs.states['ready']} ok", palette.GOOD)
    )
    return {
        "name": Text(sanitize(str(f["name"]), 64), palette.WARN if stale else palette.TEXT),
        "state": sign,
        "epoch": Text(str(f["epoch"]), palette.SOFT),
        "pid": Text(str(f["pid"] or NOTHING), palette.SOFT),
        "leased": Text(count(float(f["leased"])), palette.PREFILL if f["leased"] else palette.SOFT),
        "pinned": Text(count(float(f["pinned"])), palette.WATER if f["pinned"] else palette.SOFT),
        "writers": Text(sanitize(str(f["writers"]), 80) or NOTHING, palette.WARN if stale else palette.SOFT),
    }
