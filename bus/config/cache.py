"""`[cache]`: answers that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from bus.config.section import ConfigError, NotNegative, Problem, Seconds, Section, Where, parse_size, unless
from bus.names import MODEL_NAME

MIN_MEMORY, MAX_MEMORY = 1 << 20, 64 << 30


class CacheNamespaceConfig(Section, frozen=True):
    """`[[cache.namespace]]`: what holds for some models and tenants; the first that fits a call is its namespace.

    Attributes:
        name: of the namespace; "default" is that of all other calls.
        models, tenants: whose calls belong to it; empty is all.
        public: tenants share answers; else each has its own.
        sampled: keep answers of a temperature above 0 too.
        ttl_s: how long an answer is served; 0 takes `[cache]`'s.
        semantic: match questions by meaning. "shadow" compares and serves nothing, "on" serves once it is calibrated.
        budget: share of wrong semantic hits that is tolerated.
        audit: share of semantic hits that are generated all the same, and compared.
    """

    name: str
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    public: bool = False
    sampled: bool = False
    ttl_s: NotNegative = 0.0
    semantic: Literal["off", "shadow", "on"] = "off"
    budget: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    audit: Annotated[float, Meta(gt=0, le=1)] = 0.02


class CacheConfig(Section, frozen=True):
    """`[cache]`: answers that are kept, and served again without a model.

    Attributes:
        exact: keep answers at all. Without it nothing is cached, and no generation shared.
        memory: of all answers of this host, in the run directory.
        ttl_s: how long an answer is served.
        sampled: keep answers of a temperature above 0 too.
        encoder: name of the served model that embeds questions, for namespaces that match by meaning.
        encoder_wait_s: a question waits so long for its vector; without it in time it is matched exactly only.
        namespace: see `[[cache.namespace]]`.
    """

    exact: bool = True
    memory: str = "64MiB"
    ttl_s: Seconds = 3600.0
    sampled: bool = False
    encoder: str = ""
    encoder_wait_s: Seconds = 0.1
    namespace: tuple[CacheNamespaceConfig, ...] = ()


def problems(cache: CacheConfig) -> Iterator[Problem]:
    """What types cannot say."""
    yield from unless(_parse_memory, cache.memory, ("cache", "memory"))
    names: set[str] = set()
    for index, space in enumerate(cache.namespace):
        where: Where = ("cache", "namespace", index)
        if MODEL_NAME.fullmatch(space.name) is None or space.name == "default":
            yield (*where, "name"), "letters, digits, dot, dash and underscore, at most 48, and not default"
        if space.name in names:
            yield (*where, "name"), f"{space.name!r} is there twice"
        names.add(space.name)
        if space.semantic != "off" and not cache.encoder:
            yield (*where, "semantic"), "matching by meaning needs an encoder: name one in [cache] encoder"


def _parse_memory(text: str) -> None:
    if not MIN_MEMORY <= parse_size(text) <= MAX_MEMORY:
        raise ConfigError(
            f"{text!r} is not from {MIN_MEMORY >> 20}MiB to {MAX_MEMORY >> 30}GiB; exact = false keeps none"
        )
