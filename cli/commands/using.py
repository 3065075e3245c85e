"""Talk to a model, measure an endpoint, answer the lines of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.base import USING, Switch, app

if TYPE_CHECKING:
    from cli.batch.api import Api


@app.command(group=USING, sort_key=1)
def chat(
    *words: str,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> int:
    """Talk to a model of the running stack.

    For example:

        headrace chat                           # a conversation
        headrace chat "Why is the sky blue?"    # one answer
        headrace chat smollm2 "Hello!"          # of that model
        git diff | headrace chat "What does this change?"

    In a conversation Ctrl-C ends an answer and Ctrl-D the conversation.

    Args:
        words: Model and prompt, or either.
        model: Name of the model; the first that is served when not given.
        system: System prompt.
        temperature: 0 always takes the likeliest token.
        max_tokens: Longest answer.
    """
    from cli.chat import Wishes, talk

    return talk(words, Wishes(model, system, temperature, max_tokens))


@app.command(group=USING, sort_key=2)
def bench(
    *,
    url: str = "",
    compare: str = "",
    model: str = "",
    trace: Path | None = None,
    lognormal: Switch = False,
    requests: int = 64,
    concurrency: int = 8,
    rate: float = 0.0,
    max_prompt: int = 1024,
    max_output: int = 128,
    slo_ttft: float = 2.0,
    slo_tpot: float = 0.1,
    seed: int = 1,
    profile: Switch = False,
    ceilings: Switch = False,
    json: Switch = False,
) -> int:
    """Load a running endpoint with real lengths; measure TTFT, TPOT, tokens a second, goodput.

    For example:

        headrace bench                            # 64 requests, 8 at a time
        headrace bench --rate 2 --requests 120    # Poisson arrivals, 2 a second
        headrace bench --compare http://127.0.0.1:9000/v1
        headrace bench --profile --concurrency 1 --max-prompt 16    # where the time of decode steps goes
        headrace bench --ceilings                 # what this host can do at most, while nothing runs

    With --compare the same load goes to both, in turns, and the ratios are printed.

    Lengths come from a sample of production traffic (Azure LLM inference trace 2023, conversation), cut to the limits.

    Args:
        url: Base URL of an OpenAI-compatible API; that of the configuration when not given.
        compare: Base URL of another one.
        model: Name of the model; the first that is listed when not given.
        trace: CSV with the columns input_tokens, output_tokens (and arrival_s, which is not used).
        lognormal: Draw lengths from log-normal distributions instead of a trace.
        requests: How many.
        concurrency: So many at a time (closed loop).
        rate: Requests a second, Poisson arrivals (open loop), instead of concurrency.
        max_prompt: Longest prompt, tokens.
        max_output: Longest answer, tokens.
        slo_ttft: Seconds to the first token that count as good.
        slo_tpot: Seconds per further token that count as good.
        seed: The same seed makes the same load.
        profile: Print where the time of the workers' steps went, too. The endpoint must be headrace's.
        ceilings: Measure memory bandwidth and arithmetic of this host instead, some five seconds, and keep them: what
            models reach of them is in `headrace status` and in the metrics from then on. Refused while requests run.
        json: Print every number as JSON.
    """
    from bus.config import find_config, load_config
    from cli.bench.command import Asked, measure

    if ceilings:
        from cli.bench.ceilings import measure_host

        return measure_host(as_json=json)

    base = url or f"http://{load_config(find_config()).ingress.http}/v1"
    return measure(
        Asked(
            urls=[base, *([compare] if compare else [])], model=model, trace=trace, lognormal=lognormal,
            requests=requests, concurrency=concurrency, rate=rate, max_prompt=max_prompt, max_output=max_output,
            slo_ttft_s=slo_ttft, slo_tpot_s=slo_tpot, seed=seed,
            profile=profile,
        ),
        as_json=json,
    )  # fmt: skip


@app.command(group=USING, sort_key=3)
def batch(
    file: Path,
    *,
    output: Path | None = None,
    errors: Path | None = None,
    endpoint: str = "",
    window: str = "24h",
    cancel: Switch = False,
    url: str = "",
    json: Switch = False,
) -> int:
    """Answer the lines of a file while nothing else wants to be answered, and write the results beside it.

    For example:

        headrace batch questions.jsonl             # results: questions.output.jsonl
        headrace batch questions.jsonl --cancel    # end it, and write what there is

    A line is a request, as OpenAI's batches have it: {"custom_id": "1", "method": "POST", "url":
    "/v1/chat/completions", "body": {"model": "smollm2", "messages": [...]}}.

    Ctrl-C leaves the batch to itself; the same command follows it again. What is under way is noted in FILE.batch.
    Where keys are asked for, set OPENAI_API_KEY.

    Args:
        file: One request in each line.
        output: Where answers are written.
        errors: Where lines are written that were not answered well.
        endpoint: Of all lines; that of the first line when not given.
        window: How long it may take: 24h, or other hours up to 168h.
        cancel: End the batch of this file that is under way.
        url: Of another server; that of the configuration when not given.
        json: No progress bar; print the batch and the files as JSON at the end.
    """
    from cli.batch.api import ApiFailed
    from cli.batch.follow import Wanted, answer

    try:
        api = _api(url)
    except ApiFailed as error:
        print(error, file=sys.stderr)
        return 2
    return answer(Wanted(file, output, errors, endpoint, window, cancel), api, as_json=json)


@app.command(group=USING, sort_key=4)
def batches(*, limit: int = 20, url: str = "", json: Switch = False) -> int:
    """List batches, the newest first.

    Args:
        limit: At most so many, up to 100.
        url: Of another server; that of the configuration when not given.
        json: Print JSON, as the API answers.
    """
    from cli.batch.api import ApiFailed
    from cli.batch.listing import show

    try:
        return show(_api(url), limit, as_json=json)
    except ApiFailed as error:
        print(error, file=sys.stderr)
        return 2


def _api(url: str) -> Api:
    """The server that is meant."""
    from bus.config import find_config, load_config
    from cli.batch.api import Api

    return Api(url or f"http://{load_config(find_config()).ingress.http}", os.environ.get("OPENAI_API_KEY", ""))
