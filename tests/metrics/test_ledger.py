"""The ledger's file: what is written counts once, in every sum, whatever is told twice or fails in between."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.config import Config, CostConfig, UsageConfig
from bus.loop import PollLoop
from bus.messages.usage import GetUsage, Grouping, UsageRecord, UsageReply
from metrics.core.costs import Rate, rate_at, rate_of
from metrics.ledger.database import DAY, HOUR, Database, LedgerForeign, LedgerTaken
from metrics.ledger.keeper import Keeper
from metrics.ledger.queries import answer

NOON = 1_795_608_000  # 2026-11-25 12:00 UTC
RATE = Rate(NOON - 10 * DAY, 4, "EUR", 3.6, 0.0, 0.0, 0.0)


def record(request: int, at_s: int = NOON, model: str = "m", tokens: int = 10, **more: object) -> UsageRecord:
    fields: dict[str, object] = {
        "request": request, "ended_ms": at_s * 1000, "model": model, "tenant": "", "key": "", "outcome": "stop",
        "prompt_tokens": 3 * tokens, "cached_tokens": tokens, "generated_tokens": tokens,
        "compute_ns": tokens * 1_000_000_007, "prefill_ns": tokens * 500_000_003, "duration_ns": 5,
    }  # fmt: skip
    return UsageRecord(**(fields | more))  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path, "boot")
    database.set_rate(RATE)
    yield database
    database.close()


def asked(database: Database, by: Grouping = "model", since_s: int = NOON - DAY, now_s: int = NOON + HOUR - 1,
          **more: object) -> UsageReply:  # fmt: skip
    return answer(database, GetUsage(1, since_s, by, **more), now_s, "")  # type: ignore[arg-type]


RECORDS = st.builds(
    record,
    request=st.integers(1, 12),
    at_s=st.integers(NOON - 3 * DAY, NOON),
    model=st.sampled_from(["a", "b"]),
    tokens=st.integers(0, 10**5),
    tenant=st.sampled_from(["", "t"]),
    outcome=st.sampled_from(["stop", "error", "client"]),
)


@given(batches=st.lists(st.lists(RECORDS, max_size=8), max_size=8))
@settings(max_examples=25, deadline=None)
def test_each_request_counts_once_in_every_sum_however_often_it_is_told(batches: list[list[UsageRecord]]) -> None:
    first: dict[int, UsageRecord] = {}
    for each in (record for batch in batches for record in batch):
        first.setdefault(each.request, each)
    with tempfile.TemporaryDirectory() as place:
        database = Database(Path(place), "boot")
        database.set_rate(RATE)
        assert sum(database.write(batch) for batch in batches) == len(first)
        groupings: tuple[Grouping, ...] = ("model", "tenant", "key", "hour", "day")
        for by in groupings:
            reply = asked(database, by, since_s=NOON - 5 * DAY)
            for rows in (reply.rows, (reply.total,)):
                assert sum(row.requests for row in rows) == len(first)
                assert sum(row.failed for row in rows) == sum(each.outcome == "error" for each in first.values())
                assert sum(row.prompt_tokens for row in rows) == sum(each.prompt_tokens for each in first.values())
                assert sum(row.cached_tokens for row in rows) == sum(each.cached_tokens for each in first.values())
                told = sum(row.generated_tokens for row in rows)
                assert told == sum(each.generated_tokens for each in first.values())
        for grain in (HOUR, DAY):
            sums = database.connection.execute(
                "SELECT sum(compute_ns), sum(prefill_ns) FROM sums WHERE grain = ?", (grain,)
            ).fetchone()
            assert tuple(value or 0 for value in sums) == (
                sum(each.compute_ns for each in first.values()), sum(each.prefill_ns for each in first.values())
            )  # fmt: skip
        database.close()


def test_it_is_on_disk_when_write_returns_and_a_process_that_dies_leaves_it_whole(tmp_path: Path) -> None:
    database = Database(tmp_path, "boot")
    database.write([record(1), record(2)])
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("usage.db*"):  # as a SIGKILL leaves it: nothing was closed
        (copy / path.name).write_bytes(path.read_bytes())
    after = Database(copy, "boot")
    assert after.write([record(2), record(3)]) == 1
    assert asked_total(after) == 3


def asked_total(database: Database) -> int:
    database.set_rate(RATE)
    return asked(database).total.requests


def test_a_batch_that_fails_in_the_middle_leaves_nothing(database: Database) -> None:
    def batch() -> Iterator[UsageRecord]:
        yield record(1)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        database.write(batch())
    assert asked(database).total.requests == 0
    assert database.write([record(1)]) == 1


def test_costs_are_those_of_the_prices_of_then(database: Database) -> None:
    database.write([record(1, NOON - DAY, compute_ns=3600 * 4 * 10**9), record(2, NOON, compute_ns=3600 * 4 * 10**9)])
    database.set_rate(RATE._replace(since_s=NOON - HOUR, price_per_hour=10.0))
    days = {row.group: row.cost for row in asked(database, "day", since_s=NOON - 2 * DAY).rows}
    # A day has the price that it began with.
    assert days == {"2026-11-24": pytest.approx(3.6), "2026-11-25": pytest.approx(3.6)}
    hours = {row.group: row.cost for row in asked(database, "hour", since_s=NOON - 2 * DAY).rows}
    assert hours == {"2026-11-24T12:00Z": pytest.approx(3.6), "2026-11-25T12:00Z": pytest.approx(10.0)}
    database.set_rate(RATE._replace(since_s=NOON, price_per_hour=10.0))
    assert len(database.rates()) == 2, "prices that are the same are not new ones"


def test_the_host_costs_what_requests_cost_and_what_idleness_costs(database: Database) -> None:
    database.write([record(1, compute_ns=3600 * 10**9)])  # a quarter of an hour of four cores
    database.watched(3600 * 10**9, NOON * 10**9)
    host, total = asked(database).host, asked(database).total
    assert host.up_s == 3600
    assert host.core_s == 4 * 3600
    assert host.utilisation == pytest.approx(0.25)
    assert host.cost == pytest.approx(3.6)
    assert host.idle_cost == pytest.approx(2.7)
    assert total.cost == pytest.approx(0.9)


@given(
    cores=st.integers(1, 256), used=st.floats(0, 1), hour=st.floats(0, 100), kwh=st.floats(0, 2),
    idle=st.floats(0, 300), more=st.floats(0, 1000),
)  # fmt: skip
def test_busy_and_idle_together_are_the_host(
    cores: int, used: float, hour: float, kwh: float, idle: float, more: float
) -> None:
    config = CostConfig(price_per_hour=hour, price_per_kwh=kwh, watts_idle=idle, watts_busy=idle + more)
    rate = rate_of(config, cores, 0)
    busy_s = used * cores * 3600
    drawn_kwh = (idle + more * used) / 1000
    together = rate.of_compute(busy_s) + rate.of_idle(cores * 3600 - busy_s)
    assert together == pytest.approx(hour + drawn_kwh * kwh, abs=1e-9)


def test_numbers_that_cannot_be_do_not_stop_the_ledger(database: Database) -> None:
    assert database.write([record(1, compute_ns=1 << 80), record(2)]) == 2


def test_the_rate_of_a_moment() -> None:
    rates = [RATE._replace(since_s=at) for at in (10, 20, 30)]
    assert [rate_at(rates, at).since_s for at in (0, 10, 19, 20, 99)] == [10, 10, 10, 20, 30]


def test_what_is_old_is_forgotten_request_by_request_first(database: Database) -> None:
    old = NOON - 40 * DAY
    database.write([record(1, old), record(2)])
    database.watched(10, old * 10**9)
    kept = {"requests_days": 35, "hours_days": 400, "days": 3650}
    assert not database.prune(NOON, **kept)
    assert asked(database, "request", since_s=old).rows[0].group == f"{2:016x}"
    assert asked(database, since_s=old).total.requests == 2
    assert not database.prune(NOON, **(kept | {"hours_days": 10}))
    assert asked(database, "hour", since_s=NOON - 39 * DAY).total.requests == 1
    assert asked(database, "day", since_s=old - DAY).total.requests == 2
    assert not database.prune(NOON, requests_days=1, hours_days=1, days=1)
    assert asked(database, "day", since_s=old - DAY).total.requests == 1


def test_only_so_many_requests_are_forgotten_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.ledger.database.PRUNED_AT_ONCE", 3)
    database.write([record(n, NOON - 50 * DAY) for n in range(1, 8)])
    assert [database.prune(NOON, requests_days=35, hours_days=400, days=3650) for _ in range(3)] == [True, True, False]


def test_the_latest_requests_and_how_many_are_left_out(database: Database) -> None:
    database.write([record(n, NOON + n) for n in range(1, 6)])
    reply = asked(database, "request", limit=2)
    assert [row.group for row in reply.rows] == [f"{5:016x}", f"{4:016x}"]
    assert reply.rows[0].outcome == "stop"
    assert reply.more == 3
    assert asked(database, "model", model="other").total.requests == 0


def test_samples_of_a_call_are_one_line_with_what_they_might_draw(database: Database) -> None:
    samples = [record(n, NOON + n, tokens=n, call=77, allowed=40, outcome="length") for n in range(1, 4)]
    database.write([*samples, record(9, NOON + 9), record(8, NOON + 1, call=78, outcome="error"), record(7, call=78)])
    reply = asked(database, "call")
    assert [(row.group, row.requests, row.generated_tokens, row.allowed) for row in reply.rows] == [
        (f"{9:016x}", 1, 10, 0), (f"{77:016x}", 3, 6, 40), (f"{78:016x}", 2, 20, 0)
    ]  # fmt: skip
    assert [row.outcome for row in reply.rows] == ["stop", "length", "error"]
    assert reply.rows[2].failed == 1
    assert reply.total.requests == 6
    assert asked(database, "call", limit=1).more == 2
    assert {row.allowed for row in asked(database, "request").rows} == {0, 40}
    assert asked(database, "call", model="other").rows == ()


def test_a_ledger_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """Its rows are calls of one sample."""
    database = Database(tmp_path, "boot")
    database.write([record(1)])
    for column in ("call", "allowed", "reasoning_tokens"):
        database.connection.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    database.connection.execute("ALTER TABLE sums DROP COLUMN reasoning_tokens")
    database.connection.execute("PRAGMA user_version = 2")
    database.close()
    again = Database(tmp_path, "boot")
    again.set_rate(RATE)
    assert again.write([record(2, NOON + 1, call=5), record(3, NOON + 1, call=5, allowed=9)]) == 2
    assert [(row.group, row.requests, row.allowed) for row in asked(again, "call").rows] == [
        (f"{5:016x}", 2, 9), (f"{1:016x}", 1, 0)
    ]  # fmt: skip
    again.close()


def test_what_was_thought_is_told_by_every_grouping(database: Database) -> None:
    database.write([record(1, reasoning_tokens=4), record(2, reasoning_tokens=3, call=9), record(3, call=9)])
    groupings: tuple[Grouping, ...] = ("model", "hour", "day", "request", "call", "project")
    for by in groupings:
        reply = asked(database, by)
        assert sum(row.reasoning_tokens for row in reply.rows) == 7, by
        assert reply.total.reasoning_tokens == 7


def test_a_ledger_of_before_thoughts_were_told_goes_on(tmp_path: Path) -> None:
    database = Database(tmp_path, "boot")
    database.write([record(1, call=5, allowed=9)])
    for table in ("requests", "sums"):
        database.connection.execute(f"ALTER TABLE {table} DROP COLUMN reasoning_tokens")
    database.connection.execute("PRAGMA user_version = 3")
    database.close()
    again = Database(tmp_path, "boot")
    again.set_rate(RATE)
    assert again.write([record(2, call=5, allowed=9, reasoning_tokens=6)]) == 1
    (call,) = asked(again, "call").rows
    assert (call.requests, call.allowed, call.reasoning_tokens) == (2, 9, 6)
    assert asked(again).total.reasoning_tokens == 6
    again.close()


def test_two_stacks_cannot_write_one_ledger(database: Database) -> None:
    with pytest.raises(LedgerTaken, match="HEADRACE_STATE"):
        Database(database.path.parent, "boot")


def test_a_ledger_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path, "boot")
    database.connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LedgerForeign, match="newer release"):
        Database(tmp_path, "boot")
    assert sqlite3.connect(tmp_path / "usage.db").execute("PRAGMA user_version").fetchone() == (99,)


def test_a_damaged_ledger_is_kept_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"this is no database at all" * 400)
    database = Database(tmp_path, "boot")
    assert database.write([record(1)]) == 1
    assert len(list(tmp_path.glob("usage.db.damaged-*"))) == 1


# --- the thread ----------------------------------------------------------------------------------------------------


class Kept:
    """A keeper, and the loop that it calls back on."""

    def __init__(self, state: Path, **usage: object) -> None:
        self.loop = PollLoop()
        config = Config(usage=UsageConfig(**usage), cost=CostConfig(price_per_hour=1.0))  # type: ignore[arg-type]
        self.keeper = Keeper(self.loop, state, config)
        self.done: list[str] = []
        self.replies: list[UsageReply] = []

    def until(self, true: object) -> None:
        deadline = time.monotonic() + 20
        while not true():  # type: ignore[operator]
            assert time.monotonic() < deadline, "never became true"
            self.loop.turn(0.02)

    def write(self, source: str, *requests: int) -> None:
        now_s = int(time.time())
        self.keeper.write(source, [record(n, now_s) for n in requests], lambda: self.done.append(source))

    def total(self) -> UsageReply:
        self.replies.clear()
        self.keeper.ask(GetUsage(1, int(time.time()) - HOUR), self.replies.append)
        self.until(lambda: self.replies)
        return self.replies[0]


def test_batches_are_answered_when_they_are_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.write("a", 1, 2)
    kept.until(lambda: kept.done == ["a"])
    assert kept.total().total.requests == 2
    assert kept.keeper.waiting == 0
    kept.write("b", 3)
    kept.keeper.close()  # what is here is written
    assert kept.done == ["a", "b"]
    after = Kept(tmp_path)
    assert after.total().total.requests == 3
    after.keeper.close()


def test_a_full_disk_is_said_keeps_the_last_batch_of_each_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own limit stands for the disk's: the same call fails in the same place."""
    monkeypatch.setattr("metrics.ledger.keeper.RETRY_S", 0.05)
    full = True

    class Small(Database):
        def __init__(self, state: Path, boot: str) -> None:
            super().__init__(state, boot)
            pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
            self.connection.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")

    monkeypatch.setattr("metrics.ledger.keeper.Database", Small)
    kept = Kept(tmp_path)
    kept.write("a", *range(1, 400))
    kept.until(lambda: "full" in kept.keeper.problem)
    kept.write("a", *range(1, 450))  # told again, with more
    kept.write("b", *range(1000, 1010))
    assert kept.keeper.waiting == 459
    assert kept.done == []
    assert "full" in kept.total().problem
    full = False
    kept.until(lambda: sorted(kept.done) == ["a", "b"])
    assert kept.total().total.requests == 459
    assert kept.keeper.problem == ""
    kept.keeper.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte and a half."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_disk_that_is_really_full(small_disk: Path, opened_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.ledger.keeper.RETRY_S", 0.05)
    ballast = small_disk / "ballast"

    def fill() -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    if not opened_before:
        fill()
    kept = Kept(small_disk)
    if opened_before:
        kept.write("a", 1)
        kept.until(lambda: kept.done == ["a"])
        fill()
    for source in range(20):  # what is left of a page here and there is used up as well
        kept.write(str(source), *range(1000 * source + 2, 1000 * source + 502))
    kept.until(lambda: kept.keeper.problem)
    assert kept.keeper.waiting > 0
    ballast.unlink()
    kept.until(lambda: kept.keeper.waiting == 0)
    kept.until(lambda: not kept.keeper.problem)
    assert kept.total().total.requests == 20 * 500 + opened_before
    kept.keeper.close()


def test_a_short_absence_counts_as_watched_and_a_long_one_does_not(tmp_path: Path) -> None:
    database = Database(tmp_path, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    database.watched(0, time.time_ns() - 30 * 10**9)
    database.close()
    kept = Kept(tmp_path)
    kept.keeper.close()
    kept = Kept(tmp_path)
    assert 29 < kept.total().host.up_s < 60
    kept.keeper.close()
    database = Database(tmp_path, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    database.watched(0, time.time_ns() - 3000 * 10**9)
    database.close()
    kept = Kept(tmp_path)
    kept.keeper.close()
    kept = Kept(tmp_path)
    assert kept.total().host.up_s < 100
    kept.keeper.close()
