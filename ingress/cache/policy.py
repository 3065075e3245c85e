"""Which calls may be answered from the cache, and which answers may be kept. Pure.

Safe without asking is what comes out the same each time: greedy answers. A sampled one is another answer each time, and
whoever wants the same again names a seed: answering it from the cache changes what "temperature" means, so a namespace
has to say `sampled`. What carries more than text (log probabilities, tools), and what somebody has changed on its way
(guards), is never kept.
"""

from __future__ import annotations

from typing import Literal

from ingress.api.jobs import Plan
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_common import Generation
from ingress.cache.directives import Directives
from ingress.cache.spaces import Space
from ingress.job import Job
from ingress.streams import Finish, cut_short

Bypass = Literal[
    "off",  # no cache is configured
    "no-store",  # the caller's wish
    "choices",  # several samples, or a limit of tokens for all of them
    "tools",
    "logprobs",
    "timing",  # it asks where the time of a generation goes
    "sampled",  # it would be another answer each time, and the namespace does not say that any will do
    "seed",  # it names the draw that it wants
]


def why_not(request: Generation, plan: Plan, directives: Directives, space: Space) -> Bypass | None:
    """Why a call is none of the cache's business; None where it is."""
    if not space.exact:
        return "off"
    if not directives.store:
        return "no-store"
    if len(plan.jobs) != 1 or plan.jobs[0].beams is not None or plan.jobs[0].pool is not None:
        return "choices"
    if isinstance(request, ChatRequest) and (request.tools or request.functions):
        return "tools"
    job = plan.jobs[0]
    if job.sampling.logprobs >= 0 or job.prompt_logprobs >= 0 or job.max_tokens == 0:
        return "logprobs"
    if job.timing:
        return "timing"
    if job.sampling.temperature > 0:
        if request.seed is not None:
            return "seed"
        if not space.sampled:
            return "sampled"
    return None


def may_keep(job: Job, finish: Finish) -> bool:
    """Whether an answer that ended like this is the answer: by itself, or at the limit that its caller set."""
    return finish.reason == "stop" or (
        finish.reason == "length" and job.max_tokens is not None and not cut_short(finish)
    )
