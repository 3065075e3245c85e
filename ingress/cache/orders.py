"""What operators ask of the cache, and order: status, report, flush, calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable

from bus.ceilings import cores
from bus.config import Config, CostConfig, parse_size
from bus.messages.caching import (
    CachePair,
    CacheReport,
    CacheSpace,
    CacheStatus,
    CacheStep,
    CalibrateCache,
    FlushCache,
    GetCache,
    GetCacheReport,
)
from bus.messages.control import Ok, Rejected
from ingress.cache.semantic import calibration as calibrating
from ingress.cache.semantic.calibration import Calibration
from ingress.cache.semantic.lookup import Semantic
from ingress.cache.spaces import Space, Spaces
from ingress.cache.store import MAX_OBSERVATIONS, Store

Question = GetCache | GetCacheReport | FlushCache | CalibrateCache


class Desk:
    """Answers for one cache.

    Args:
        semantic: what matches by meaning here, at present; None where nothing does.
    """

    def __init__(self, config: Config, store: Store, semantic: Callable[[], Semantic | None]) -> None:
        self._config, self._store, self._find = config, store, semantic
        self._spaces: dict[str, Space] = {space.name: space for space in Spaces(config.cache).all}

    @property
    def _semantic(self) -> Semantic | None:
        return self._find()

    def answer(self, message: Question) -> CacheStatus | CacheReport | Ok | Rejected:
        """One answer; never an exception."""
        if isinstance(message, GetCache):
            return self._status(message)
        if message.space not in self._spaces and not (isinstance(message, FlushCache) and not message.space):
            known = ", ".join(self._spaces)
            return Rejected(message.rid, f"there is no namespace {message.space!r}; there are: {known}")
        match message:
            case GetCacheReport():
                return self._report(message)
            case FlushCache():
                return self._flush(message)
            case CalibrateCache():
                return self._calibrate(message)

    def _status(self, message: GetCache) -> CacheStatus:
        counts, entries = self._store.counts(), self._store.entries()
        core_s = core_second(self._config.cost)
        spaces = []
        for space in self._spaces.values():
            seen = counts.get(space.name, {})
            known = self._calibration(space)
            spaces.append(
                CacheSpace(
                    space.name, *entries.get(space.name, (0, 0)), space.semantic, self._state(space, known),
                    tuple(sorted(seen.items())), known.threshold if known else 0.0, known.bound if known else 1.0,
                    seen.get("saved_compute_us", 0) / 1e6 * core_s,
                )
            )  # fmt: skip
        currency = self._config.cost.currency if core_s else ""
        return CacheStatus(
            message.rid, self._store.held, parse_size(self._config.cache.memory), tuple(spaces), currency,
            self._store.problem,
        )  # fmt: skip

    def _state(self, space: Space, known: Calibration | None) -> str:
        if space.semantic == "off":
            return "off"
        if self._semantic is None:
            return "off: no encoder, or not prepared (headrace cache prepare)"
        if space.semantic == "shadow":
            return "shadow"
        if known is None:
            return "shadow: not calibrated"
        if known.off:
            return f"off: {known.off}"
        if known.encoder != self._semantic.encoder_digest:
            return "shadow: calibrated for another encoder"
        return "on"

    def _report(self, message: GetCacheReport) -> CacheReport:
        space = self._spaces[message.space]
        seen = self._store.observations(space.name, MAX_OBSERVATIONS)
        found = calibrating.steps([(one.score, one.agree) for one in seen])
        shown = found[:: max(1, len(found) // 12)]
        if found and shown[-1] != found[-1]:
            shown.append(found[-1])
        pairs = seen[: max(0, min(message.limit, 200))]
        return CacheReport(
            message.rid, space.name, len(seen), space.budget, calibrating.needed(space.budget) if space.budget else 0,
            tuple(CacheStep(*step) for step in shown),
            tuple(
                CachePair(one.at_ms, one.kind, one.score, one.similarity, one.agree, one.asked, one.known)
                for one in pairs
            ),
        )  # fmt: skip

    def _flush(self, message: FlushCache) -> Ok | Rejected:
        names = [message.space] if message.space else list(self._spaces)
        epochs = [self._store.flush(name) for name in names]
        if None in epochs:
            return Rejected(message.rid, f"nothing is flushed: {self._store.problem or 'the file is busy, try again'}")
        return Ok(message.rid, f"nothing that was kept in {', '.join(names)} is served any more")

    def _calibrate(self, message: CalibrateCache) -> Ok | Rejected:
        space = self._spaces[message.space]
        if self._semantic is None or space.semantic == "off":
            return Rejected(message.rid, f"the namespace {space.name!r} does not match by meaning: see semantic in its "
                            "[[cache.namespace]], and headrace cache status")  # fmt: skip
        calibrations = self._semantic.calibrations
        budget = message.budget or space.budget
        seen = [(one.score, one.agree) for one in self._store.observations(space.name, MAX_OBSERVATIONS)]
        step = calibrating.choose(seen, budget)
        before = calibrations.of(space.name)
        if message.off:
            if before is None:
                return Rejected(
                    message.rid, f"the namespace {space.name!r} is not calibrated: it serves nothing anyway"
                )
            new = Calibration(
                before.threshold, before.bound, before.observations, before.served, before.wrong, int(time.time()),
                before.encoder, message.reason or "by an operator",
            )  # fmt: skip
        elif step is None:
            needed = calibrating.needed(budget)
            return Rejected(
                message.rid,
                f"no threshold is within {budget:.2%} by {len(seen)} matches; {needed} without a wrong one would do",
            )
        else:
            new = Calibration(
                step.threshold, step.bound, len(seen), step.served, step.wrong, int(time.time()),
                self._semantic.encoder_digest,
            )  # fmt: skip
        try:
            calibrations.set(space.name, new)
        except OSError as error:
            return Rejected(message.rid, f"it cannot be written down: {error}")
        said = f"{new.served} of {new.observations} matches pass, {new.wrong} of them wrong, bound {new.bound:.2%}"
        return Ok(message.rid, new.off or said, _said(before), _said(new))

    def _calibration(self, space: Space) -> Calibration | None:
        return self._semantic.calibrations.of(space.name) if self._semantic is not None else None


def core_second(cost: CostConfig) -> float:
    """What one costs on this host when it is busy; 0 where nothing has a price."""
    return (cost.price_per_hour + cost.watts_busy / 1000 * cost.price_per_kwh) / 3600 / max(1, cores())


def _said(known: Calibration | None) -> str:
    if known is None:
        return "not calibrated"
    return "off" if known.off else f"threshold {known.threshold:.3f}"
