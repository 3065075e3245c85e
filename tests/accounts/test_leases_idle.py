"""A lease that nobody uses is given back, whatever was done with it before; and only those of late are looked at."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus.messages.accounts import Allowance, Grant
from ingress.gate.leases import IDLE_NS, Actual, Leases

WHAT = ("take", "settle", "release", "grant", "extend", "idle", "wait", "give up")
acts = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 3), st.integers(0, IDLE_NS)), max_size=40)


@settings(max_examples=300, deadline=None)
@example(
    [("grant", 0, 0), ("take", 0, 0), *[("idle", 1, IDLE_NS)] * 2, ("wait", 0, 0), ("settle", 0, 0), ("idle", 1, 0)]
)
@given(acts)
def test_what_is_not_used_goes_back(did: list[tuple[str, int, int]]) -> None:
    leases = Leases(0.05)
    buckets = [leases.bucket(Allowance(n, "key", f"k{n}", "total_tokens", 1000, 60)) for n in range(4)]
    now_ns, request = IDLE_NS, 0
    for what, which, later_ns in did:
        now_ns += later_ns
        bucket, any_request = buckets[which], next(iter(leases.reservations), 0)
        match what:
            case "take":
                request += 1
                leases.take([(request, ((bucket, 10),))], now_ns)
            case "extend":
                leases.extend(any_request, [(bucket, 5)], now_ns)
            case "settle":
                leases.settle(any_request, Actual(3, 4, 0))
            case "release":
                leases.release(any_request)
            case "grant":
                leases.granted([Grant(which, bucket.granted + 50, 0)], now_ns)
            case "wait":
                leases.wait([(bucket, 7)], now_ns)
            case "give up":
                bucket.waiting = 0
            case "idle":
                leases.idle(now_ns)
                leases.lines(now_ns)
    for request in tuple(leases.reservations):
        leases.settle(request, Actual(1, 1, 0))
    for bucket in buckets:
        bucket.waiting = 0
    leases.lines(now_ns)
    for _ in range(3):  # what was used last is found last
        now_ns += IDLE_NS + 1
        leases.idle(now_ns)
        leases.lines(now_ns)
    assert all(bucket.balance <= 0 for bucket in buckets)


def test_buckets_of_long_ago_are_not_looked_at() -> None:
    leases = Leases(0.05)
    for n in range(1000):
        bucket = leases.bucket(Allowance(n, "key", f"k{n}", "requests", 10, 60))
        leases.granted([Grant(n, 1, 0)], n)
        leases.take([(n, ((bucket, 1),))], n)
        leases.settle(n, Actual(0, 0, 0))
    leases.idle(10 * IDLE_NS)
    leases.lines(10 * IDLE_NS)
    assert not leases._lately
