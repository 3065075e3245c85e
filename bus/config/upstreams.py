"""`[[upstream]]`, as typed structs: servers elsewhere that answer in this one's place, and what each of them serves.

No key stands here: a credential is the path of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from bus.config.section import NotNegative, Problem, Section, Where

Capability = Literal["images", "audio", "json", "seed", "penalties", "sampling", "logprobs", "reasoning", "tools"]
UpstreamKind = Literal["openai", "anthropic"]

_Seconds = Annotated[float, Meta(gt=0, le=3600)]
NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,48}")

# What Anthropic's messages have no words for.
_NEVER: Final[dict[UpstreamKind, frozenset[Capability]]] = {
    "openai": frozenset(),
    "anthropic": frozenset({"audio", "seed", "penalties", "logprobs"}),
}


class UpstreamModelConfig(Section, frozen=True, kw_only=True):
    """`[[upstream.model]]`: one model of an upstream.

    Attributes:
        name: under which clients ask for it here.
        served: what the upstream calls it; empty is `name`.
        context_tokens: longest prompt and answer together.
        capabilities: what may be passed on beside text, `temperature`, `top_p` and `stop`.
        input, cached_input, output, reasoning: price per million tokens, in the currency of `[cost]`, for the same uses
            as `[[price]]`, whose rows come first.
        cache: its greedy answers are kept and served again, as those of this host; whoever sets it knows that the
            upstream puts nothing else behind the name.
        tokenizer: a `[[model]]` whose tokeniser counts where the upstream does not say; empty estimates.
        continue_with: a `[[model]]` of the same weights, which goes on with answers that the upstream breaks off.
    """

    name: str
    served: str = ""
    context_tokens: Annotated[int, Meta(ge=1)] = 8192
    capabilities: tuple[Capability, ...] = ()
    input: NotNegative = 0.0
    cached_input: NotNegative | None = None
    output: NotNegative = 0.0
    reasoning: NotNegative | None = None
    cache: bool = False
    tokenizer: str = ""
    continue_with: str = ""

    @property
    def served_name(self) -> str:
        """What the upstream calls it."""
        return self.served or self.name


class UpstreamConfig(Section, frozen=True, kw_only=True):
    """`[[upstream]]`: a server that speaks OpenAI's or Anthropic's API.

    Attributes:
        name: in metrics and errors.
        kind: what it speaks.
        base_url: up to and without `/chat/completions`, or `/messages`.
        credential: absolute path of a file with its API key and nothing else; empty shows none. Under systemd it is
            handed over as the credential `upstream.NAME`.
        connect_s: for the connection.
        first_token_s: from the request to the first token.
        between_tokens_s: from a token to the next.
        max_in_flight: calls at once, by one ingress; above it others are asked, or 503.
        failures: that open the circuit: so many of the last `failures_of`, and at least so many.
        failures_of: calls that are looked back on.
        open_s: how long nobody is sent there then, doubled each time that the trial call fails.
        open_most_s: ... but no longer than this.
        model: what it serves.
    """

    name: str
    kind: UpstreamKind = "openai"
    base_url: str
    credential: str = ""
    connect_s: _Seconds = 5.0
    first_token_s: _Seconds = 60.0
    between_tokens_s: _Seconds = 30.0
    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 64
    failures: Annotated[int, Meta(ge=1, le=100)] = 5
    failures_of: Annotated[int, Meta(ge=1, le=1000)] = 10
    open_s: _Seconds = 5.0
    open_most_s: _Seconds = 300.0
    model: tuple[UpstreamModelConfig, ...]


def problems(upstreams: tuple[UpstreamConfig, ...], models: frozenset[str]) -> Iterator[Problem]:
    """What types cannot say. `models` are those that are served here."""
    names: set[str] = set()
    taken = set(models)
    for index, upstream in enumerate(upstreams):
        where: Where = ("upstream", index)
        for key, problem in _problems(upstream):
            yield (*where, key), problem
        if upstream.name in names:
            yield (*where, "name"), f"{upstream.name!r} is there twice"
        names.add(upstream.name)
        for at, model in enumerate(upstream.model):
            here: Where = (*where, "model", at)
            if NAME.fullmatch(model.name) is None:
                yield (*here, "name"), "letters, digits, dot, dash and underscore only, at most 48; see served"
            if model.name in taken:
                yield (*here, "name"), f"{model.name!r} is there twice: one name is one model"
            taken.add(model.name)
            for capability in model.capabilities:
                if capability in _NEVER[upstream.kind]:
                    yield (*here, "capabilities"), f"{upstream.kind} has no words for {capability!r}"
            for key, named in (("tokenizer", model.tokenizer), ("continue_with", model.continue_with)):
                if named and named not in models:
                    yield (*here, key), f"no model named {named!r} is configured"


def _problems(upstream: UpstreamConfig) -> Iterator[tuple[str, str]]:
    if NAME.fullmatch(upstream.name) is None:
        yield "name", "letters, digits, dot, dash and underscore only, at most 48"
    url = urlsplit(upstream.base_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        yield "base_url", "expected the URL of an API, as https://api.example.org/v1"
    elif url.username or url.password:
        yield "base_url", "no key in a URL: name its file in credential"
    if upstream.credential and not Path(upstream.credential).is_absolute():
        yield "credential", "the absolute path of a file; the key itself does not belong here"
    if upstream.failures > upstream.failures_of:
        yield "failures", f"more than failures_of ({upstream.failures_of})"
    if upstream.open_most_s < upstream.open_s:
        yield "open_most_s", f"less than open_s ({upstream.open_s:g})"
    if not upstream.model:
        yield "model", "at least one [[upstream.model]] is needed"
