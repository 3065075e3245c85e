"""Help texts of the instruments that processes publish, and the names under which the world sees them.

Latencies go out under the names of OpenTelemetry's semantic conventions for generative AI servers
(gen_ai.server.*), written as Prometheus writes them; everything else keeps its own name.
"""

from __future__ import annotations

from typing import Final

HELP: Final[dict[str, str]] = {
    "headrace_queue_requests": "Requests waiting to be admitted.",
    "headrace_running_requests": "Requests that hold a slot.",
    "headrace_oldest_wait_seconds": "Age of the request that waits longest.",
    "headrace_requests_total": "Requests that ended, by reason.",
    "headrace_refused_total": "Requests that the scheduler refused, by code.",
    "headrace_preemptions_total": "Running requests that gave up their pages to others.",
    "headrace_prompt_tokens_total": "Prompt tokens of admitted requests.",
    "headrace_output_tokens_total": "Tokens generated.",
    "headrace_reasoning_tokens_total": "Tokens generated, here or elsewhere, that were thought.",
    "headrace_overrun_tokens_total": "Tokens generated after the client had enough.",
    "headrace_draft_tokens_total": "Draft tokens that were verified.",
    "headrace_accepted_draft_tokens_total": "Draft tokens that were right, and saved a step.",
    "headrace_prefix_hit_tokens_total": "Prompt tokens whose KV was found.",
    "headrace_prefix_disk_tokens_total": "Prompt tokens whose KV came from disk.",
    "headrace_prefix_lookup_tokens_total": "Prompt tokens whose KV was looked for.",
    "headrace_queue_seconds": "Time from acceptance to admission.",
    "headrace_ttft_seconds": "Time from the request's arrival to its first output token.",
    "headrace_inter_token_seconds": "Time between output tokens after the first.",
    "headrace_e2e_seconds": "Time from the request's arrival to its last output token.",
    "headrace_replicas": "Replicas configured.",
    "headrace_replicas_ready": "Replicas that can take work.",
    "headrace_stock_pages": "Leased pages that wait in the scheduler for tokens.",
    "headrace_adapter_evictions_total": "Adapters that left a replica's memory for others.",
    "headrace_adapter_load_seconds": "Time to read an adapter, by the slowest rank.",
    "headrace_adapter_loads_total": "Adapters that replicas have read, by outcome.",
    "headrace_adapter_waiting_requests": "Requests that wait for their adapter.",
    "headrace_adapters_resident": "Adapters in a replica's memory.",
    "headrace_compute_seconds_total": "Steps, times the cores that computed them.",
    "headrace_unclaimed_compute_seconds_total": "Of these, seconds for requests that had left meanwhile.",
    "headrace_step_seconds": "Duration of one step of a worker.",
    "headrace_step_rows": "Rows of one step: requests that were in it.",
    "headrace_step_tokens_total": "Tokens computed.",
    "headrace_drawn_tokens_total": "Tokens drawn.",
    "headrace_step_wait_seconds_total": "Time that a worker was idle before a plan came.",
    "headrace_steps_failed_total": "Steps that failed.",
    "headrace_step_part_seconds_total": "Time of steps by what it went into.",
    "headrace_step_bytes_total": "Bytes of weights and KV that steps had to read at least.",
    "headrace_step_operations_total": "Multiplications and additions of steps, by type of number.",
    "headrace_kv_pages": "Pages of the KV arena, by state and pool.",
    "headrace_kv_audit_faults": "Faults that the last audit of the pages found.",
    "headrace_kv_slabs_free": "Slabs of the arena that belong to no pool.",
    "headrace_kv_leases_total": "Pages leased.",
    "headrace_kv_seals_total": "Pages sealed.",
    "headrace_kv_lookups_total": "Blocks looked up.",
    "headrace_kv_hits_total": "Blocks found.",
    "headrace_kv_misses_total": "Blocks not found.",
    "headrace_kv_evictions_total": "Cached pages given to others.",
    "headrace_kv_denied_total": "Requests that the page server refused.",
    "headrace_kv_disk_bytes": "Bytes that the disk tier takes.",
    "headrace_kv_disk_limit_bytes": "Bytes that the disk tier may take.",
    "headrace_kv_disk_pages": "Pages on disk.",
    "headrace_kv_disk_waiting_pages": "Pages that are to be written to disk.",
    "headrace_kv_disk_writes_total": "Pages written to disk.",
    "headrace_kv_disk_reads_total": "Pages read from disk and verified.",
    "headrace_kv_disk_lost_total": "Pages that were evicted before they were written.",
    "headrace_kv_disk_errors_total": "Errors of the disk tier, by kind.",
    "headrace_kv_disk_usable": "Whether the disk tier is used, by way.",
    "headrace_kv_disk_read_bytes_per_second": "Rate at which pages come from disk, as measured.",
    "headrace_ingress_open_streams": "Answers under way in an ingress.",
    "headrace_ingress_refused_total": "Requests that an ingress did not open, by code.",
    "headrace_ingress_resubmitted_total": "Requests submitted again after a scheduler lost them.",
    "headrace_ingress_adopted_total": "Streams taken over from dead ingresses.",
    "headrace_ingress_journal_bytes": "Bytes that journals of streams take.",
    "headrace_ingress_unprotected_total": "Streams that go on without a journal, by reason.",
    "headrace_guard_total": "Requests and answers that a guard looked at, by what followed.",
    "headrace_ingress_request_cpu_seconds": "CPU time of an ingress for a call, until a scheduler has it.",
    "headrace_ingress_token_cpu_seconds": "CPU time of an ingress for a token, from its scheduler to the socket.",
    "headrace_guard_seconds": "Time of an ingress for the guards of a request or of an answer.",
    "headrace_route_cascade_total": "Answers of first models of cascades, by the check that they failed.",
    "headrace_route_mirrored_total": "Calls that a mirror was asked too, by what came of it.",
    "headrace_route_passed_on_total": "Attempts of routes that came to nothing, by why.",
    "headrace_route_total": "Calls to routes and to models elsewhere, by who answers and what decided that.",
    "headrace_upstream_attempts_total": "Attempts at upstreams, by how they ended.",
    "headrace_upstream_circuit": "0 where an upstream is asked, 1 on trial, 2 where it is not.",
    "headrace_upstream_continued_total": "Answers that a model of this host went on with.",
    "headrace_upstream_estimated_total": "Attempts whose tokens the upstream did not say, or said what cannot be.",
    "headrace_upstream_first_token_seconds": "From a call's arrival to an upstream's first token.",
    "headrace_upstream_in_flight": "Calls to an upstream under way.",
    "headrace_upstream_tokens_total": "Tokens of upstreams' answers.",
    "headrace_usage_spool_records": "Records of usage that are not in the ledger yet.",
    "headrace_usage_dropped_total": "Records of usage that were too many to keep.",
    "headrace_bus_received_total": "Messages received from peers, by door.",
    "headrace_bus_sent_total": "Messages sent to peers, by door.",
    "headrace_limit": "Limits in force, of a replica or of the queue.",
    "headrace_step_phase_seconds": "What the time of a step goes into.",
    "headrace_steps_bound_total": "Steps, by what kept them from having more in them.",
    "headrace_bus_refused_total": "Messages refused, by door and reason.",
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
