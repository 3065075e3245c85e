"""What the collector knows of the arena, doors, workers and models, and the balance sheet of memory."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bus.config import ModelConfig
from bus.messages.details import Memory
from bus.messages.telemetry import Sample, Series
from bus.messages.vitals import (
    Door,
    DoorPeer,
    Doors,
    Holder,
    HotPrefix,
    PagesView,
    PoolView,
    SchedulerView,
    WorkerView,
)
from metrics.core.arena import pages_reply
from metrics.core.endpoints import Endpoints
from metrics.core.fleet import Fleet
from metrics.core.pace import worker_paces
from metrics.core.series import SeriesStore
from metrics.core.sheet import Owned, balance, model_sheets
from metrics.core.views import KEPT_NS, Views

SECOND = 1_000_000_000
MIB = 1 << 20


def pool(model: str = "m", **changes: int) -> PoolView:
    counts = {"pool": 1, "page_bytes": 4096, "slabs": 2, "capacity": 100, "total": 20, "free": 5, "leased": 8,
              "pinned": 4, "cached": 3, "quarantined": 0, "filling": 0} | changes  # fmt: skip
    return PoolView(openers=(f"scheduler@{model}", f"worker@{model}.0.0"), **counts)


def arena(*pools: PoolView, **changes: object) -> PagesView:
    known = {"disk_limit_bytes": 0} | changes
    return PagesView("kv@host", 300, 100, 3, 1, pools, (), b"\x01\x02\x00", b"\x00\x80\x00", 100, False, **known)  # type: ignore[arg-type]


def scheduler(model: str, *prefixes: HotPrefix) -> SchedulerView:
    return SchedulerView(f"scheduler@{model}", model, 16, (), (), (), prefixes)


def worker(model: str = "m", replica: int = 0, rank: int = 0, ranks: int = 1, **changes: object) -> WorkerView:
    known: dict[str, object] = {
        "source": "x.gguf", "file": "x.gguf", "architecture": "llama", "parameters": 9, "quantisation": "4 bits",
        "engine": "the file's own bits", "device": "cpu", "threads": 2, "weight_bytes": 100 * MIB, "shared": True,
        "digest": model.encode(), "kv_dtype": "bfloat16", "kv_token_bytes": 256, "page_tokens": 16,
        "context_tokens": 8192, "vocabulary": 40, "slots": 4, "step_tokens": 512, "load_s": 1.0 + replica,
    } | changes  # fmt: skip
    return WorkerView(f"worker@{model}.{replica}.{rank}", model, replica, rank, ranks, **known)  # type: ignore[arg-type]


def fleet_of(*names: str, cpu_s: float = 0.0) -> Fleet:
    fleet = Fleet()
    for number, name in enumerate(names):
        sample = Sample(name, name.partition("@")[0], 100 + number, 1, "ready", 0, 0, True, cpu_s, 0, ())
        fleet.take(sample, SECOND)
    return fleet


# --- the arena -------------------------------------------------------------------------------------------------------


def test_pools_have_models_and_tiers_have_rates() -> None:
    views, series = Views(), SeriesStore()
    views.take(arena(pool("m"), pool("gone", pool=2, leased=0), disk_limit_bytes=1000, disk_bytes=400), SECOND)
    views.take(scheduler("m"), SECOND)
    for at in (0, 10):
        for name, value in (("hits", 30), ("misses", 10), ("seals", 50), ("disk_reads", 20), ("evictions", 5)):
            series.take("kv@host", Series(f"headrace_kv_{name}_total", "counter", (), value * at), at * SECOND, 0)
    series.take("scheduler@m", Series("headrace_stock_pages", "gauge", (("model", "m"),), 3), SECOND, 0)
    reply = pages_reply(4, 10 * SECOND, views, series, 10.0)
    assert (reply.rid, reply.heard_ns, reply.arena_bytes, reply.map) == (4, SECOND, 300, b"\x01\x02\x00")
    assert [(each.model, each.page_tokens, each.stock) for each in reply.pools] == [("m", 16, 3), ("gone", 0, 0)]
    memory, disk = reply.tiers
    assert (memory.used_bytes, memory.limit_bytes, memory.pages) == ((15 + 7) * 4096, 300, 15 + 15)
    assert (memory.hits_per_s, memory.writes_per_s, disk.reads_per_s, disk.used_bytes) == (30.0, 50.0, 20.0, 400)
    assert (reply.evictions_per_s, reply.hit_ratio) == (5.0, 0.75)


def test_without_a_page_server_there_is_nothing_and_that_is_said() -> None:
    reply = pages_reply(1, SECOND, Views(), SeriesStore(), 10.0)
    assert (reply.heard_ns, reply.pools, reply.tiers, reply.map, reply.hit_ratio) == (0, (), (), b"", -1.0)


def test_the_hottest_prefixes_of_all_models_are_those_that_save_most() -> None:
    views = Views()
    rare, short, hot = (HotPrefix(name, tokens, 1, hits, 1, 2) for name, tokens, hits in (
        (b"rare", 4000, 1.0), (b"short", 16, 100.0), (b"hot", 1000, 72.13),
    ))  # fmt: skip
    views.take(scheduler("a", rare, short), SECOND)
    views.take(scheduler("b", hot), SECOND)
    found = pages_reply(1, SECOND, views, SeriesStore(), 10.0).prefixes
    assert [(each.model, each.prefix.digest) for each in found] == [("b", b"hot"), ("a", b"rare"), ("a", b"short")]
    assert abs(found[0].hits_per_min - 10.0) < 0.01  # ten a minute for ever are 72 that fade


def test_holders_that_are_gone_come_first() -> None:
    views = Views()
    holders = (Holder("a", "scheduler", 1, 1, 5, 0, False), Holder("b", "scheduler", 1, 0, 1, 0, True),
               Holder("c", "scheduler", 1, 1, 9, 0, False))  # fmt: skip
    views.take(PagesView("kv@host", 1, 1, 1, 1, (), holders, b"", b"", 1, False), SECOND)
    assert [each.name for each in pages_reply(1, SECOND, views, SeriesStore(), 1.0).holders] == ["b", "c", "a"]


# --- doors -----------------------------------------------------------------------------------------------------------


def doors(received: int, sent: int, refused: int = 0, name: str = "scheduler@m") -> Doors:
    peer = DoorPeer("worker@m.0.0", 1, 0, 1, "ready", True, 5, received, sent, 0, 70, 90)
    door = Door("steps", "ROUTER", 1, received, sent, 0, 10_000, 0, (("stale", refused),), (peer,), 70, 90)
    return Doors(name, (door,))


def test_rates_of_a_door_are_those_of_ten_seconds_and_start_over_with_its_process() -> None:
    views, endpoints = Views(), Endpoints()
    for second in range(0, 32, 2):
        said = doors(100 * second, 10 * second, second // 2)
        views.take(said, second * SECOND)
        endpoints.take(said, second * SECOND)
    (endpoint,) = endpoints.all(views)
    assert (endpoint.owner, endpoint.in_per_s, endpoint.out_per_s, endpoint.refused_per_s) == (
        "scheduler@m", 100.0, 10.0, 0.5,
    )  # fmt: skip
    assert endpoint.door.peers[0].rtt_p99_ns == 90
    for second, received in ((32, 8), (34, 28)):
        views.take(doors(received, 0), second * SECOND)
        endpoints.take(doors(received, 0), second * SECOND)
    assert [each.in_per_s for each in endpoints.all(views)] == [10.0]


def test_what_is_silent_is_dropped() -> None:
    views, endpoints = Views(), Endpoints()
    views.take(doors(1, 1), SECOND)
    endpoints.take(doors(1, 1), SECOND)
    views.take(worker(), 10 * SECOND)
    views.expire(SECOND + KEPT_NS)
    assert endpoints.all(views)
    views.expire(SECOND + KEPT_NS + 1)
    endpoints.expire(SECOND + KEPT_NS + 1)
    assert endpoints.all(views) == ()
    assert views.workers


# --- workers ---------------------------------------------------------------------------------------------------------


def stepped(series: SeriesStore, name: str, mean_s: float, steps: int) -> None:
    for at, count in ((0, 0), (10, steps)):
        histogram = Series("headrace_step_seconds", "histogram", (("rank", name[-1]),), count * mean_s, (0.1, 1.0),
                           (count, count, count))  # fmt: skip
        series.take(name, histogram, at * SECOND, 0)


def test_the_rank_that_holds_up_the_others_is_seen() -> None:
    series, names = SeriesStore(), [f"worker@m.0.{rank}" for rank in range(3)] + ["worker@m.1.0"]
    for name, mean_s in zip(names, (0.02, 0.02, 0.05, 0.09), strict=True):
        stepped(series, name, mean_s, 100)
    places = {102: (7, "4-7", 1)}
    paces = worker_paces(fleet_of(*names, "kv@host"), series, places, 10 * SECOND, 10.0)
    assert [(pace.replica, pace.rank) for pace in paces] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert [round(pace.skew_s, 6) for pace in paces] == [0.0, 0.0, 0.03, 0.0]
    assert [(pace.steps_per_s, round(pace.step_s, 6), round(pace.busy, 6)) for pace in paces][2] == (10.0, 0.05, 0.5)
    assert [(pace.cpu, pace.cpus, pace.node) for pace in paces][1:3] == [(-1, "", -1), (7, "4-7", 1)]


def test_a_process_takes_so_many_cores() -> None:
    fleet = fleet_of("worker@m.0.0")
    for second in range(2, 30):
        sample = Sample("worker@m.0.0", "worker", 100, 1, "ready", 0, 0, True, 1.5 * (second - 1), 0, ())
        fleet.take(sample, second * SECOND)
    assert abs(fleet.members["worker@m.0.0"].cores - 1.5) < 1e-9
    fleet.take(Sample("worker@m.0.0", "worker", 100, 2, "ready", 0, 0, True, 0.0, 0, ()), 30 * SECOND)
    assert fleet.members["worker@m.0.0"].cores == 0.0


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_before_and_after_a_worker_has_loaded_it() -> None:
    config = ModelConfig(name="m", source="x.gguf", replicas=2, tensor_parallel=2)
    views = Views()
    (sheet,) = model_sheets([config], views, Fleet())
    assert (sheet.model, sheet.architecture, sheet.weight_bytes, sheet.workers_ready, sheet.workers) == (
        "m",
        "",
        0,
        0,
        4,
    )
    for replica in range(2):
        for rank in range(2):
            views.take(worker("m", replica, rank, 2), SECOND)
    views.take(arena(pool("m")), SECOND)
    (sheet,) = model_sheets([config], views, fleet_of("worker@m.0.0", "worker@m.0.1", "worker@m.1.0"))
    assert (sheet.architecture, sheet.weight_bytes, sheet.load_s) == ("llama", 200 * MIB, 2.0)
    assert (sheet.workers_ready, sheet.replicas, sheet.ranks, sheet.kv_limit_tokens) == (3, 2, 2, 1600)


SIZES = st.integers(0, 1 << 36)


@given(SIZES, SIZES, st.lists(SIZES, min_size=4, max_size=4), st.booleans())
def test_the_balance_sheet_adds_up(total: int, arena_given: int, private: Sequence[int], shared: bool) -> None:
    views = Views()
    for replica in range(2):
        views.take(worker("m", replica, shared=shared), SECOND)
    fleet = fleet_of("worker@m.0.0", "worker@m.1.0", "kv@host", "ingress@0")
    owned = Owned({100 + number: size for number, size in enumerate(private)}, arena_given)
    memory = Memory(total, total // 2, 0, 0, 0, 0, 0, 0, 0, arena_given)
    lines = balance(memory, views, fleet, owned)
    assert all(line.bytes >= 0 for line in lines)
    taken = {line.kind: 0 for line in lines}
    for line in lines:
        taken[line.kind] += line.bytes
    assert taken["weights"] == (1 if shared else 2) * 100 * MIB
    if shared:
        assert taken["process"] == sum(private)
    if taken["other"]:
        assert sum(taken.values()) == total
