"""docs/configuration.md says what bus/config/ does: every key, its default, choices and bounds, and no other key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import NODEFAULT

from bus.config import (
    AccountsConfig,
    AdapterConfig,
    AdminConfig,
    AlarmsConfig,
    BatchConfig,
    BlackboxConfig,
    CacheConfig,
    CacheNamespaceConfig,
    CostConfig,
    CurveConfig,
    EffortsConfig,
    GuardConfig,
    IngressConfig,
    KvConfig,
    LogConfig,
    LoraConfig,
    MetricsConfig,
    ModelConfig,
    PoolsConfig,
    PriceConfig,
    ReasoningConfig,
    SamplingConfig,
    Section,
    SystemdConfig,
    TracesConfig,
    UsageConfig,
)
from bus.config.routes import CascadeConfig, RouteConfig, RuleConfig, ScoreConfig, TargetConfig
from bus.config.upstreams import UpstreamConfig, UpstreamModelConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SECTIONS: dict[str, type[Section]] = {
    "[ingress]": IngressConfig,
    "[kv]": KvConfig,
    "[metrics]": MetricsConfig,
    "[alarms]": AlarmsConfig,
    "[usage]": UsageConfig,
    "[cache]": CacheConfig,
    "[[cache.namespace]]": CacheNamespaceConfig,
    "[cost]": CostConfig,
    "[accounts]": AccountsConfig,
    "[batch]": BatchConfig,
    "[[price]]": PriceConfig,
    "[traces]": TracesConfig,
    "[log]": LogConfig,
    "[systemd]": SystemdConfig,
    "[admin]": AdminConfig,
    "[blackbox]": BlackboxConfig,
    "[curve]": CurveConfig,
    "[[model]]": ModelConfig,
    "[model.pools]": PoolsConfig,
    "[model.sampling]": SamplingConfig,
    "[model.reasoning]": ReasoningConfig,
    "[model.reasoning.efforts]": EffortsConfig,
    "[model.lora]": LoraConfig,
    "[[model.adapter]]": AdapterConfig,
    "[[guard]]": GuardConfig,
    "[[upstream]]": UpstreamConfig,
    "[[upstream.model]]": UpstreamModelConfig,
    "[[route]]": RouteConfig,
    "[[route.target]]": TargetConfig,
    "[[route.rule]]": RuleConfig,
    "[route.cascade]": CascadeConfig,
    "[route.score]": ScoreConfig,
}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Type and default of every key in the table of a section."""
    body = PAGE.read_text(encoding="utf-8").split(f"\n## `{section}`\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", body, re.MULTILINE)
    return {key: (kind, default) for key, kind, default in found}


def keys(section: str) -> Iterator[msgspec.structs.FieldInfo]:
    """Of a section, without those that are sections of their own."""
    own = {name.strip("[]") for name in SECTIONS}
    within = section.strip("[]")
    return (field for field in msgspec.structs.fields(SECTIONS[section]) if f"{within}.{field.name}" not in own)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_there_with_its_default(section: str) -> None:
    expected = {
        field.encode_name: "required" if field.default is NODEFAULT else f"`{json.dumps(field.default)}`"
        for field in keys(section)
    }
    assert {key: default for key, (_, default) in rows(section).items()} == expected


@pytest.mark.parametrize("section", SECTIONS)
def test_choices_and_bounds_are_there(section: str) -> None:
    said = rows(section)
    for field in keys(section):
        kind = said[field.encode_name][0]
        facts: Any = msgspec.inspect.type_info(field.type)
        if isinstance(facts, msgspec.inspect.LiteralType):
            assert kind == ", ".join(f"`{json.dumps(value)}`" for value in get_args(field.type))
            continue  # choices have digits of their own
        bounds = [getattr(facts, name, None) for name in ("ge", "gt", "le", "lt")]
        assert re.findall(r"\d+", kind) == [f"{bound:g}" for bound in bounds if bound is not None]


def test_every_section_is_checked() -> None:
    headings = re.findall(r"^## `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(SECTIONS)
