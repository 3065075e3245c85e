"""The whole file, and all that types cannot say of it."""

from __future__ import annotations

from collections.abc import Iterator

from bus.config import batch, cache, guards, ingress, kv, models, money, operating, routes, upstreams
from bus.config.batch import BatchConfig
from bus.config.cache import CacheConfig
from bus.config.guards import GuardConfig
from bus.config.ingress import CurveConfig, IngressConfig
from bus.config.kv import KvConfig
from bus.config.models import DEMO_MODEL, ModelConfig
from bus.config.money import AccountsConfig, CostConfig, PriceConfig, UsageConfig
from bus.config.operating import (
    AdminConfig,
    AlarmsConfig,
    BlackboxConfig,
    LogConfig,
    MetricsConfig,
    SystemdConfig,
    TracesConfig,
)
from bus.config.routes import RouteConfig
from bus.config.section import ConfigError, Problem, Section
from bus.config.upstreams import UpstreamConfig


class Config(Section, frozen=True):
    """The whole file."""

    ingress: IngressConfig = IngressConfig()
    kv: KvConfig = KvConfig()
    metrics: MetricsConfig = MetricsConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    usage: UsageConfig = UsageConfig()
    cache: CacheConfig = CacheConfig()
    cost: CostConfig = CostConfig()
    price: tuple[PriceConfig, ...] = ()
    accounts: AccountsConfig = AccountsConfig()
    batch: BatchConfig = BatchConfig()
    traces: TracesConfig = TracesConfig()
    log: LogConfig = LogConfig()
    admin: AdminConfig = AdminConfig()
    blackbox: BlackboxConfig = BlackboxConfig()
    curve: CurveConfig | None = None
    systemd: SystemdConfig = SystemdConfig()
    model: tuple[ModelConfig, ...] = (DEMO_MODEL,)
    guard: tuple[GuardConfig, ...] = ()
    upstream: tuple[UpstreamConfig, ...] = ()
    route: tuple[RouteConfig, ...] = ()

    @property
    def prices(self) -> tuple[PriceConfig, ...]:
        """Every row, those of upstreams behind those of `[[price]]`, which hold where both match."""
        return self.price + tuple(
            PriceConfig(
                model=model.name,
                input=model.input,
                cached_input=model.cached_input,
                output=model.output,
                reasoning=model.reasoning,
            )
            for upstream in self.upstream
            for model in upstream.model
            if model.input or model.output or model.reasoning
        )

    def model_named(self, name: str) -> ModelConfig:
        """The section of a model.

        Raises:
            ConfigError: there is none of that name.
        """
        for model in self.model:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.model)
        raise ConfigError(f"no model named {name!r} is configured (configured: {known})")


def problems(config: Config) -> Iterator[Problem]:
    """Of every section."""
    yield from ingress.problems(config.ingress, config.curve)
    yield from kv.problems(config.kv)
    yield from cache.problems(config.cache)
    yield from batch.problems(config.batch)
    yield from money.problems(config.cost, config.price)
    yield from operating.problems(config.traces, config.blackbox)
    yield from models.problems(config.model)
    here = frozenset(name for model in config.model for name in (model.name, *(each.name for each in model.adapter)))
    elsewhere = frozenset(model.name for upstream in config.upstream for model in upstream.model)
    yield from upstreams.problems(config.upstream, here)
    yield from routes.problems(config.route, here | elsewhere)
    yield from guards.problems(config.guard, here, elsewhere | {route.name for route in config.route})
