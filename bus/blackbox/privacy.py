"""What of a message is not recorded: prompts, answers, token ids and embeddings unless `[blackbox] content` says so;
keys never.

What is taken out leaves its length: a packed array or a body is replaced by four bytes that say how long it was. So a
recorded message still decodes, and still tells how many tokens there were. A test looks at every message type there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from bus.messages.accounts import Directory
from bus.messages.batches import Answered, Ask, Part, Piece
from bus.messages.caching import CacheReport
from bus.messages.clients import Call, CallFailed, Chunk, Reply, Resume
from bus.messages.control import AccountsHeld, Actions, AddKey, GuardsTried, ReplaceSecret, TryGuards
from bus.messages.details import PagesReply
from bus.messages.pages import Leased, Lookup, Prefetch, Seal
from bus.messages.requests import Deltas, Encoded, PromptLogprobs, Sampling, Submit
from bus.messages.steps import SlotOpen, StepPlan, StepResult
from bus.messages.vitals import HotPrefix, SchedulerView

Hide = Callable[[Any], Any]


def hidden(data: bytes) -> bytes:
    """In place of `data`."""
    return len(data).to_bytes(4, "little") if data else b""


def length_of(mark: bytes) -> int:
    """How long it was."""
    return int.from_bytes(mark, "little")


def _call(call: Call) -> Call:
    return replace(call, body=hidden(call.body), authorization="")


def _resume(resume: Resume) -> Resume:
    return replace(resume, authorization="") if resume.authorization else resume


def _body(message: Chunk | Reply | CallFailed) -> Chunk | Reply | CallFailed:
    return replace(message, body=hidden(message.body))


def _asked(ask: Ask | Answered) -> Ask | Answered:
    return replace(ask, body=hidden(ask.body))


def _part(part: Part | Piece) -> Part | Piece:
    return replace(part, data=hidden(part.data))


def _sampling(sampling: Sampling) -> Sampling:
    if not sampling.logit_bias and not sampling.suppress and sampling.grammar is None:
        return sampling
    # A schema names what its writer's business is about.
    return replace(sampling, logit_bias=(), suppress=hidden(sampling.suppress), grammar=None)


def _submit(submit: Submit) -> Submit:
    return replace(
        submit,
        prompt=hidden(submit.prompt),
        emitted=hidden(submit.emitted),
        root=hidden(submit.root),
        digests=hidden(submit.digests),
        stop_token_ids=hidden(submit.stop_token_ids),
        sampling=_sampling(submit.sampling),
    )


def _deltas(deltas: Deltas) -> Deltas:
    if deltas.logprobs:
        return replace(deltas, tokens=hidden(deltas.tokens), logprobs=())
    return replace(deltas, tokens=hidden(deltas.tokens))


def _prompt_logprobs(message: PromptLogprobs) -> PromptLogprobs:
    return replace(message, values=())


def _opened(opened: SlotOpen) -> SlotOpen:
    return replace(opened, tokens=hidden(opened.tokens), sampling=_sampling(opened.sampling))


def _plan(plan: StepPlan) -> StepPlan:
    return replace(plan, opens=tuple(_opened(opened) for opened in plan.opens)) if plan.opens else plan


def _encoded(encoded: Encoded) -> Encoded:
    return replace(encoded, vectors=hidden(encoded.vectors))


def _result(result: StepResult) -> StepResult:
    if result.vectors:  # much of a text can be read out of its embedding
        result = replace(result, vectors=hidden(result.vectors))
    if result.logprobs or result.prompt_logprobs:
        return replace(result, tokens=hidden(result.tokens), logprobs=(), prompt_logprobs=())
    return replace(result, tokens=hidden(result.tokens))


def _seal(seal: Seal) -> Seal:
    return replace(seal, digests=hidden(seal.digests), parents=hidden(seal.parents))


def _digests(message: Lookup | Prefetch) -> Lookup | Prefetch:
    return replace(message, digests=hidden(message.digests))


def _leased(leased: Leased) -> Leased:
    return replace(leased, evicted=hidden(leased.evicted)) if leased.evicted else leased


def _prefix(prefix: HotPrefix) -> HotPrefix:
    return replace(prefix, digest=hidden(prefix.digest))


def _scheduler_view(view: SchedulerView) -> SchedulerView:
    return replace(view, prefixes=tuple(map(_prefix, view.prefixes)))


def _actions(answer: Actions) -> Actions:
    """The audit log is in its own files."""
    return replace(answer, records=())


def _pages_reply(reply: PagesReply) -> PagesReply:
    return replace(reply, prefixes=tuple(replace(one, prefix=_prefix(one.prefix)) for one in reply.prefixes))


def _cache_report(report: CacheReport) -> CacheReport:
    return replace(report, pairs=())


def _try_guards(message: TryGuards) -> TryGuards:
    return replace(message, text="?" * min(len(message.text), 1))


def _guards_tried(message: GuardsTried) -> GuardsTried:
    return replace(message, text="?" * min(len(message.text), 1))


def _call_key(call: Call) -> Call:
    return replace(call, authorization="") if call.authorization else call


def _directory(message: Directory | AccountsHeld) -> Directory | AccountsHeld:
    return replace(message, keys=()) if message.keys else message


def _new_key(message: AddKey) -> AddKey:
    return replace(message, key=replace(message.key, digest=b"", previous=b""))


def _new_secret(message: ReplaceSecret) -> ReplaceSecret:
    return replace(message, digest=b"")


# Who has a key is nobody's business, whatever the configuration says.
KEYS: Final[dict[type, Hide]] = {
    Call: _call_key,
    Resume: _resume,
    Directory: _directory,
    AccountsHeld: _directory,
    AddKey: _new_key,
    ReplaceSecret: _new_secret,
}

# Digests are of the prompt's tokens: with a guess of it they tell whether it was right.
CONTENT: Final[dict[type, Hide]] = {
    **KEYS,
    Call: _call,
    Resume: _resume,
    Chunk: _body,
    Reply: _body,
    CallFailed: _body,
    Ask: _asked,
    Answered: _asked,
    Part: _part,
    Piece: _part,
    Submit: _submit,
    Deltas: _deltas,
    Encoded: _encoded,
    PromptLogprobs: _prompt_logprobs,
    StepPlan: _plan,
    StepResult: _result,
    Seal: _seal,
    Lookup: _digests,
    Prefetch: _digests,
    Leased: _leased,
    SchedulerView: _scheduler_view,
    PagesReply: _pages_reply,
    Actions: _actions,
    CacheReport: _cache_report,
    TryGuards: _try_guards,
    GuardsTried: _guards_tried,
}
