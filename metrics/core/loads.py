"""What the series say about each model and about the pages, as one line each. Arithmetic only."""

from __future__ import annotations

from typing import Final

from bus.ceilings import Ceilings
from bus.messages.observe import ModelLoad, PageLoad
from metrics.core.ceilings import reached
from metrics.core.series import SeriesStore

NOTHING_LOOKED_UP: Final = -1.0
# Only schedulers publish these: a model named by anyone else does not make a line.
_OF_SCHEDULERS: Final = ("headrace_replicas", "headrace_queue_requests", "headrace_output_tokens_total")


def model_loads(
    series: SeriesStore, now_ns: int, span_s: float, ceilings: Ceilings | None = None
) -> tuple[ModelLoad, ...]:
    """One line per model, by name.

    Args:
        span_s: how much of the window has been watched, at most its length.
        ceilings: what the host can do, where that is known.
    """
    return tuple(
        _model_load(series, model, now_ns, span_s, ceilings)
        for model in sorted(series.label_values("model", *_OF_SCHEDULERS))
    )


def _model_load(series: SeriesStore, model: str, now_ns: int, span_s: float, ceilings: Ceilings | None) -> ModelLoad:
    def per_s(name: str) -> float:
        return series.added(name, now_ns, model=model) / span_s

    def p50_p95(name: str) -> tuple[float, ...]:
        return series.quantiles(name, now_ns, (0.5, 0.95), model=model)

    hits = series.added("headrace_prefix_hit_tokens_total", now_ns, model=model)
    looked_up = series.added("headrace_prefix_lookup_tokens_total", now_ns, model=model)
    ttft, itl, step = (p50_p95(f"headrace_{what}_seconds") for what in ("ttft", "inter_token", "step"))
    queue, e2e = p50_p95("headrace_queue_seconds"), p50_p95("headrace_e2e_seconds")
    share = reached(series, ceilings, model, now_ns)
    return ModelLoad(
        model=model,
        replicas_ready=int(series.gauge("headrace_replicas_ready", model=model)),
        replicas=int(series.gauge("headrace_replicas", model=model)),
        waiting=int(series.gauge("headrace_queue_requests", model=model)),
        running=int(series.gauge("headrace_running_requests", model=model)),
        oldest_wait_s=series.largest("headrace_oldest_wait_seconds", model=model),
        requests_per_s=per_s("headrace_requests_total"),
        prompt_tokens_per_s=per_s("headrace_prompt_tokens_total"),
        output_tokens_per_s=per_s("headrace_output_tokens_total"),
        ttft_p50_s=ttft[0],
        ttft_p95_s=ttft[1],
        itl_p50_s=itl[0],
        itl_p95_s=itl[1],
        refused_per_s=per_s("headrace_refused_total"),
        preemptions_per_s=per_s("headrace_preemptions_total"),
        prefix_hit_ratio=hits / looked_up if looked_up > 0 else NOTHING_LOOKED_UP,
        step_p50_s=step[0],
        step_p95_s=step[1],
        queue_p50_s=queue[0],
        queue_p95_s=queue[1],
        e2e_p50_s=e2e[0],
        e2e_p95_s=e2e[1],
        mbu=share.mbu,
        mfu=share.mfu,
    )


def page_load(series: SeriesStore) -> PageLoad:
    """The arena's pages by state, all pools together."""

    states = ("free", "leased", "pinned", "cached", "quarantined")
    free, leased, pinned, cached, quarantined = (
        int(series.gauge("headrace_kv_pages", state=state)) for state in states
    )
    stock = min(leased, int(series.gauge("headrace_stock_pages")))  # of two processes, so never quite of one moment
    slabs_free = int(series.gauge("headrace_kv_slabs_free"))
    total = free + leased + pinned + cached + quarantined
    return PageLoad(total, free + stock, leased - stock, pinned, cached, quarantined, slabs_free)
