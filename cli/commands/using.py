"""Talk to a model, measure an endpoint."""

from __future__ import annotations

from pathlib import Path

from cli.commands.base import USING, Switch, app


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
