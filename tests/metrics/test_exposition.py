"""The text is what Prometheus reads: parsed back by prometheus_client's own parser."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from bus.ceilings import Ceilings
from bus.config import CostConfig
from bus.messages.telemetry import Sample, Series, Timeline, TimelineEvent
from bus.telemetry import LATENCY_BOUNDS
from metrics.core.collector import Collector
from metrics.core.costs import rate_of
from metrics.exposition import OwnCounts, exposition

SECOND = 1_000_000_000
NASTY = 'a"b\\c\nd'


def collected(*series: Series, epochs: int = 1) -> Collector:
    collector = Collector(10, 0)
    for epoch in range(epochs):
        sample = Sample("scheduler@m", "scheduler", 7, epoch, "ready", epoch, 3, False, 1.5, 4096, series)
        collector.on_sample(sample, epoch * SECOND)
    return collector


def parsed(collector: Collector) -> tuple[dict[str, str], dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """Kind by family, value by (name, labels)."""
    text = exposition(collector, OwnCounts(11, 2, 5)).decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return (
        {family.name: family.type for family in families},
        {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples},
    )


def test_counters_gauges_and_histograms_come_back_with_kind_labels_and_value() -> None:
    model = (("model", "m"),)
    kinds, values = parsed(
        collected(
            Series("headrace_output_tokens_total", "counter", model, 42),
            Series("headrace_queue_requests", "gauge", model, 3),
            Series("headrace_step_seconds", "histogram", model, 0.7, (0.1, 1.0), (1, 2, 4)),
        )
    )
    where = (("instance", "scheduler@m"), ("model", "m"))
    assert kinds["headrace_output_tokens"] == "counter"
    assert kinds["headrace_queue_requests"] == "gauge"
    assert kinds["headrace_step_seconds"] == "histogram"
    assert values[("headrace_output_tokens_total", where)] == 42
    assert values[("headrace_queue_requests", where)] == 3
    assert values[("headrace_step_seconds_count", where)] == 4
    assert values[("headrace_step_seconds_sum", where)] == 0.7
    buckets = [
        values[("headrace_step_seconds_bucket", (where[0], ("le", le), where[1]))] for le in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [1, 2, 4]


def test_latencies_have_the_names_of_the_genai_conventions() -> None:
    series = Series("headrace_ttft_seconds", "histogram", (("model", "m"),), 0.5, (1.0,), (1, 1))
    kinds, values = parsed(collected(series))
    assert kinds["gen_ai_server_time_to_first_token_seconds"] == "histogram"
    assert "headrace_ttft_seconds" not in kinds
    labels = (("gen_ai_provider_name", "headrace"), ("gen_ai_request_model", "m"), ("instance", "scheduler@m"))
    assert values[("gen_ai_server_time_to_first_token_seconds_count", labels)] == 1


def test_totals_go_on_over_incarnations() -> None:
    _, values = parsed(collected(Series("headrace_output_tokens_total", "counter", (), 10), epochs=3))
    assert values[("headrace_output_tokens_total", (("instance", "scheduler@m"),))] == 30


def test_label_values_from_outside_are_escaped() -> None:
    _, values = parsed(collected(Series("headrace_refused_total", "counter", (("code", NASTY),), 1)))
    assert values[("headrace_refused_total", (("code", NASTY), ("instance", "scheduler@m")))] == 1


def test_processes_and_its_own_counts_are_there() -> None:
    collector = collected()
    _, values = parsed(collector)
    who = (("instance", "scheduler@m"), ("role", "scheduler"))
    assert values[("headrace_process_up", who)] == 1
    assert values[("headrace_process_resident_memory_bytes", who)] == 4096
    assert values[("headrace_metrics_frames_total", ())] == 11
    assert values[("headrace_metrics_malformed_frames_total", ())] == 2
    for tick in range(6, 60):
        collector.tick(tick * SECOND // 2)
    _, values = parsed(collector)
    assert values[("headrace_process_up", who)] == 0
    assert ("headrace_process_resident_memory_bytes", who) not in values


def test_every_family_has_help_and_type_once() -> None:
    text = exposition(
        collected(Series("headrace_kv_pages", "gauge", (("state", "free"),), 1)), OwnCounts(0, 0, 0)
    ).decode()
    for what in ("HELP", "TYPE"):
        named = [line.split()[2] for line in text.splitlines() if line.startswith(f"# {what}")]
        assert len(named) == len(set(named))
        assert "headrace_kv_pages" in named


# --- OpenMetrics ---------------------------------------------------------------------------------------------------


def full() -> Collector:
    """A collector with one of everything: latencies with a request behind them, steps, and what the host can do."""
    model, worker = (("model", "m"),), (("model", "m"), ("rank", "0"), ("replica", "0"))
    buckets = tuple(int(bound >= 0.75) for bound in (*LATENCY_BOUNDS, 1e9))
    collector = collected(
        Series("headrace_ttft_seconds", "histogram", model, 0.7, LATENCY_BOUNDS, buckets),
        Series("headrace_output_tokens_total", "counter", model, 42),
        Series("headrace_replicas", "gauge", model, 1),
        Series("headrace_step_seconds", "histogram", worker, 2.0, (1.0,), (0, 4)),
        Series("headrace_step_bytes_total", "counter", worker, 10e9),
        Series("headrace_step_operations_total", "counter", (("arithmetic", "int8"), *worker), 30e9),
    )
    events = (TimelineEvent(255, 0, "received"), TimelineEvent(255, 700_000_000, "first_token"),
              TimelineEvent(255, 800_000_000, "finished", 3, 0, "stop"))  # fmt: skip
    collector.on_timeline(Timeline("scheduler@m", events))
    collector.ceilings = Ceilings("this", 2, "now", 20e9, {"int8": 60e9})
    collector.tick(SECOND)
    return collector


OWN = OwnCounts(11, 2, 5, 3, 1, 4096, 7, 0, rate_of(CostConfig(price_per_hour=1.5, currency="USD"), 4, 0))


def test_openmetrics_has_units_and_exemplars_and_its_own_parser_takes_it() -> None:
    text = exposition(full(), OWN, openmetrics=True).decode()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in openmetrics_families(text)}
    assert families["headrace_output_tokens"].unit == "tokens"
    ttft = families["gen_ai_server_time_to_first_token_seconds"]
    assert ttft.unit == "seconds"
    told = [sample for sample in ttft.samples if sample.exemplar]
    assert [sample.labels["le"] for sample in told] == ["1.0"], "the bucket that 0.7 s falls into"
    exemplar = told[0].exemplar
    assert exemplar.labels["request_id"] == "00000000000000ff"
    assert len(exemplar.labels["trace_id"]) == 32
    assert exemplar.value == 0.7
    assert exemplar.timestamp is not None


def test_both_formats_say_the_same() -> None:
    collector = full()

    def values(families: object) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families  # type: ignore[attr-defined]
            for sample in family.samples
            if not sample.name.endswith("start_time_seconds")
        }

    assert values(openmetrics_families(exposition(collector, OWN, openmetrics=True).decode())) == values(
        text_string_to_metric_families(exposition(collector, OWN).decode())
    )


def test_what_steps_reach_of_the_host_and_what_the_host_costs() -> None:
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposition(full(), OWN).decode())
        for sample in family.samples
    }
    assert samples["headrace_mbu_ratio", "m"] == 0.25
    assert samples["headrace_mfu_ratio", "m"] == 0.25
    assert samples["headrace_host_price_per_hour", "USD", "idle"] == 1.5
    assert samples["headrace_host_cores",] == 4


def test_nothing_is_said_of_a_host_that_was_not_measured() -> None:
    collector = full()
    collector.ceilings = None
    collector.tick(2 * SECOND)
    assert "headrace_mbu_ratio{" not in exposition(collector, OWN).decode()
