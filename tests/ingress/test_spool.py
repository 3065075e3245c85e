"""Records of usage on their way to the ledger: kept until they are there, by whoever lives."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.messages.usage import Outcome, TakeUsage, UsageRecord, UsageTaken
from bus.telemetry import Telemetry
from ingress.accounts import PATIENCE_NS, Accounts, Used, Whose
from ingress.lane import AGAIN_NS, AT_ONCE
from ingress.spool import Computed, Spool, frame, read

SECOND = 1_000_000_000


def record(request: int, compute_ns: int = 0) -> UsageRecord:
    return UsageRecord(request, 1, "m", "", "", "stop", 5, 2, 7, compute_ns)


# --- the file ------------------------------------------------------------------------------------------------------


@given(
    requests=st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=20),
    told=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 10**12)), max_size=20),
    cut=st.integers(0, 200),
)
def test_whatever_is_whole_is_read_back_and_nothing_else(
    requests: list[int], told: list[tuple[int, int]], cut: int
) -> None:
    written = b"".join(frame(record(request)) for request in requests)
    computed: dict[int, int] = {}
    for index, ns in told:
        if index < len(requests):
            written += frame(Computed(requests[index], ns, 0))
            computed[requests[index]] = ns
    assert read(written) == [record(request, computed.get(request, 0)) for request in requests]
    short = read(written[: max(0, len(written) - cut)])
    assert [each.request for each in short] == requests[: len(short)]


def test_a_damaged_record_ends_what_is_read() -> None:
    good, bad = frame(record(1)), bytearray(frame(record(2)))
    bad[-1] ^= 1
    assert read(good + bytes(bad) + good) == [record(1)]


def test_what_a_process_leaves_when_it_is_killed_is_taken_over_once(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom ingress.spool import Spool\n"
        "from bus.messages.usage import UsageRecord\n"
        "spool = Spool(Path(sys.argv[1]), 'ingress@0', 1)\n"
        "for n in range(1, 6):\n    spool.add(UsageRecord(n, 1, 'm', '', '', 'stop', 5, 2, 7))\n"
        "spool.computed(2, 99, 9)\nspool.delivered((spool.records[5],))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    first, second = Spool(tmp_path, "ingress@0", 2), Spool(tmp_path, "ingress@1", 1)
    # The fifth was delivered: it is told again, and the ledger knows it by its id.
    assert len(first.adopt()) == 5
    assert len(second.adopt()) == 0
    assert first.records[2].compute_ns == 99
    assert [path.name for path in (tmp_path / "usage").iterdir() if path.stat().st_size] == ["ingress@0.2"]


def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    mine, other = Spool(tmp_path, "ingress@0", 1), Spool(tmp_path, "ingress@1", 1)
    mine.add(record(1))
    assert len(other.adopt()) == 0
    mine.close()
    assert len(other.adopt()) == 1, "a process that ends leaves what was not delivered"


def test_a_file_that_is_begun_anew_is_not_taken_for_a_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingress.spool.TIDY_BYTES", 1000)
    mine, other = Spool(tmp_path, "ingress@0", 1), Spool(tmp_path, "ingress@1", 1)
    for n in range(200):
        mine.add(record(n))
        if n > 10:
            mine.delivered((record(n - 10),))
        assert len(other.adopt()) == 0
    path = tmp_path / "usage" / "ingress@0.1"
    assert path.stat().st_size < 6000
    assert {each.request for each in read(path.read_bytes())} >= set(mine.records)


def test_too_many_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingress.spool.MAX_RECORDS", 3)
    spool = Spool(tmp_path, "ingress@0", 1)
    for n in range(5):
        spool.add(record(n))
    assert list(spool.records) == [0, 1, 2]
    assert spool.dropped == 2


def test_without_room_records_are_kept_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "usage").write_text("a file where the directory should be")
    spool = Spool(tmp_path, "ingress@0", 1)
    spool.add(record(1))
    spool.computed(1, 5, 2)
    assert spool.records[1].compute_ns == 5
    spool.delivered((spool.records[1],))
    assert not spool.records
    assert "memory only" in caplog.text
    spool.close()


def test_what_nobody_finished_is_swept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "ingress@0", 1)
    left = tmp_path / "usage" / ".ingress@7.1"
    left.write_bytes(b"")
    spool.adopt()
    assert left.exists()
    os.utime(left, (time.time() - 100, time.time() - 100))
    spool.adopt()
    assert not left.exists()


# --- telling the ledger --------------------------------------------------------------------------------------------


class Told:
    """Accounts, and the metrics process that the test plays."""

    def __init__(self, run: Path) -> None:
        self.sent: list[TakeUsage] = []
        self.there = True
        self.spool = Spool(run, "ingress@0", 1)
        self.telemetry = Telemetry()
        self.accounts = Accounts(self.spool, self._send, self.telemetry)
        self.now_ns = time.monotonic_ns()

    def _send(self, usage: TakeUsage) -> bool:
        if self.there:
            self.sent.append(usage)
        return self.there

    def end(
        self, request: int, computed: tuple[int, int] | None = (8, 3), *, counts_prompt: bool = True, thought: int = 0,
        outcome: Outcome = "stop",
    ) -> None:  # fmt: skip
        whose = Whose("m", "", "", counts_prompt)
        self.accounts.ended(Used(request, whose, outcome, 5, 2, 7, self.now_ns, computed, thought))

    def later(self, ns: int = SECOND) -> list[int]:
        """What is sent meanwhile, by request."""
        self.sent.clear()
        self.now_ns += ns
        self.accounts.tick(self.now_ns)
        return [each.request for usage in self.sent for each in usage.records]

    def take(self) -> None:
        self.accounts.taken(UsageTaken(self.sent[-1].rid))


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_batch_is_told_until_it_is_taken_and_then_the_next(told: Told) -> None:
    told.end(1)
    told.end(2)
    assert told.later() == [1, 2]
    assert told.sent[0].records[0].compute_ns == 8
    told.end(3)
    assert told.later() == [], "one batch at a time"
    assert told.later(AGAIN_NS) == [1, 2, 3], "nobody answers"
    told.take()
    assert told.later() == []
    assert not told.spool.records


def test_what_was_thought_is_told_and_counted_where_it_was_computed(told: Told) -> None:
    told.end(1, thought=3)
    told.end(2, thought=4)
    told.end(3, thought=5, outcome="cached")
    told.later()
    assert [each.reasoning_tokens for each in told.sent[0].records] == [3, 4, 5]
    assert told.telemetry.counter("headrace_reasoning_tokens_total", "", model="m").value == 7


def test_a_process_that_ends_waits_for_the_ledger_but_not_for_one_that_is_away_or_stuck(told: Told) -> None:
    told.end(1)
    assert not told.accounts.delivering(told.now_ns), "nobody is there"
    told.accounts.link_up()
    assert told.accounts.delivering(told.now_ns)
    told.later()
    assert told.accounts.delivering(told.now_ns)
    assert not told.accounts.delivering(told.now_ns + PATIENCE_NS), "it cannot write"
    told.take()
    assert not told.accounts.delivering(told.now_ns)
    told.end(2)
    told.there = False
    told.later()
    assert not told.accounts.delivering(told.now_ns)


def test_an_answer_to_another_batch_says_nothing(told: Told) -> None:
    told.end(1)
    told.later()
    told.accounts.taken(UsageTaken(told.sent[0].rid + 1))
    assert told.later(AGAIN_NS) == [1]


def test_a_metrics_process_that_is_back_is_told_everything_again(told: Told) -> None:
    told.there = False
    told.end(1)
    assert told.later() == []
    told.there = True
    assert told.later() == [1]
    told.accounts.link_up()
    assert told.later() == [1]


def test_batches_are_of_a_bounded_size(told: Told) -> None:
    for n in range(AT_ONCE + 10):
        told.end(n)
    assert len(told.later()) == AT_ONCE
    told.take()
    assert len(told.later()) == 10


def test_a_record_waits_for_its_computing_but_not_for_long(told: Told) -> None:
    told.end(1, None)
    told.end(2, None)
    assert told.later(SECOND // 2) == []
    told.accounts.computed(1, 40, 20)
    assert told.later(SECOND // 2) == [1]
    assert told.sent[0].records[0].compute_ns == 40
    told.take()
    assert told.later(PATIENCE_NS) == [2]
    told.accounts.computed(2, 70, 0)  # too late: it may be in the ledger
    assert told.spool.records[2].compute_ns == 0


def test_a_further_choice_does_not_count_its_prompt_again(told: Told) -> None:
    told.end(1, counts_prompt=False)
    told.later()
    (record,) = told.sent[0].records
    assert (record.prompt_tokens, record.cached_tokens, record.generated_tokens) == (0, 0, 7)


def test_a_file_that_is_begun_anew_between_two_looks_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Spool(tmp_path, "ingress@0", 1), Spool(tmp_path, "ingress@1", 1)
    mine.add(record(1))
    lock, turns = fcntl.flock, iter((True, False))

    def flock(file: int, operation: int) -> None:
        if next(turns, False):  # it has opened the old file, and its owner begins a new one
            mine._begin()
        lock(file, operation)

    monkeypatch.setattr("ingress.spool.fcntl.flock", flock)
    other.adopt()
    path = tmp_path / "usage" / "ingress@0.1"
    assert read(path.read_bytes()) == [record(1)]
