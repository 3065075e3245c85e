"""What the gate costs a request: look a key up, reserve, settle. No sockets: this is what stands in the ingress's path.

    python -m benchmarks.gate --keys 10000

Each key has limits of requests, tokens and answers at once, its project a limit of tokens, its organisation a budget.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import time

from bus.config import PriceConfig
from bus.messages.accounts import Allowance, Directory, Grant, Key, Project
from bus.prices import PriceBook
from ingress.gate import keys
from ingress.gate.estimate import Estimates
from ingress.gate.headers import rate_limit_headers
from ingress.gate.leases import Actual, Leases
from ingress.gate.roster import Roster

PLENTY = 1 << 50
REQUESTS = 20_000
PARTS = ("identify", "reserve", "render headers", "settle")


def prepared(count: int) -> tuple[Leases, Roster, list[str]]:
    """A directory of so many keys, with leases of everything, and what clients send."""
    leases = Leases(0.05)
    roster = Roster(leases)
    numbers = itertools.count(1)
    shown, allowances, records = [], [], []
    for index in range(count):
        id, secret = f"k{index:011x}", f"{index:048x}"
        shown.append(f"Bearer sk-{id}-{secret}")
        records.append(Key(id, "bench", f"org{index % 10}/p{index % 100}", hashlib.sha256(secret.encode()).digest()))
        for dimension, window_s in (("requests", 60), ("total_tokens", 60), ("concurrency", 0)):
            allowances.append(Allowance(next(numbers), "key", id, dimension, PLENTY, window_s))  # type: ignore[arg-type]
    projects = [Project(name) for name in sorted({key.project for key in records})]
    for project in projects:
        allowances.append(Allowance(next(numbers), "project", project.name, "output_tokens", PLENTY, 60))
    for organisation in sorted({project.name.partition("/")[0] for project in projects}):
        allowances.append(Allowance(next(numbers), "organisation", organisation, "money", PLENTY, 0, "month"))
    roster.hear(Directory("bench", 1, True, False, tuple(projects), tuple(records), tuple(allowances)))
    for each in allowances:
        leases.bucket(each)
    leases.granted((Grant(each.number, PLENTY // 2, 0) for each in allowances), 0)
    return leases, roster, shown


def measure(count: int) -> list[float]:
    """Microseconds a request: identify; reserve; render headers; settle."""
    leases, roster, shown = prepared(count)
    estimates, prices = Estimates(), PriceBook([PriceConfig(model="*", input=0.1, output=0.4)])
    spent = [0, 0, 0, 0]
    clock = time.perf_counter_ns
    for each in shown:  # what is put together at a key's first request is not what is measured
        found = keys.parse(each)
        if found is not None and (known_key := roster.key(found.id)) is not None:
            grantee = roster.grantee(known_key)
            assert grantee is not None
            grantee.buckets("m")
    gc.freeze()  # as every process does when it is ready
    for request in range(1, REQUESTS + 1):
        authorization = shown[request * 7919 % count]
        begun = clock()
        key = keys.parse(authorization)
        assert key is not None
        record = roster.key(key.id)
        now_s = time.time()
        good = keys.matches(key, record, now_s)
        assert good
        assert record is not None
        grantee = roster.grantee(record)
        assert grantee is not None
        good = grantee.may_use("m") and grantee.may_come_from("127.0.0.1")
        known = clock()
        assert good
        buckets, price = grantee.buckets("m"), prices.at("m", int(now_s))
        output = estimates.output(record.id, "m", 256)
        amounts = {
            "requests": 1, "total_tokens": 100 + output, "output_tokens": output, "concurrency": 1,
            "money": price.cost(100, 0, output),
        }  # fmt: skip
        wants = tuple((bucket, amounts[bucket.allowance.dimension]) for bucket in buckets)
        assert not leases.short(wants)
        leases.take([(request, wants)], begun)
        reserved = clock()
        rate_limit_headers(buckets, begun)
        rendered = clock()
        leases.settle(request, Actual(100, 50, price.cost(100, 0, 50)))
        estimates.ended(record.id, "m", 50)
        leases.written(request)
        for part, took in enumerate((known - begun, reserved - known, rendered - reserved, clock() - rendered)):
            spent[part] += took
        if request % 500 == 0:
            leases.touched.clear()  # what a tick does
    return [each / REQUESTS / 1e3 for each in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[10, 10_000])
    for count in parser.parse_args().keys:
        best = min((measure(count) for _ in range(3)), key=sum)
        parts = ", ".join(f"{took:.1f} to {what}" for took, what in zip(best, PARTS, strict=True))
        print(f"{count:>6} keys: {sum(best):.1f} µs a request: {parts}")


if __name__ == "__main__":
    main()
