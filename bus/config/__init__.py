"""The configuration file, as typed structs. Reading, checking, and saying where an error is; nothing else.

One TOML file configures a host. Without one, the defaults serve the demo model on the CPU. Unknown keys are
refused with file, line and key; values are checked here, once, so that no process has to. A module has some sections
and what types cannot say of them; `whole` puts them together, `reading` reads.
"""

from bus.config.batch import BatchConfig
from bus.config.cache import CacheConfig, CacheNamespaceConfig
from bus.config.guards import GuardConfig
from bus.config.ingress import CurveConfig, IngressConfig
from bus.config.kv import KvConfig
from bus.config.models import DEMO_MODEL, AdapterConfig, LoraConfig, ModelConfig, PoolsConfig
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
from bus.config.reading import find_config, load_config, parse_config
from bus.config.reasoning import EffortsConfig, ReasoningConfig
from bus.config.routes import CascadeConfig, RouteConfig, RuleConfig, ScoreConfig, TargetConfig
from bus.config.sampling import SamplingConfig
from bus.config.section import ConfigError, Section, parse_address, parse_size
from bus.config.upstreams import Capability, UpstreamConfig, UpstreamKind, UpstreamModelConfig
from bus.config.whole import Config

__all__ = [
    "DEMO_MODEL",
    "AccountsConfig",
    "AdapterConfig",
    "AdminConfig",
    "AlarmsConfig",
    "BatchConfig",
    "BlackboxConfig",
    "CacheConfig",
    "CacheNamespaceConfig",
    "Capability",
    "CascadeConfig",
    "Config",
    "ConfigError",
    "CostConfig",
    "CurveConfig",
    "EffortsConfig",
    "GuardConfig",
    "IngressConfig",
    "KvConfig",
    "LogConfig",
    "LoraConfig",
    "MetricsConfig",
    "ModelConfig",
    "PoolsConfig",
    "PriceConfig",
    "ReasoningConfig",
    "RouteConfig",
    "RuleConfig",
    "SamplingConfig",
    "ScoreConfig",
    "Section",
    "SystemdConfig",
    "TargetConfig",
    "TracesConfig",
    "UpstreamConfig",
    "UpstreamKind",
    "UpstreamModelConfig",
    "UsageConfig",
    "find_config",
    "load_config",
    "parse_address",
    "parse_config",
    "parse_size",
]
