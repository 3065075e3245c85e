"""What makes one sample better than another: its log probabilities, or a served model's opinion.

An encoder that reranks (or a reward model in its form) scores the pair of question and answer. A model that generates
is asked, as a judge, whether the answer is a good one: the score is how probable its yes is, beside its no. Both run on
the same workers as everything else, and are accounted to whoever asked.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bus.messages.requests import Sampling
from ingress.api.jobs import Caller, Plan, chat_ids
from ingress.api.schema_chat import ChatRequest, Message, UserMessage
from ingress.api.schema_common import Generation
from ingress.encoding import EncodeJob, Tokens
from ingress.engine import Engine, Job, Piece, ServedModel
from ingress.errors import ApiError, invalid_request
from ingress.samples.asked import MEAN_LOGPROB
from ingress.samples.best import BLOCKED, mean_logprob
from ingress.samples.choosing import Choosing, Score
from ingress.streams import parts_of
from ingress.text.tokenizer import Tokenizer

JUDGE: Final = (
    "Here are a request and an answer to it.\n\nRequest:\n{request}\n\nAnswer:\n{answer}\n\n"
    "Is this a good answer: correct, complete and to the point? Say only Yes or No."
)
ALTERNATIVES: Final = 20
PATIENCE: Final = 8  # times that a scorer with too much to do is asked again; the samples are there, and wait
WAIT_S: Final = 4.0  # at most so long each time


def choosing(request: object, plan: Plan, tokenizer: Tokenizer | None, engine: Engine, caller: Caller) -> Choosing:
    """How the answers of a call come of its streams.

    Args:
        tokenizer: reads prompts that are token ids; None where the model is elsewhere.
    """
    if not isinstance(request, Generation) or plan.samples == plan.n:
        return Choosing(plan.n, plan.samples)
    name = request.best_of_scorer or MEAN_LOGPROB
    if name == MEAN_LOGPROB:
        return Choosing(plan.n, plan.samples, _by_logprob)
    return Choosing(plan.n, plan.samples, _by_model(request, plan, tokenizer, engine, engine.model(name), caller))


def check_scorer(request: Generation, engine: Engine, may_use: Callable[[str], bool]) -> None:
    """Refuse a scorer that is none.

    Args:
        may_use: whether the caller may use a model.

    Raises:
        ApiError: 400, by name.
    """
    name = request.best_of_scorer
    if name is None or name == MEAN_LOGPROB:
        return
    model = engine.models.get(name)
    if model is None or not may_use(name):
        raise invalid_request(
            f"best_of_scorer: {name!r} is neither {MEAN_LOGPROB} nor a model that is served here.",
            param="best_of_scorer",
        )
    if model.kind == "embed":
        raise invalid_request(
            f"best_of_scorer: {name!r} makes embeddings; one that reranks or generates is needed.",
            param="best_of_scorer", code="wrong_model_kind",
        )  # fmt: skip


async def _by_logprob(prompt: int, samples: Sequence[Piece]) -> list[float]:  # noqa: ARG001 (the same shape for all)
    if any(not sample.raw and not sample.logprobs and said(sample) for sample in samples):
        raise ApiError(
            502, "server_error", "best_of: the server that drew the samples gave no log probabilities to choose by.",
            code="upstream_failed",
        )  # fmt: skip
    return [mean_logprob(sample) for sample in samples]


def _by_model(
    request: Generation, plan: Plan, tokenizer: Tokenizer | None, engine: Engine, model: ServedModel, caller: Caller
) -> Score:
    judged = _judged if model.kind == "generate" else _reranked

    async def score(prompt: int, samples: Sequence[Piece]) -> list[float]:
        question = _question(request, plan, prompt, tokenizer, whole=model.kind == "generate")
        return list(await asyncio.gather(*(once(question, sample) for sample in samples)))

    async def once(question: str, sample: Piece) -> float:
        if sample.finish is not None and sample.finish.reason == "content_filter":
            return BLOCKED
        for left in range(PATIENCE, -1, -1):
            try:
                return await judged(engine, model, question, said(sample), caller)
            except ApiError as error:
                if not left or error.status not in (429, 503):
                    error.message = f"best_of_scorer: {error.message}"
                    raise
                await asyncio.sleep(min(WAIT_S, error.retry_after_s or 1.0))
        raise AssertionError("the last try returns or raises")

    return score


async def _reranked(engine: Engine, model: ServedModel, question: str, answer: str, caller: Caller) -> float:
    ids, segment = await asyncio.to_thread(model.tokenizer.sequence, question, answer, at_most=model.context_tokens)
    done = await engine.encode(
        model,
        EncodeJob(
            sequences=(Tokens(ids, segment),), param="best_of_scorer", tenant=caller.tenant, key=caller.key,
            batch=caller.batch, weight=caller.weight, received_ns=caller.received_ns,
        ),
    )  # fmt: skip
    return float(done.vectors[0][0])


async def _judged(engine: Engine, model: ServedModel, question: str, answer: str, caller: Caller) -> float:
    room = model.context_tokens - 1
    # What is long loses its beginning: first in characters, so that there is not much to encode, then in tokens.
    asked = JUDGE.replace("{request}", question[-2 * room :]).replace("{answer}", answer[-2 * room :])
    if model.template is not None:
        messages: list[Message] = [UserMessage(asked)]
        ids = await chat_ids(
            model, messages, add_generation_prompt=True, continue_final_message=False, extra={"enable_thinking": False}
        )
    else:
        ids = await model.encode(asked + "\n", special=False)
    ids = ids[-room:]
    stream = await engine.open(
        Job(
            model=model.name, prompt=ids, sampling=Sampling(logprobs=ALTERNATIVES), max_tokens=1,
            tenant=caller.tenant, key=caller.key, batch=caller.batch, weight=caller.weight,
            received_ns=caller.received_ns,
        )
    )  # fmt: skip
    pieces = [piece async for piece in stream]
    finish = pieces[-1].finish
    if finish is not None and finish.reason in ("error", "abort"):
        raise ApiError(500, "server_error", finish.error or f"{model.name} did not answer.", code="generation_failed")
    return yes(
        (text.decode("utf-8", "replace"), logprob)
        for piece in pieces
        for token in piece.logprobs
        for _, text, logprob in token.top
    )


def said(sample: Piece) -> str:
    """A sample as a judge reads it: what it says, and the tools that it calls; not what it thought."""
    return "".join(
        f"{part.name} {part.text}" if part.call >= 0 else part.text
        for part in parts_of(sample)
        if part.kind != "reasoning"
    )


def yes(alternatives: Iterable[tuple[str, float]]) -> float:
    """How probable a yes is beside a no, from 0 to 1; a half where neither is among a token's alternatives.

    Args:
        alternatives: pairs of text and log probability.
    """
    said = {"yes": 0.0, "no": 0.0}
    for text, logprob in alternatives:
        word = text.strip().lower()
        if word in said:
            said[word] += math.exp(logprob)
    both = said["yes"] + said["no"]
    return said["yes"] / both if both else 0.5


def _question(request: Generation, plan: Plan, prompt: int, tokenizer: Tokenizer | None, *, whole: bool) -> str:
    """What was asked, as text: of a conversation all of it, or what the user said last."""
    if not isinstance(request, ChatRequest):
        asked = plan.prompts[prompt]
        if asked.text is not None or tokenizer is None:
            return asked.text or ""
        return tokenizer.decode(asked.ids, skip_special=True)
    said = [(message.__struct_config__.tag, _text(message)) for message in request.messages]
    if whole:
        return "\n".join(f"{role}: {text}" for role, text in said)
    return next((text for role, text in reversed(said) if role == "user"), said[-1][1])


def _text(message: Message) -> str:
    content = message.content
    if isinstance(content, list):
        return "\n".join(getattr(part, "text", "") for part in content)
    return content or ""
