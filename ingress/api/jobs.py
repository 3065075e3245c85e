"""From a checked request to jobs for the engine: template, tokenise, translate. No answers here.

Whether a prompt fits and its ids are in the vocabulary is the engine's check: it knows the model's limits as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from bus.messages.requests import Grammar, Sampling, Thought
from ingress.api import manner
from ingress.api.schema_chat import AssistantMessage, ChatRequest, DeveloperMessage, FunctionMessage, Message
from ingress.api.schema_common import Generation
from ingress.api.schema_completion import CompletionRequest
from ingress.api.validate import prompts_of
from ingress.drawing import Drawing, drawing_of
from ingress.engine import Job, ServedModel
from ingress.errors import invalid_request
from ingress.gate.roster import Grantee
from ingress.samples.asked import beams_of, check_scored, pool_of, samples_of, shares, wants_logprobs
from ingress.samples.pool import TokenPool
from ingress.text.control import ControlNames
from ingress.text.prompt import Rendered
from ingress.text.prompt import render as render_prompt
from ingress.text.reasoning import Thinking
from ingress.timing import Marks

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions only
# Version, trace id, parent id, flags; ids that are all zero name nothing.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
_INLINE_MESSAGES = 64  # templates are rendered in place up to so many messages and characters, else in a thread
_INLINE_CHARACTERS = 16_384


class Caller(NamedTuple):
    """Who asks, and since when.

    Attributes:
        tenant: whom the work is accounted to; part of the prefix cache's key.
        owner: who may resume the answer.
        received_ns: CLOCK_MONOTONIC when the request was read.
        seed: to draw with where the request names none; None is any.
        marks: is told when the prompt is rendered and tokenised.
        key: whose credentials were shown, for accounting; empty where nobody is told apart.
        traceparent: of the trace that the caller is in; empty where it named none.
        headers: of the answer, beside its own: what is found out on the way is appended.
        batch: it does not wait for the answer: others go first.
        weight: of the tenant among tenants.
        authorization: what was shown, for asking other ingresses in the caller's name; never kept.
        sibling: another ingress asks for its own client, and has asked everybody else itself.
        earlier: items of the stored conversation that the call goes on with, as JSON; empty where it begins one.
        cache_control: the header of that name.
        partition: whom cached prompts are shared with; None is the tenant.
        grantee: whose key was shown; None where none is asked for.
        request: the number that the first request of the call gets; 0 is any.
        named: is told the id under which the client will know the answer.
        called: what the client calls its request; empty where it does not.
        once: the call's `Idempotency-Key`, where what it makes is not an answer.
    """

    tenant: str
    owner: str
    received_ns: int
    seed: int | None = None
    marks: Marks | None = None
    key: str = ""
    traceparent: str = ""
    headers: list[tuple[bytes, bytes]] | None = None
    batch: bool = False
    weight: float = 1.0
    authorization: str = ""
    sibling: bool = False
    earlier: bytes = b""
    cache_control: str = ""
    partition: str | None = None
    grantee: Grantee | None = None
    request: int = 0
    named: Callable[[str], None] = lambda _: None
    called: str = ""
    once: str = ""


def tier_of(request: object) -> Literal["default", "flex"]:
    """How a call wants to be served: `flex` is behind all that is not."""
    return "flex" if getattr(request, "service_tier", None) == "flex" else "default"


def owner_of(authorization: str) -> str:
    """Whoever shows the same credentials is the same owner. Never the credentials themselves."""
    return hashlib.sha256(authorization.encode()).hexdigest() if authorization else ""


def traceparent(given: str) -> str:
    """The caller's place in a trace, in version 00 of W3C Trace Context; empty where it is not one.

    What a later version appends is left out, as that asks for; version 00 has nothing after its flags.
    """
    match = _TRACEPARENT.fullmatch(given.strip())
    return f"00{match[2]}" if match is not None and (match[1] != "00" or match[3] is None) else ""


class Prompt(NamedTuple):
    """One prompt of a call.

    Attributes:
        text: as given; None where ids were given, or where it is a rendered template.
        ids: its token ids.
        estimate: how many there are, where a model elsewhere has ids of its own.
    """

    text: str | None
    ids: list[int]
    estimate: int = 0

    @property
    def tokens(self) -> int:
        """How many there are, as far as is known before it is answered."""
        return len(self.ids) or self.estimate


class Settled(NamedTuple):
    """What a plan took from elsewhere than its call: with it, the same call is the same plan again.

    Attributes:
        prompts: token ids of each.
        seed: of choice 0.
        grammar: that was tried; empty where there is none.
        drawing: that the model recommends; see `ingress.drawing`.
    """

    prompts: list[list[int]]
    seed: int
    grammar: str = ""
    drawing: Drawing = Drawing()


class Plan(NamedTuple):
    """What a call wants: `n` answers to each prompt, out of `samples` streams. Stream `i` is of prompt `i // samples`,
    and of job `i`, or, where answers are searched for, of job `i // samples`.

    Attributes:
        drawn: `samples`, where that is not `n`.
        drawing: what the call is drawn with.
        recommended: what it is drawn with where it does not say.
    """

    prompts: list[Prompt]
    jobs: list[Job]
    n: int
    seed: int = 0
    streams: bool = True
    grammar: str = ""
    drawn: int = 0
    drawing: Drawing = Drawing()
    recommended: Drawing = Drawing()

    @property
    def samples(self) -> int:
        """Streams of each prompt."""
        return self.drawn or self.n

    @property
    def settled(self) -> Settled:
        """For the same plan again."""
        return Settled([prompt.ids for prompt in self.prompts], self.seed, self.grammar, self.recommended)


async def plan_chat(request: ChatRequest, model: ServedModel, caller: Caller, settled: Settled | None = None) -> Plan:
    """The jobs of a chat completion.

    Raises:
        ApiError: 400, the messages cannot be rendered or tokenised.
    """
    if settled is not None:
        prompts = [Prompt(None, ids) for ids in settled.prompts]
    else:
        prompts = [Prompt(None, await ids_of(request, model, caller.marks))]
    alternatives = -1 if not request.logprobs else request.top_logprobs or 0
    thinking = manner.thinking_of(request, model, prompts[0].ids)
    budget = manner.reasoning_of(request, model).budget
    calling = manner.calling_of(request, model)
    if settled is not None:
        text = settled.grammar
    elif calling is not None:
        text = await manner.calls_grammar(calling, request, model, caller.tenant, thinking)
    else:
        text = await manner.grammar(request, model, caller.tenant, thinking)
    return _plan(
        request, model.name, caller, model.drawing, prompts, settled, request.limit, alternatives,
        request.prompt_logprobs, manner.followed(text, model), thinking,
        calling.style.name if calling is not None else "", manner.bounded(thinking, budget, model),
    )  # fmt: skip


def plan_elsewhere(request: ChatRequest, name: str, caller: Caller, tokens: int) -> Plan:
    """The same for a model elsewhere, which makes its own prompt of the messages.

    Args:
        tokens: of the prompt, estimated.
    """
    alternatives = -1 if not request.logprobs else request.top_logprobs or 0
    plan = _plan(
        request, name, caller, Drawing(), [Prompt(None, [], tokens)], None, request.limit, alternatives, None, None
    )
    jobs = [_with_share(job, share) for job, share in zip(plan.jobs, shares(request), strict=True)]
    return plan._replace(jobs=jobs)


def _with_share(job: Job, share: int | None) -> Job:
    """Every sample is a call of its own there, which reads its own prompt, and has a pool of its own."""
    if share is None:
        return msgspec.structs.replace(job, counts_prompt=True)
    limit = share if job.max_tokens is None else min(job.max_tokens, share)
    return msgspec.structs.replace(job, counts_prompt=True, max_tokens=limit, pool=TokenPool(share))


async def ids_of(request: ChatRequest, model: ServedModel, marks: Marks | None = None) -> list[int]:
    """Token ids of a chat's prompt.

    Raises:
        ApiError: see `chat_ids`; 400, the model calls no tools, or cannot be asked to think so.
    """
    calling = manner.calling_of(request, model)
    return await chat_ids(
        model,
        request.messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        extra=manner.reasoning_of(request, model).variables,
        allow_special_tokens=request.allow_special_tokens,
        marks=marks,
        tools=calling.offer.for_template() if calling is not None else None,
    )


async def plan_completion(
    request: CompletionRequest, model: ServedModel, caller: Caller, settled: Settled | None = None
) -> Plan:
    """The jobs of a completion: prompts times n.

    Raises:
        ApiError: 400, a prompt cannot be tokenised.
    """
    prompts = [
        Prompt(part, settled.prompts[index] if settled is not None else await model.encode(part))
        if isinstance(part, str)
        else Prompt(None, part)
        for index, part in enumerate(prompts_of(request))
    ]
    alternatives = -1 if request.logprobs is None else request.logprobs
    echoed = request.logprobs if request.echo else None
    scored = max((count for count in (request.prompt_logprobs, echoed) if count is not None), default=None)
    limit = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    text = settled.grammar if settled is not None else await manner.grammar(request, model, caller.tenant)
    return _plan(
        request,
        model.name,
        caller,
        model.drawing,
        prompts,
        settled,
        limit,
        alternatives,
        scored,
        manner.followed(text, model),
    )


async def chat_ids(
    model: ServedModel,
    messages: list[Message],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool | None,
    extra: Mapping[str, Any] | None,
    allow_special_tokens: bool | None = None,
    marks: Marks | None = None,
    tools: list[dict[str, Any]] | None = None,
) -> list[int]:
    """Token ids of rendered messages.

    Args:
        allow_special_tokens: names of control tokens in the messages become these tokens.

    Raises:
        ApiError: 400, the model has no template, or it cannot render or tokenise these messages.
    """
    template = model.template
    if template is None:
        raise invalid_request(
            f"The model {model.name!r} has no chat template; use /v1/completions.", param="messages", code="no_template"
        )

    def render(plain: list[dict[str, Any]]) -> Rendered:
        return render_prompt(
            template,
            ControlNames(()) if allow_special_tokens else model.control,
            plain,
            add_generation_prompt=not continue_final_message
            if add_generation_prompt is None
            else add_generation_prompt,
            continue_final_message=bool(continue_final_message),
            extra=extra,
            tools=tools,
        )

    try:
        plain = [_plain(message) for message in messages]
        size = sum(len(str(message.get("content"))) for message in plain) + (len(str(tools)) if tools else 0)
        small = len(plain) <= _INLINE_MESSAGES and size <= _INLINE_CHARACTERS
        rendered = render(plain) if small else await asyncio.to_thread(render, plain)
    except RecursionError:  # arguments of tools and variables of the template may be anything
        raise invalid_request("The messages are nested too deeply.", param="messages", code="invalid_json") from None
    if marks is not None:
        marks.rendered()
    return await model.encode_prompt(rendered)


def _plain(message: Message) -> dict[str, Any]:
    """A message as templates know it: OpenAI's dictionary, under the roles that models were trained with."""
    plain: dict[str, Any] = {
        "role": message.__struct_config__.tag,
        **{name: value for name, value in msgspec.to_builtins(message).items() if value is not None},
    }
    if isinstance(message, DeveloperMessage):
        plain["role"] = "system"
    elif isinstance(message, FunctionMessage):
        plain["role"] = "tool"
    elif isinstance(message, AssistantMessage):
        if (call := plain.pop("function_call", None)) is not None:
            plain.setdefault("tool_calls", [{"id": "", "type": "function", "function": call}])
        if "content" not in plain and message.refusal is not None:
            plain["content"] = message.refusal
        plain.pop("annotations", None)
    return plain


def _plan(
    request: Generation,
    name: str,
    caller: Caller,
    recommended: Drawing,
    prompts: list[Prompt],
    settled: Settled | None,
    limit: int | None,
    alternatives: int,
    prompt_logprobs: int | None,
    grammar: Grammar | None,
    thinking: Thinking | None = None,
    calls: str = "",
    thought: Thought | None = None,
) -> Plan:
    if caller.marks is not None:
        caller.marks.tokenized()
    if settled is not None:
        seed, recommended = settled.seed, settled.drawing
    elif (named := request.seed if request.seed is not None else caller.seed) is not None:
        seed = named
    else:
        seed = secrets.randbits(63)
    beams, samples, pool = beams_of(request), samples_of(request), pool_of(request)
    drawn = 1 if beams is not None else samples
    if prompt_logprobs is not None:
        check_scored(sum(prompt.tokens for prompt in prompts), prompt_logprobs, drawn if request.streams else 1)
    call = caller.request or secrets.randbits(63) if len(prompts) * drawn > 1 else 0
    if pool is not None and limit is not None:
        limit = min(limit, pool.size)
    drawing = drawing_of(request, recommended)
    sampling = Sampling(
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        top_k=drawing.top_k,
        min_p=drawing.min_p,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=tuple((request.logit_bias or {}).items()),
        logprobs=max(alternatives, 0) if wants_logprobs(request) else alternatives,
        grammar=grammar,
        thought=thought,
    )

    def jobs() -> Iterator[Job]:
        for index, prompt in enumerate(prompts):
            for choice in range(drawn):
                yield Job(
                    model=name,
                    prompt=prompt.ids,
                    estimate=prompt.estimate,
                    sampling=msgspec.structs.replace(sampling, seed=(seed + choice) % 2**64),
                    max_tokens=limit,
                    min_tokens=request.min_tokens or 0,
                    stop=request.stop_strings,
                    stop_token_ids=tuple(request.stop_token_ids or ()),
                    ignore_eos=bool(request.ignore_eos),
                    include_stop=bool(request.include_stop_str_in_output),
                    priority=request.priority or 0,
                    cache_salt=request.cache_salt or "",
                    tenant=caller.tenant,
                    partition=caller.partition,
                    key=caller.key,
                    counts_prompt=choice == 0,
                    traceparent=caller.traceparent,
                    batch=caller.batch or tier_of(request) == "flex",
                    weight=caller.weight,
                    # The same for every choice of a prompt: asked for once, or each would compute all of it.
                    prompt_logprobs=-1 if prompt_logprobs is None or choice else prompt_logprobs,
                    skip_special_tokens=request.skip_special_tokens is not False,
                    received_ns=caller.received_ns,
                    marks=caller.marks,
                    timing=bool(request.include_timing),
                    thinking=thinking,
                    calls=calls,
                    request=caller.request if index == choice == 0 else 0,
                    call=call,
                    pool=pool,
                    beams=beams,
                )

    return Plan(
        prompts, list(jobs()), request.n or 1, seed, request.streams, grammar.text if grammar is not None else "",
        samples, drawing, recommended,
    )  # fmt: skip
