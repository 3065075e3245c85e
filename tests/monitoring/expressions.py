"""The PromQL of the dashboard and of the alert rules, and the metrics that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "headrace.json"
RULES = DEPLOY / "prometheus" / "headrace.rules.yml"


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL), with Grafana's variables filled in as Grafana does."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            filled = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
            assert "$" not in filled, f"an unknown variable in {panel['title']}"
            yield panel["title"], filled
    for rule in rules():
        yield rule["alert"], rule["expr"]


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics that an expression selects; fails where it is not PromQL."""
    return set(_names(promql.parse(expression)))


def named() -> set[str]:
    """Names of all metrics that dashboard and rules need."""
    return {name for _, expression in expressions() for name in metrics_in(expression)}


def _names(node: Any) -> Iterator[str]:
    match node:
        case promql.VectorSelector():
            yield node.name
        case promql.MatrixSelector():
            yield from _names(node.vector_selector)
        case promql.Call():
            for argument in node.args:
                yield from _names(argument)
        case promql.AggregateExpr():
            yield from _names(node.expr)
        case promql.BinaryExpr():
            yield from _names(node.lhs)
            yield from _names(node.rhs)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _names(node.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"what is {type(node).__name__}?")


def family(sample: str) -> str:
    """The family that a sample belongs to."""
    return re.sub(r"_(bucket|sum|count|total)$", "", sample)
