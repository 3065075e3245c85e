"""Makes an ingress's cache of its configuration, with whatever parts of it can be had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from bus.config import parse_size
from bus.names import state_directory
from bus.process import Life
from ingress.cache.costs import Overheard
from ingress.cache.front import AnswerCache
from ingress.cache.orders import Desk
from ingress.cache.semantic.calibration import Calibrations
from ingress.cache.semantic.index import Vector
from ingress.cache.semantic.lookup import Embedder, Semantic, Vectors
from ingress.cache.semantic.static import NotPrepared, StaticVectors
from ingress.cache.store import Store
from ingress.engine import Engine

log = logging.getLogger(__name__)

STATIC: Final = "cache-static"  # in the state directory
TICK_S: Final = 1.0
LOOK_S: Final = 2.0  # for static vectors that are not there yet


class _Served:
    """Encoders that are models of this host."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def embed(self, model: str, text: str, deadline_s: float) -> Vector:
        """See `Embedder`."""
        return await self._engine.embed(self._engine.model(model), text, deadline_s)

    async def embed_all(self, model: str, texts: Sequence[str], deadline_s: float) -> Vectors:
        """See `Embedder`."""
        return await self._engine.embed_all(self._engine.model(model), texts, deadline_s)


def open_cache(life: Life, engine: Engine, costs: Overheard, embedder: Embedder | None = None) -> AnswerCache | None:
    """The cache; None where the configuration wants none.

    Args:
        embedder: runs the encoder; None for the models that are served here.
    """
    config = life.config.cache
    if not config.exact:
        return None
    store = Store(life.run / "cache", parse_size(config.memory))
    cache = AnswerCache(config, engine, store, costs, life.telemetry)
    cache.desk = Desk(life.config, store, lambda: cache.semantic)
    life.loop.every(TICK_S, cache.tick)
    if all(space.semantic == "off" for space in config.namespace):
        return cache
    embedder = embedder or (_Served(engine) if config.encoder in engine.models else None)
    if embedder is None:
        log.warning("[cache] encoder: %r is not served; questions are matched exactly only", config.encoder)
        return cache
    static = _Prepared()

    def look() -> None:
        if cache.semantic is None and (vectors := static.look()) is not None:
            cache.semantic = Semantic(
                store, Calibrations(state_directory()), vectors, embedder, config.encoder, life.telemetry,
                wait_s=config.encoder_wait_s,
            )  # fmt: skip

    look()
    life.loop.every(LOOK_S, look)
    return cache


class _Prepared:
    """The static vectors, which may be made while this process runs."""

    def __init__(self) -> None:
        self._complaint = ""

    def look(self) -> StaticVectors | None:
        """They, once they are there."""
        try:
            return StaticVectors(state_directory() / STATIC)
        except NotPrepared as error:
            if self._complaint != f"{error}":
                self._complaint = f"{error}"
                log.warning("questions are matched exactly only: %s", error)
            return None
