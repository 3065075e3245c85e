"""A served model as a judge of texts: a question, and a pattern for its answer. It runs on the same workers as
everything else, is accounted to whoever's text it judges, and is never guarded itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from bus.config import GuardConfig
from bus.messages.requests import Sampling
from ingress.api.jobs import chat_ids
from ingress.api.schema_chat import UserMessage
from ingress.engine import Engine, Job
from ingress.guards.look import Look, Whose

Ask = Callable[[str, Whose], Awaitable[Look]]


def judge(engine: Engine, now_ns: Callable[[], int], config: GuardConfig) -> Ask:
    """A function that has a text judged. It raises what the engine does; its deadline is its caller's."""
    turns = asyncio.Semaphore(config.concurrency)
    verdict = re.compile(config.verdict, re.IGNORECASE)

    async def ask(text: str, whose: Whose) -> Look:
        question = config.prompt.replace("{text}", text)
        async with turns:
            said = await _said(engine, now_ns(), config, question, whose)
        found = verdict.search(said)
        return Look(found is not None, found[0][:40] if found is not None else "")

    return ask


async def _said(engine: Engine, now_ns: int, config: GuardConfig, question: str, whose: Whose) -> str:
    model = engine.model(config.model)
    if model.template is not None:
        ids = await chat_ids(
            model, [UserMessage(question)], add_generation_prompt=True, continue_final_message=False, extra=None
        )
    else:
        ids = await model.encode(question, special=False)
    stream = await engine.open(
        Job(
            model=model.name,
            prompt=ids,
            sampling=Sampling(temperature=0.0),
            max_tokens=config.tokens,
            tenant=whose.tenant,
            key=whose.key,
            received_ns=now_ns,
        )
    )
    text = ""
    try:
        async for piece in stream:
            text += piece.text
            if piece.finish is not None and piece.finish.reason in ("error", "abort"):
                raise RuntimeError(f"{config.model} did not answer: {piece.finish.error or piece.finish.reason}")
    finally:
        stream.abort("deadline")  # nothing happens to one that has ended
    return text
