"""The whole file, and all that types cannot say of it."""

from __future__ import annotations

from collections.abc import Iterator

from bus.config import cache, guards, ingress, kv, models, money, operating
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
from bus.config.section import ConfigError, Problem, Section


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
    traces: TracesConfig = TracesConfig()
    log: LogConfig = LogConfig()
    admin: AdminConfig = AdminConfig()
    blackbox: BlackboxConfig = BlackboxConfig()
    curve: CurveConfig | None = None
    systemd: SystemdConfig = SystemdConfig()
    model: tuple[ModelConfig, ...] = (DEMO_MODEL,)
    guard: tuple[GuardConfig, ...] = ()

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
    yield from money.problems(config.cost, config.price)
    yield from operating.problems(config.traces, config.blackbox)
    yield from models.problems(config.model)
    yield from guards.problems(config.guard, frozenset(model.name for model in config.model))
