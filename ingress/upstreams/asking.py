"""What of a call can be said to an upstream. Nothing is left out in silence: what an upstream has no words for is
refused by name, and a route looks for a model that has. Pure."""

from __future__ import annotations

from typing import Any, Final

from bus.config.upstreams import Capability, UpstreamKind
from ingress.api.schema_chat import AudioPart, ChatRequest, FilePart, ImagePart, ObjectFormat, TextFormat
from ingress.api.schema_common import Generation
from ingress.samples.asked import samples_of, wants_logprobs
from ingress.tools.offered import Offered, offered

# Parameter -> (values that change nothing, the capability that it needs).
_NEEDS: Final[dict[str, tuple[tuple[Any, ...], Capability]]] = {
    "response_format": ((TextFormat(),), "json"),
    "reasoning_effort": (("none",), "reasoning"),
    "thinking_token_budget": ((), "reasoning"),
    "seed": ((), "seed"),
    "presence_penalty": ((0.0,), "penalties"),
    "frequency_penalty": ((0.0,), "penalties"),
    "logprobs": ((False,), "logprobs"),
    "top_k": ((0, -1), "sampling"),
    "min_p": ((0.0,), "sampling"),
    "repetition_penalty": ((1.0,), "sampling"),
    "min_tokens": ((0,), "sampling"),
}

# What is about this server's own templates, tokens and clocks: (values that change nothing).
_OURS: Final[dict[str, tuple[Any, ...]]] = {
    "logit_bias": ({},),
    "stop_token_ids": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "return_token_ids": (False,),
    "prompt_logprobs": (),
    "include_timing": (False,),
    "add_generation_prompt": (True,),
    "chat_template_kwargs": ({},),
    "thinking_token_budget": (),
    "allow_special_tokens": (False,),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "use_beam_search": (False,),
}

# What one of the languages has no words for, beside what a capability says.
_UNSPOKEN: Final[dict[UpstreamKind, tuple[str, ...]]] = {
    "openai": ("continue_final_message",),
    "anthropic": ("min_p", "repetition_penalty", "min_tokens", "reasoning_effort"),
}


def needs(request: Generation) -> dict[Capability, str]:
    """Capabilities that a call uses, each with a parameter that says so."""
    found: dict[Capability, str] = {}
    for name, (harmless, capability) in _NEEDS.items():
        value = getattr(request, name, None)
        if value is not None and value not in harmless:
            found.setdefault(capability, name)
    if wants_logprobs(request):
        found.setdefault("logprobs", "best_of")
    if isinstance(request, ChatRequest):
        for index, message in enumerate(request.messages):
            for part in message.content if isinstance(message.content, list) else ():
                if isinstance(part, (ImagePart, FilePart)):
                    found.setdefault("images", f"messages[{index}].content")
                elif isinstance(part, AudioPart):
                    found.setdefault("audio", f"messages[{index}].content")
        if offer_of(request) is not None:
            found["tools"] = "tools"
    return found


def offer_of(chat: ChatRequest) -> Offered | None:
    """What a chat's answer may call; None where that is nothing.

    Raises:
        ApiError: 400, its tools are none.
    """
    return offered(chat.tools, chat.tool_choice, parallel=chat.parallel_tool_calls)


# Of what `needs` names, what the models of this host have too. Those whose template knows tools have these besides, and
# one that thinks "reasoning".
LOCAL: Final[frozenset[Capability]] = frozenset({"json", "seed", "penalties", "logprobs", "sampling"})


def unspoken(request: Generation, kind: UpstreamKind) -> str:
    """A parameter that no upstream of a kind can be told; empty where there is none."""
    for name, harmless in _OURS.items():
        value = getattr(request, name, None)
        if value is not None and value not in harmless:
            return name
    if request.max_total_tokens is not None and request.max_total_tokens < samples_of(request):
        return "max_total_tokens"  # each sample has a part of it there, and one of nothing cannot be asked for
    if kind == "anthropic" and isinstance(getattr(request, "response_format", None), ObjectFormat):
        return "response_format"  # of any object: it takes a schema or nothing
    for name in _UNSPOKEN[kind]:
        value = getattr(request, name, None)
        if value and value not in _NEEDS.get(name, ((), ""))[0]:
            return name
    return ""
