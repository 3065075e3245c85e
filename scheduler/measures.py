"""What the core tallied, as instruments. Names after OTel's gen_ai metrics where they have one."""

from __future__ import annotations

from bisect import bisect_left
from typing import get_args

import numpy as np

from bus.messages.requests import FinishReason, RefusalCode
from bus.messages.vitals import Steps
from bus.telemetry import Counter, Gauge, Histogram, Telemetry
from scheduler.core.state import State, Tally
from scheduler.core.steplog import StepRecords


class Measures:
    """The instruments of one scheduler, all labelled with its model."""

    def __init__(self, telemetry: Telemetry, model: str) -> None:
        self._telemetry, self._model = telemetry, model

        def counter(name: str, help: str) -> Counter:
            return telemetry.counter(f"headrace_{name}_total", help, model=model)

        def gauge(name: str, help: str) -> Gauge:
            return telemetry.gauge(f"headrace_{name}", help, model=model)

        def seconds(name: str, help: str) -> Histogram:
            return telemetry.histogram(f"headrace_{name}_seconds", help, model=model)

        self._prompt = counter("prompt_tokens", "Prompt tokens of requests that were admitted")
        self._output = counter("output_tokens", "Tokens generated")
        self._hit = counter("prefix_hit_tokens", "Tokens whose KV was found instead of computed")
        self._disk = counter("prefix_disk_tokens", "Tokens whose KV came from disk")
        self._lookup = counter("prefix_lookup_tokens", "Tokens whose KV was looked for")
        self._preemptions = counter("preemptions", "Requests that gave way for lack of pages, to be computed again")
        self._overrun = counter("overrun_tokens", "Tokens generated after the client had enough")
        self._drafted = counter("draft_tokens", "Draft tokens that were verified")
        self._accepted = counter("accepted_draft_tokens", "Draft tokens that were right, and saved a step")
        self._computed = counter("compute_seconds", "Steps, times the cores that computed them")
        self._unclaimed = counter(
            "unclaimed_compute_seconds", "Computing for requests that had left before their step was complete"
        )
        self._waiting = gauge("queue_requests", "Requests that wait")
        self._running = gauge("running_requests", "Requests that have a slot")
        self._oldest = gauge("oldest_wait_seconds", "How long the first of the queue has waited")
        self._stock = gauge("stock_pages", "Leased pages that wait for tokens")
        self._ready = gauge("replicas_ready", "Replicas that take requests")
        self._replicas = gauge("replicas", "Replicas configured")
        self._limits = {
            name: telemetry.gauge(
                "headrace_limit", "Limits in force, per replica or of the queue", model=model, limit=name
            )
            for name in ("slots", "step_tokens", "inter_token_target_ms", "queue_requests", "queue_tokens")
        }
        # There from the beginning: a rate of what appears with its first event misses that event.
        for reason in get_args(FinishReason):
            self._counted("requests", "Requests that ended, by reason", 0, reason=reason)
        for code in get_args(RefusalCode):
            self._counted("refused", "Requests that were not taken, by code", 0, code=code)
        self._adapter_loads = {
            outcome: telemetry.counter(
                "headrace_adapter_loads_total", "Adapters read by replicas, by outcome", model=model, outcome=outcome
            )
            for outcome in ("loaded", "failed")
        }
        self._adapter_evictions = counter("adapter_evictions", "Adapters that left a replica's memory for others")
        self._adapters_waiting = gauge("adapter_waiting_requests", "Requests that wait for their adapter")
        self._adapter_s = seconds("adapter_load", "Reading an adapter, by the slowest rank")
        self._queue_s = seconds("queue", "From the scheduler's acceptance to a slot")
        self._ttft_s = seconds("ttft", "From the request at the ingress to its first token")
        self._itl_s = seconds("inter_token", "Between two tokens of a request")
        self._e2e_s = seconds("e2e", "From the request at the ingress to its end")
        self._phases = {
            part: telemetry.histogram(
                "headrace_step_phase_seconds",
                "What the time of a step goes into",
                model=model,
                part=part,
            )
            for part in ("plan", "send", "compute", "gather", "apply")
        }
        self._seen_steps = 0  # of the records
        self._told_steps = 0

    def sent(self, ns: int) -> None:
        """A plan was handed to the sockets of all ranks."""
        self._phases["send"].observe(ns / 1e9)

    def steps(self, records: StepRecords, name: str) -> Steps | None:
        """The steps since the last time, for telemetry; None where there were none."""
        lines = records.since(self._told_steps)
        if not lines:
            return None
        self._told_steps = records.total
        return Steps(name, self._model, records.total, lines)

    def take_steps(self, records: StepRecords) -> None:
        """Count the steps since the last time."""
        for line in records.since(self._seen_steps):
            self._phases["plan"].observe(line.plan_ns / 1e9)
            self._phases["compute"].observe(line.ran_ns / 1e9)
            self._phases["gather"].observe(line.gather_ns / 1e9)
            self._phases["apply"].observe(line.apply_ns / 1e9)
            self._telemetry.counter(
                "headrace_steps_bound_total", "Steps, by what kept them from having more in them", model=self._model,
                bound=line.bound,
            ).add()  # fmt: skip
        self._seen_steps = records.total

    def take(self, state: State, ready: int) -> int:
        """Count what was tallied since the last time. Returns how many tokens were generated."""
        tally, state.tally = state.tally, Tally()
        for reason, count in tally.finished.items():
            self._counted("requests", "Requests that ended, by reason", count, reason=reason)
        for code, count in tally.refused.items():
            self._counted("refused", "Requests that were not taken, by code", count, code=code)
        self._prompt.add(tally.prompt_tokens)
        self._output.add(tally.output_tokens)
        self._hit.add(tally.hit_tokens)
        self._disk.add(tally.disk_tokens)
        self._lookup.add(tally.lookup_tokens)
        self._preemptions.add(tally.preemptions)
        self._overrun.add(tally.overrun_tokens)
        self._drafted.add(tally.drafted_tokens)
        self._accepted.add(tally.accepted_tokens)
        self._computed.add(tally.computed_ns / 1e9)
        self._unclaimed.add(tally.unclaimed_ns / 1e9)
        for histogram, values in (
            (self._queue_s, tally.queue_s),
            (self._ttft_s, tally.ttft_s),
            (self._e2e_s, tally.e2e_s),
            (self._adapter_s, tally.adapters_loaded_s),
        ):
            for value in values:
                histogram.observe(value)
        if tally.gaps_s:
            _observe_many(self._itl_s, np.concatenate(tally.gaps_s))
        first = state.queue.first(1)
        self._oldest.set((state.now - first[0].arrival_ns) / 1e9 if first else 0.0)
        self._waiting.set(len(state.queue))
        self._running.set(state.running)
        self._stock.set(state.pool.free)
        self._ready.set(ready)
        self._replicas.set(state.limits.replicas)
        limits = state.limits
        for name, gauge in self._limits.items():
            gauge.set(limits.inter_token_target_ns / 1e6 if name == "inter_token_target_ms" else getattr(limits, name))
        self._adapter_loads["loaded"].add(len(tally.adapters_loaded_s))
        self._adapter_loads["failed"].add(tally.adapters_failed)
        self._adapter_evictions.add(tally.adapters_evicted)
        self._adapters_waiting.set(len(state.adapters.waiting))
        for replica in state.replicas.values():
            self._telemetry.gauge(
                "headrace_adapters_resident", "Adapters in a replica's memory", model=self._model,
                replica=str(replica.number),
            ).set(replica.adapters.there)  # fmt: skip
        return tally.output_tokens

    def _counted(self, name: str, help: str, count: int, **labels: str) -> None:
        self._telemetry.counter(f"headrace_{name}_total", help, model=self._model, **labels).add(count)


def _observe_many(histogram: Histogram, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Rows of one step share their gap, so there are few different values among many."""
    for value, count in zip(*(column.tolist() for column in np.unique(values, return_counts=True)), strict=True):
        histogram.counts[bisect_left(histogram.bounds, value)] += count
        histogram.total += value * count
