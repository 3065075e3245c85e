"""What a run came to: slices added up, as a table for people and as JSON. Pure, but for reading the slices' files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from chaos.audit import Snapshot
from chaos.checker import Violation
from chaos.killer import Struck
from chaos.outcome import Outcome

ISOLATED_S: Final = 3.0  # since another blow, for a pause to be told of one victim
_BEGINS_S: Final = 1.0  # after a blow: what the victim had sent is still on its way
SHOWN: Final = 40  # violations in the table; all are in the JSON
OVERLAPPING: Final = "several within seconds"
NOBODY: Final = "nobody"


class Slice(msgspec.Struct, kw_only=True):
    """One stack from start to end.

    Attributes:
        state: of catalogue, model and code, see `undisturbed.state`.
        killed, stalled, hung: processes by role.
        pairs: blows that killed two at once.
        missed: victims that were not there within seconds.
        requests: by door, kind and manners.
        tokens: compared with the undisturbed answers.
        left: requests that their clients gave up on purpose.
        resent, resumed: see `Outcome`.
        undecided: answers that differ, and that differ undisturbed as well: float32 does not decide them.
        pauses: longest gap between two events of a stream around a blow, in seconds, by who was struck.
    """

    state: str
    spared: list[str]
    layout: str
    seed: int
    seconds: float
    rounds: int
    killed: dict[str, int]
    stalled: dict[str, int]
    hung: dict[str, int]
    pairs: int
    missed: int
    requests: dict[str, int]
    tokens: int
    left: int
    resent: int
    resumed: int
    undecided: int
    pauses: dict[str, list[float]]
    violations: list[Violation]
    snapshots: list[Snapshot]


def count(struck: Iterable[Struck], how: str) -> dict[str, int]:
    """Victims of one kind of blow by role."""
    return dict(Counter(_role(name) for blow in struck if blow.blow.how == how for name in blow.pids))


def requests_made(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many of each kind."""
    kinds = (f"{o.request.door} {'stream' if o.request.stream else 'whole'} {o.request.manners}" for o in outcomes)
    return dict(sorted(Counter(kinds).items()))


def pauses(struck: Sequence[Struck], outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """The longest gap of each stream around each blow. A gap that several blows may have made is told apart."""
    found: dict[str, list[float]] = {}
    moments = [blow.at for blow in struck]
    for outcome in outcomes:
        times = outcome.times
        if len(times) < 2:
            continue
        around = [blow for blow in struck if times[0] < blow.at < times[-1]]
        if not around:
            found.setdefault(NOBODY, []).append(round(max(b - a for a, b in _gaps(times)), 3))
        for blow in around:
            begin, end = max(
                ((a, b) for a, b in _gaps(times) if b > blow.at and a < blow.at + _BEGINS_S), key=lambda g: g[1] - g[0]
            )
            since = blow.at - ISOLATED_S  # a gap that had begun before is another blow's
            alone = begin > since and not any(other != blow.at and since < other < end for other in moments)
            found.setdefault(_who(blow) if alone else OVERLAPPING, []).append(round(end - begin, 3))
    return found


def load(path: Path, state: str) -> Slice | None:
    """The result of a slice, if it is there and of this state."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Slice)
    except (OSError, msgspec.ValidationError):
        return None
    return found if found.state == state else None


def total(slices: Sequence[Slice]) -> dict[str, object]:
    """The sums, for programs."""
    killed, pause = _sum(s.killed for s in slices), _pauses(slices)
    return {
        "kills": sum(killed.values()),
        "killed": killed,
        "stalled": _sum(s.stalled for s in slices),
        "hung": _sum(s.hung for s in slices),
        "pairs": sum(s.pairs for s in slices),
        "layouts": _sum({s.layout: sum(s.killed.values())} for s in slices),
        "requests": sum(sum(s.requests.values()) for s in slices),
        "requests_by_kind": _sum(s.requests for s in slices),
        "tokens_compared": sum(s.tokens for s in slices),
        "left_on_purpose": sum(s.left for s in slices),
        "resent": sum(s.resent for s in slices),
        "resumed": sum(s.resumed for s in slices),
        "undecided": sum(s.undecided for s in slices),
        "audits": sum(len(s.snapshots) for s in slices),
        "seconds": round(sum(s.seconds for s in slices), 1),
        "pauses_s": {who: _row(gaps)._asdict() for who, gaps in pause.items()},
        "violations": [
            {"layout": s.layout, "seed": s.seed, **msgspec.to_builtins(violation)}
            for s in slices
            for violation in s.violations
        ],
    }


def table(slices: Sequence[Slice]) -> str:
    """The sums, for people."""
    return "\n".join(_lines(slices))


def _lines(slices: Sequence[Slice]) -> Iterator[str]:
    killed, stalled, hung = (_sum(getattr(s, what) for s in slices) for what in ("killed", "stalled", "hung"))
    wrong = [(s, violation) for s in slices for violation in s.violations]
    layouts = _sum({s.layout: sum(s.killed.values())} for s in slices)
    yield f"{sum(killed.values())} kills ({sum(s.pairs for s in slices)} blows killed two at once) in " + ", ".join(
        f"{name} {number}" for name, number in layouts.items()
    )
    yield (
        f"{sum(sum(s.requests.values()) for s in slices)} requests, {sum(s.tokens for s in slices)} tokens compared, "
        f"{sum(s.left for s in slices)} left by their clients, {sum(s.resumed for s in slices)} resumptions, "
        f"{sum(s.resent for s in slices)} sent again, {sum(s.undecided for s in slices)} undecided by float32"
    )
    audits, seconds = sum(len(s.snapshots) for s in slices), sum(s.seconds for s in slices)
    yield f"{audits} audits, {seconds:.0f} s, {len(wrong)} violations"
    yield ""
    yield f"{'struck':<28}{'killed':>8}{'stalled':>9}{'hung':>6}{'streams':>9}{'p50 s':>8}{'p99 s':>8}{'max s':>8}"
    gaps = _pauses(slices)
    for who in [NOBODY, *sorted({*killed, *stalled, *hung, *gaps} - {NOBODY, OVERLAPPING}), OVERLAPPING]:
        numbers = "".join(
            f"{kind.get(who, 0) or '':>{width}}" for kind, width in ((killed, 8), (stalled, 9), (hung, 6))
        )
        row = _row(gaps.get(who, []))
        yield f"{who:<28}{numbers}{row.n or '':>9}" + "".join(f"{value:>8.2f}" if row.n else "" for value in row[1:])
    for s, violation in wrong[:SHOWN]:
        yield ""
        yield f"{violation.kind.upper()} layout {s.layout} seed {s.seed}: {violation.entry} {violation.request}"
        yield f"    {violation.what}"
        yield f"    response {violation.response or 'none'} at {violation.at}"


def _pauses(slices: Iterable[Slice]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for s in slices:
        for who, gaps in s.pauses.items():
            found.setdefault(who, []).extend(gaps)
    return found


class _Row(NamedTuple):
    n: int
    p50: float
    p99: float
    max: float


def _row(gaps: Sequence[float]) -> _Row:
    ordered = sorted(gaps) or [0.0]
    p50, p99, longest = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0))
    return _Row(len(gaps), p50, p99, longest)


def _gaps(times: Sequence[float]) -> Iterator[tuple[float, float]]:
    return pairwise(times)


def _role(name: str) -> str:
    return name.partition("@")[0]


def _who(blow: Struck) -> str:
    roles = "+".join(sorted(map(_role, blow.pids))) or "missed"
    return roles if blow.blow.how == "kill" else f"{roles} ({blow.blow.how})"


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))
