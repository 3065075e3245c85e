"""Dashboard and alert rules: whole, and in PromQL. `tests/system/test_observability.py` has their metrics."""

from __future__ import annotations

import pytest
import yaml
from expressions import DEPLOY, dashboard, expressions, metrics_in, rules

from metrics.core.instruments import HELP, PUBLIC_NAMES


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_is_promql_over_metrics(where: str, expression: str) -> None:
    assert metrics_in(expression), where


def test_what_is_no_promql_is_found() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        metrics_in("sum(rate(headrace_x[5m])")


def test_no_expression_names_a_metric_that_only_processes_know() -> None:
    """Some latencies go out under the names of the conventions."""
    inner = {name for _, expression in expressions() for name in metrics_in(expression)}
    assert not {name for name in inner for private in PUBLIC_NAMES if name.startswith(private)}
    assert len(inner & HELP.keys()) > 20


def test_panels_have_numbers_places_and_the_chosen_source() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, f"{panel['title']} lies on another panel"
        cells |= mine
        if panel["type"] != "row":
            assert panel["targets"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_it_can_be_provisioned() -> None:
    assert dashboard()["id"] is None
    assert dashboard()["uid"] == "headrace"
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["honor_labels"] is True
    assert prometheus["rule_files"] == ["headrace.rules.yml"]


def test_alerts_say_what_is_wrong_and_how_bad() -> None:
    named = [rule["alert"] for rule in rules()]
    assert len(set(named)) == len(named)
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".") or rule["annotations"]["summary"].endswith(").")
