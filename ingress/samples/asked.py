"""What a call asks of its samples, checked: between its own parameters, and against what is configured. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from ingress.errors import invalid_request, unsupported_parameter
from ingress.samples.beams import Beams, EarlyStopping
from ingress.samples.pool import TokenPool

MEAN_LOGPROB: Final = "mean_logprob"
MOST_SCORED: Final = 1 << 18  # log probabilities of prompts in one answer: some 50 MB of its ingress while it is made

_OF_BEAMS: Final = ("beam_width", "length_penalty", "early_stopping")
# Beside beams, whose candidates are all looked at: nothing is drawn that these could change.
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "include_timing": (False,),
    "prompt_logprobs": (), "stop": ([],), "thinking_token_budget": (),
}  # fmt: skip
_WHY: Final = {
    "stop": "beams end at tokens; see stop_token_ids",
    "include_timing": "a search is many requests, and none of their times is the answer's",
    "thinking_token_budget": "what closes a thought is not what a search has found",
    "prompt_logprobs": "the prompt of a search is not scored; ask for it in a call of its own",
}


class Asks(Protocol):
    """The parameters of a call that this is about."""

    @property
    def n(self) -> int | None: ...
    @property
    def best_of(self) -> int | None: ...
    @property
    def best_of_scorer(self) -> str | None: ...
    @property
    def max_total_tokens(self) -> int | None: ...
    @property
    def use_beam_search(self) -> bool | None: ...
    @property
    def beam_width(self) -> int | None: ...
    @property
    def length_penalty(self) -> float | None: ...
    @property
    def early_stopping(self) -> EarlyStopping | None: ...
    @property
    def temperature(self) -> float | None: ...
    @property
    def streams(self) -> bool: ...


class Most(NamedTuple):
    """What is configured: the most of each that one prompt may have. See `IngressConfig`."""

    n: int = 16
    best_of: int = 16
    beam_width: int = 8

    def check(self, request: Asks) -> None:
        """Refuse what is more.

        Raises:
            ApiError: 400, by name.
        """
        width = beams_of(request)
        for name, asked, most in (
            ("n", request.n or 1, self.n),
            ("best_of", request.best_of or 1, self.best_of),
            ("beam_width", width.width if width is not None else 1, self.beam_width),
        ):
            if asked > most:
                raise invalid_request(f"{name}: {asked} is more than {most} ([ingress] max_{name}).", param=name)


def check(request: Asks) -> None:
    """Refuse contradictions.

    Raises:
        ApiError: 400, by name.
    """
    n, samples = request.n or 1, samples_of(request)
    if request.best_of is not None and request.best_of < n:
        raise invalid_request(f"best_of: {request.best_of} samples are fewer than n of {n}.", param="best_of")
    if request.use_beam_search:
        _check_beams(request, n)
        return
    for name in _OF_BEAMS:
        if getattr(request, name) is not None:
            raise invalid_request(f"{name}: only with use_beam_search.", param=name)
    if samples == n:
        if request.best_of_scorer is not None:
            raise invalid_request("best_of_scorer: needs best_of above n.", param="best_of_scorer")
        return
    if request.streams:
        raise unsupported_parameter("best_of", "best_of: not in a stream; which is the best is known at the end.")
    if request.temperature == 0:
        raise unsupported_parameter("best_of", "best_of: at temperature 0 all samples are the same.")


def samples_of(request: Asks) -> int:
    """How many samples a prompt gets; of a search, its answers."""
    return request.n or 1 if request.use_beam_search else max(request.best_of or 1, request.n or 1)


def wants_logprobs(request: Asks) -> bool:
    """Whether samples are judged by their log probabilities, whoever else wants to see them."""
    return samples_of(request) > (request.n or 1) and request.best_of_scorer in (None, MEAN_LOGPROB)


def beams_of(request: Asks) -> Beams | None:
    """The search that is asked for; None where none is."""
    if not request.use_beam_search:
        return None
    n = request.n or 1
    penalty, early = request.length_penalty, request.early_stopping
    width = request.beam_width or request.best_of or n  # vLLM has no name for it
    return Beams(width, n, 1.0 if penalty is None else penalty, False if early is None else early)


def pool_of(request: Asks) -> TokenPool | None:
    """The tokens that all samples may draw together; None where nobody counts."""
    return TokenPool(request.max_total_tokens) if request.max_total_tokens is not None else None


def check_scored(tokens: int, alternatives: int, times: int) -> None:
    """Refuse to score prompts of so many tokens, so many times, where an answer cannot hold what comes of it.

    Raises:
        ApiError: 400.
    """
    values = times * (alternatives + 1) * tokens
    if values > MOST_SCORED:
        raise invalid_request(
            f"prompt_logprobs: the prompts have {values} log probabilities with {alternatives} alternatives for each "
            f"token, of at most {MOST_SCORED}; ask for fewer alternatives, or score them in parts.",
            param="prompt_logprobs",
        )


def shares(request: Asks) -> list[int | None]:
    """Tokens of `max_total_tokens` that each sample may have where nobody here sees them being drawn: equal parts, the
    first ones one more. None where nobody counts."""
    samples, total = samples_of(request), request.max_total_tokens
    if total is None:
        return [None] * samples
    each, more = divmod(total, samples)
    return [each + (number < more) for number in range(samples)]


def _check_beams(request: Asks, n: int) -> None:
    if request.streams:
        raise unsupported_parameter("use_beam_search", "use_beam_search: not in a stream; beams are known at the end.")
    beams = beams_of(request)
    assert beams is not None
    if beams.width < n:
        raise invalid_request(f"beam_width: {beams.width} beams are fewer than n of {n}.", param="beam_width")
    if request.best_of_scorer is not None:
        raise invalid_request("best_of_scorer: beams are ranked by their own score.", param="best_of_scorer")
    for name, harmless in _HARMLESS.items():
        value = getattr(request, name, None)  # not each surface has each
        if value is not None and value not in harmless:
            why = _WHY.get(name, "beams are not drawn")
            raise unsupported_parameter(name, f"{name}: not with use_beam_search; {why}.")
