"""Help texts of the instruments that processes publish, and the names under which the world sees them.

Latencies go out under the names of OpenTelemetry's semantic conventions for generative AI servers
(gen_ai.server.*), written as Prometheus writes them; everything else keeps its own name.
"""

from __future__ import annotations

from typing import Final

HELP: Final[dict[str, str]] = {
    "headrace_queue_requests": "Requests waiting to be admitted.",
    "headrace_running_requests": "Requests that hold a slot.",
    "headrace_requests_total": "Requests that ended, by reason.",
    "headrace_prompt_tokens_total": "Prompt tokens of admitted requests.",
    "headrace_output_tokens_total": "Tokens generated.",
    "headrace_prefix_hit_tokens_total": "Prompt tokens whose KV was found.",
    "headrace_prefix_lookup_tokens_total": "Prompt tokens whose KV was looked for.",
    "headrace_queue_seconds": "Time from acceptance to admission.",
    "headrace_ttft_seconds": "Time from acceptance to the first output token.",
    "headrace_inter_token_seconds": "Time between output tokens after the first.",
    "headrace_e2e_seconds": "Time from acceptance to the last output token.",
    "headrace_step_seconds": "Duration of one engine step.",
    "headrace_step_part_seconds_total": "Time of steps by what it went into.",
    "headrace_preemptions_total": "Running requests that gave up their pages to others.",
    "headrace_refused_total": "Requests refused at the door, by code.",
    "headrace_replicas_ready": "Replicas that can take work.",
    "headrace_replicas": "Replicas configured.",
    "headrace_stock_pages": "Leased pages that wait in the scheduler for tokens.",
    "headrace_oldest_wait_seconds": "Age of the request that waits longest.",
    "headrace_kv_pages": "Pages of the KV arena, by state and pool.",
    "headrace_kv_audit_faults": "Faults that the last audit of the pages found.",
}

PUBLIC_NAMES: Final[dict[str, str]] = {
    "headrace_ttft_seconds": "gen_ai_server_time_to_first_token_seconds",
    "headrace_inter_token_seconds": "gen_ai_server_time_per_output_token_seconds",
    "headrace_e2e_seconds": "gen_ai_server_request_duration_seconds",
}

# What the conventions require on those instruments.
PUBLIC_LABELS: Final[dict[str, str]] = {"model": "gen_ai_request_model"}
PROVIDER: Final = ("gen_ai_provider_name", "headrace")


def help_text(name: str) -> str:
    """One sentence about an instrument."""
    return HELP.get(name) or name.removeprefix("headrace_").replace("_", " ").capitalize() + "."


def public(name: str, labels: tuple[tuple[str, str], ...]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Name and labels as they are exposed."""
    if name not in PUBLIC_NAMES:
        return name, labels
    return PUBLIC_NAMES[name], (*((PUBLIC_LABELS.get(key, key), value) for key, value in labels), PROVIDER)
