"""Pauses are told of the one who made them, and slices add up."""

from __future__ import annotations

from typing import Any

from chaos.killer import Struck
from chaos.outcome import Outcome, Request
from chaos.report import NOBODY, OVERLAPPING, Slice, pauses, table, total
from chaos.schedule import Blow


def blow(at: float, *victims: str) -> Struck:
    return Struck(at, Blow("whenever", 0, 0.0, victims), dict.fromkeys(victims, 1))


def stream(*times: float) -> Outcome:
    return Outcome(Request(1, "x", "http", stream=True), times[0], times[-1], times=list(times))


def test_a_pause_is_the_longest_gap_around_a_blow() -> None:
    assert pauses([blow(10.0, "kv@host")], [stream(9.0, 9.5, 12.5, 20.0)]) == {"kv": [3.0]}
    assert pauses([blow(10.0, "kv@host")], [stream(9.0, 10.5, 13.5)]) == {"kv": [3.0]}  # what was on its way came first


def test_a_stream_that_nobody_disturbed_tells_the_usual_gap() -> None:
    assert pauses([blow(10.0, "kv@host")], [stream(11.0, 11.5, 11.7)]) == {NOBODY: [0.5]}


def test_two_at_once_are_told_together() -> None:
    assert pauses([blow(10.0, "worker@m.0.0", "kv@host")], [stream(9.9, 12.0)]) == {"kv+worker": [2.1]}


def test_a_pause_with_several_blows_is_nobodys() -> None:
    struck = [blow(10.0, "kv@host"), blow(11.0, "worker@m.0.0")]
    assert pauses(struck, [stream(9.9, 13.0)]) == {OVERLAPPING: [3.1, 3.1]}


def part() -> Slice:
    return Slice(
        state="x", spared=[], layout="one", seed=1, seconds=10.0, rounds=1, killed={"kv": 2}, stalled={}, hung={},
        pairs=0, missed=0,
        requests={"http stream stay": 3}, tokens=100, left=0, resent=0, resumed=0, undecided=0,
        pauses={"kv": [0.1, 0.2]}, violations=[], snapshots=[],
    )  # fmt: skip


def test_slices_add_up() -> None:
    whole: Any = total([part(), part()])
    assert whole["kills"] == 4
    assert whole["tokens_compared"] == 200
    assert whole["pauses_s"] == {"kv": {"n": 4, "p50": 0.2, "p99": 0.2, "max": 0.2}}
    assert "4 kills" in table([part(), part()])
