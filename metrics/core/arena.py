"""The page server's view, with the models that pools are of, what schedulers add to it, and rates. Arithmetic only."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final

from bus.messages.details import ModelPool, ModelPrefix, PagesReply, Tier
from bus.messages.vitals import PagesView, PoolView
from metrics.core.series import SeriesStore
from metrics.core.views import Views

PREFIXES: Final = 32
HALF_LIFE_MIN: Final = 5.0  # of `HotPrefix.hits`
_SCHEDULER: Final = "scheduler@"
_USED: Final = ("leased", "pinned", "cached", "quarantined", "filling")


def pages_reply(rid: int, now_ns: int, views: Views, series: SeriesStore, span_s: float) -> PagesReply:
    """The arena as a screen shows it; empty where no page server was heard."""

    def per_s(name: str) -> float:
        return series.added(f"headrace_kv_{name}_total", now_ns) / span_s

    heard = next(iter(views.arenas.values()), None)
    view = heard.view if heard else _NOTHING
    hits, misses = per_s("hits"), per_s("misses")
    return PagesReply(
        rid=rid,
        at_ns=now_ns,
        heard_ns=heard.at_ns if heard else 0,
        arena_bytes=view.arena_bytes,
        slab_bytes=view.slab_bytes,
        slabs=view.slabs,
        slabs_free=view.slabs_free,
        settling=view.settling,
        leases_per_s=per_s("leases"),
        seals_per_s=per_s("seals"),
        evictions_per_s=per_s("evictions"),
        lookups_per_s=per_s("lookups"),
        hit_ratio=hits / (hits + misses) if hits + misses else -1.0,
        pools=tuple(_pool(pool, views, series) for pool in view.pools),
        tiers=_tiers(view, per_s, series) if heard else (),
        holders=tuple(sorted(view.holders, key=lambda holder: (not holder.stale, -holder.leased - holder.pinned))),
        prefixes=hottest(views),
        map=view.map,
        map_used=view.map_used,
        map_cell_bytes=view.map_cell_bytes,
    )


def hottest(views: Views) -> tuple[ModelPrefix, ...]:
    """Of all models, the most used first."""
    # What halves every five minutes and is fed evenly holds (half-life / ln 2) minutes' worth.
    minutes = HALF_LIFE_MIN / log(2)
    found = [
        ModelPrefix(heard.view.model, prefix.hits / minutes, prefix)
        for heard in views.schedulers.values()
        for prefix in heard.view.prefixes
    ]
    return tuple(sorted(found, key=lambda each: -each.hits_per_min * each.prefix.tokens)[:PREFIXES])


def _pool(pool: PoolView, views: Views, series: SeriesStore) -> ModelPool:
    model = next((name.removeprefix(_SCHEDULER) for name in pool.openers if name.startswith(_SCHEDULER)), "")
    heard = views.schedulers.get(f"{_SCHEDULER}{model}")
    stock = min(pool.leased, int(series.gauge("headrace_stock_pages", model=model))) if model else 0
    return ModelPool(model, heard.view.page_tokens if heard else 0, pool, stock)


def _tiers(view: PagesView, per_s: Callable[[str], float], series: SeriesStore) -> tuple[Tier, ...]:
    used = sum(sum(getattr(pool, state) for state in _USED) * pool.page_bytes for pool in view.pools)
    memory = Tier(
        "memory", used, view.slabs * view.slab_bytes, sum(pool.total - pool.free for pool in view.pools), 0,
        per_s("hits"), per_s("hits"), per_s("seals"), per_s("disk_lost"), 0,
    )  # fmt: skip
    if not view.disk_limit_bytes:
        return (memory,)
    reads = per_s("disk_reads")
    disk = Tier(
        "disk", view.disk_bytes, view.disk_limit_bytes, view.disk_pages, view.disk_waiting_pages,
        reads, reads, per_s("disk_writes"), 0.0, int(series.total("headrace_kv_disk_errors_total")), view.disk_state,
    )  # fmt: skip
    return memory, disk


_NOTHING: Final = PagesView("", 0, 0, 0, 0, (), (), b"", b"", 0, False)
