"""Namespaces: which one a call belongs to, and what holds there. The server decides by model and tenant; a caller
cannot choose. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from bus.config import CacheConfig

DEFAULT: Final = "default"


class Space(NamedTuple):
    """What holds in one namespace.

    Attributes:
        public: tenants share what is kept in it. Else each has a part of its own, also where they ask for the same.
        sampled: answers of a temperature above 0 are kept too.
        semantic: "shadow" compares and serves nothing; "on" serves once it is calibrated.
        budget: share of wrong semantic hits that is tolerated.
        audit: share of semantic hits that are generated all the same, and compared.
    """

    name: str
    exact: bool
    sampled: bool
    ttl_s: float
    public: bool = False
    semantic: Literal["off", "shadow", "on"] = "off"
    budget: float = 0.0
    audit: float = 0.0


class Spaces:
    """All namespaces of a configuration.

    Attributes:
        all: by name, the default one included.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._default = Space(DEFAULT, config.exact, config.sampled, config.ttl_s)
        self._rules = [
            (
                frozenset(one.models),
                frozenset(one.tenants),
                Space(
                    one.name, config.exact, one.sampled, one.ttl_s or config.ttl_s, one.public, one.semantic,
                    one.budget, one.audit,
                ),
            )
            for one in config.namespace
        ]  # fmt: skip
        self.all: Sequence[Space] = (*(space for _, _, space in self._rules), self._default)

    def of(self, model: str, tenant: str) -> Space:
        """The first whose rule fits."""
        for models, tenants, space in self._rules:
            if (not models or model in models) and (not tenants or tenant in tenants):
                return space
        return self._default
