"""From bytes to a checked request, or to a 400 that names the parameter. Pure.

Types and ranges are in the schemas; here is what they cannot say: which known parameters are refused, and what two
parameters say together. Checks that need a model (token ids against its vocabulary) are in `jobs`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar, get_args

import msgspec

from bus.config.upstreams import Capability
from ingress.api.schema_chat import AssistantMessage, AudioPart, ChatRequest, FilePart, ImagePart, Message
from ingress.api.schema_common import MAX_CHOICES, Generation
from ingress.api.schema_completion import CompletionRequest
from ingress.api.schema_encoding import MAX_INPUTS, EmbeddingRequest, RerankRequest
from ingress.api.schema_other import DetokenizeRequest, LoadAdapterRequest, TokenizeRequest, UnloadAdapterRequest
from ingress.errors import ApiError, invalid_request, unsupported_parameter
from ingress.grammar.wanted import ends_whole, wanted
from ingress.samples.asked import check as check_samples
from ingress.samples.asked import samples_of
from ingress.tools.offered import offered

T = TypeVar("T")

Offers = frozenset[Capability]
NOTHING: Offers = frozenset()
EVERYTHING: Offers = frozenset(get_args(Capability))

Refusals = Mapping[str, tuple[tuple[Any, ...], str]]
"""Parameter -> (values that change nothing, why any other is refused). Null always passes."""

_SEE_THINKING = "see reasoning_effort, thinking_token_budget and chat_template_kwargs"
_CHAT_REFUSALS: Refusals = {
    "audio": ((), "no served model speaks"),
    "enable_thinking": ((), _SEE_THINKING),
    "function_call": (("none",), "functions are not called; only \"none\" is served"),
    "include_reasoning": ((True,), "what is thought is told apart, and always told"),
    "modalities": ((["text"],), "only text is generated"),
    "moderation": ((), "there is no moderation here"),
    "prediction": ((), "predicted outputs are not served"),
    "prompt_cache_options": ((), "the prefix cache has no options; see cache_salt"),
    "prompt_cache_retention": (("in_memory",), "prefixes are kept as long as there is room, no longer"),
    "reasoning": ((), _SEE_THINKING),
    "service_tier": (("auto", "default", "flex"), "there are two tiers; see priority"),
    "store": ((False,), "answers are not stored"),
    "thinking": ((), _SEE_THINKING),
    "thinking_budget": ((), "its name here is thinking_token_budget"),
    "verbosity": (("medium",), "there is no setting for verbosity; say it in the prompt"),
    "web_search_options": ((), "there is no web search"),
}  # fmt: skip
_COMPLETION_REFUSALS: Refusals = {
    "suffix": (("",), "filling in the middle is not served"),
}
_STREAM_REFUSALS: Refusals = {
    "include_obfuscation": ((False,), "chunks are not padded"),
    "continuous_usage_stats": ((False,), "usage comes at the end; see include_usage"),
}


# What a model elsewhere may take, and none of this host does, by what it is then said to offer.
_PARTS: dict[type, Capability] = {ImagePart: "images", FilePart: "images", AudioPart: "audio"}


def decode(body: bytes, kind: type[T]) -> T:
    """The body as a struct.

    Raises:
        ApiError: 400, with the path of the parameter that is wrong.
    """
    try:
        # First, as the JSON decoder does not look into values it skips.
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid_request(f"The body is not UTF-8: byte {error.start} is wrong.", code="invalid_utf8") from None
    try:
        request: T = _decoder(kind).decode(body)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise wrong_type(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = "The body is empty; a JSON object is expected." if not body.strip() else f"Not JSON: {error}"
        raise invalid_request(problem, code="invalid_json") from None
    except RecursionError:
        raise invalid_request("The body is nested too deeply.", code="invalid_json") from None
    return request


def chat_request(body: bytes, offers: Offers = NOTHING) -> ChatRequest:
    """Decode and check the body of a chat completion.

    Args:
        offers: what the model that it names can do beyond those of this host.

    Raises:
        ApiError: 400.
    """
    request = decode(body, ChatRequest)
    if request.functions and request.function_call != "none":
        raise unsupported_parameter("functions", 'functions: not called here; only with function_call "none".')
    refuse(request, _CHAT_REFUSALS)
    _check_generation(request)
    check_messages(request.messages, offers)
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise invalid_request("max_tokens and max_completion_tokens differ; give one.", param="max_tokens")
    _check_min_tokens(request, request.limit)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid_request("top_logprobs needs logprobs to be true.", param="top_logprobs")
    check_template(request.add_generation_prompt, request.continue_final_message, request.messages)
    check_answer(request)
    return request


def check_answer(request: ChatRequest) -> None:
    """Refuse what a chat cannot ask of its answer.

    Raises:
        ApiError: 400.
    """
    asked = wanted(request)
    offer = offered(request.tools, request.tool_choice, parallel=request.parallel_tool_calls)
    if offer is None:
        return
    if asked is not None and asked.kind != "json":
        raise invalid_request(f"{asked.param}: not beside tools.", param=asked.param)
    ends_whole(request, "tools")


def completion_request(body: bytes) -> CompletionRequest:
    """Decode and check the body of a completion.

    Raises:
        ApiError: 400.
    """
    request = decode(body, CompletionRequest)
    refuse(request, _COMPLETION_REFUSALS)
    _check_generation(request)
    prompts, samples = prompts_of(request), samples_of(request)
    if len(prompts) * samples > MAX_CHOICES:
        name = "n" if samples == (request.n or 1) else "best_of"
        raise invalid_request(
            f"{len(prompts)} prompts times {name} of {samples} are more than {MAX_CHOICES} choices.", param="prompt"
        )
    if request.max_tokens == 0 and not (request.echo and request.logprobs is not None):
        raise invalid_request("max_tokens of 0 needs echo and logprobs: it scores the prompt.", param="max_tokens")
    if request.max_tokens == 0 and (request.use_beam_search or samples > (request.n or 1)):
        raise invalid_request("max_tokens of 0 scores the prompt: there is nothing to choose from.", param="max_tokens")
    if request.use_beam_search and request.echo and request.logprobs is not None:
        raise unsupported_parameter("echo", "echo: not with use_beam_search and logprobs; the prompt is not scored.")
    _check_min_tokens(request, request.max_tokens)
    wanted(request)
    return request


def load_adapter_request(body: bytes) -> LoadAdapterRequest:
    """Decode the body of `/v1/load_lora_adapter`.

    Raises:
        ApiError: 400.
    """
    return decode(body, LoadAdapterRequest)


def unload_adapter_request(body: bytes) -> UnloadAdapterRequest:
    """Decode the body of `/v1/unload_lora_adapter`.

    Raises:
        ApiError: 400.
    """
    return decode(body, UnloadAdapterRequest)


def tokenize_request(body: bytes) -> TokenizeRequest:
    """Decode and check the body of `/tokenize`.

    Raises:
        ApiError: 400.
    """
    request = decode(body, TokenizeRequest)
    if (request.prompt is None) == (request.messages is None):
        raise invalid_request("Give prompt or messages, one of them.", param="prompt")
    if request.messages is not None:
        check_messages(request.messages)
        check_template(request.add_generation_prompt, request.continue_final_message, request.messages)
    return request


def detokenize_request(body: bytes) -> DetokenizeRequest:
    """Decode the body of `/detokenize`.

    Raises:
        ApiError: 400.
    """
    return decode(body, DetokenizeRequest)


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a completion, each as text or as token ids.

    Raises:
        ApiError: 400, text and ids mixed, or an empty prompt.
    """
    return _texts(request.prompt, "prompt")


def embedding_request(body: bytes) -> EmbeddingRequest:
    """Decode and check the body of an embeddings call.

    Raises:
        ApiError: 400.
    """
    request = decode(body, EmbeddingRequest)
    if (count := len(inputs_of(request))) > MAX_INPUTS:
        raise invalid_request(f"{count} inputs are more than {MAX_INPUTS}.", param="input")
    return request


def rerank_request(body: bytes) -> RerankRequest:
    """Decode the body of a rerank call.

    Raises:
        ApiError: 400.
    """
    return decode(body, RerankRequest)


def inputs_of(request: EmbeddingRequest) -> list[str | list[int]]:
    """The inputs of an embeddings call, each as text or as token ids.

    Raises:
        ApiError: 400, text and ids mixed.
    """
    return _texts(request.input, "input")


def _texts(given: str | list[str | int | list[int]], param: str) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if all(isinstance(part, int) for part in given):
        return [[part for part in given if isinstance(part, int)]]
    texts: list[str | list[int]] = []
    kind = type(given[0])
    for index, part in enumerate(given):
        if isinstance(part, int) or type(part) is not kind:
            raise invalid_request(f"Texts and token ids cannot be mixed in one {param}.", param=f"{param}[{index}]")
        if isinstance(part, list) and not part:
            raise invalid_request(f"Token ids of one {param} must be at least one.", param=f"{param}[{index}]")
        texts.append(part)
    return texts


def check_messages(messages: list[Message], offers: Offers = NOTHING) -> None:
    """Refuse what no template can show a model.

    Raises:
        ApiError: 400.
    """
    for where, message in ((f"messages[{index}]", message) for index, message in enumerate(messages)):
        if isinstance(message, AssistantMessage):
            if message.audio is not None:
                raise unsupported_parameter(f"{where}.audio", f"{where}.audio: no served model speaks.")
            if message.content is None and not (message.tool_calls or message.function_call or message.refusal):
                raise invalid_request("An assistant's message needs content or tool_calls.", param=f"{where}.content")
        for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, (ImagePart, AudioPart, FilePart)) and _PARTS[type(part)] not in offers:
                kind = part.__struct_config__.tag
                raise unsupported_parameter(
                    f"{where}.content[{index}]", f"Content of type {kind} is not served: text only."
                )


def check_template(add_prompt: bool | None, continue_final: bool | None, messages: list[Message]) -> None:
    """Refuse contradictions about where the model goes on.

    Raises:
        ApiError: 400.
    """
    if not continue_final:
        return
    if add_prompt:
        raise invalid_request(
            "add_generation_prompt and continue_final_message exclude each other.", param="continue_final_message"
        )
    if not messages[-1].content:
        raise invalid_request("There is no content to continue.", param=f"messages[{len(messages) - 1}].content")


def _check_generation(request: Generation) -> None:
    if request.stream_options is not None:
        if not request.streams:
            raise invalid_request("stream_options needs stream to be true.", param="stream_options")
        refuse(request.stream_options, _STREAM_REFUSALS, "stream_options.")
    if request.prompt_logprobs is not None and request.streams:
        raise unsupported_parameter("prompt_logprobs", "prompt_logprobs: not in a stream; set stream to false.")
    check_samples(request)
    for key in request.logit_bias or ():
        if key < 0:
            raise invalid_request(f"logit_bias: {key} is not a token id.", param="logit_bias")


def _check_min_tokens(request: Generation, limit: int | None) -> None:
    if request.min_tokens and limit is not None and request.min_tokens > limit:
        raise invalid_request(f"min_tokens {request.min_tokens} is more than max_tokens {limit}.", param="min_tokens")


def refuse(request: msgspec.Struct, refusals: Refusals, prefix: str = "") -> None:
    """Refuse by name what has another value than one that changes nothing.

    Raises:
        ApiError: 400 `unsupported_parameter`.
    """
    for name, (harmless, why) in refusals.items():
        value = getattr(request, name)
        # `is` and type first: in Python 0 == False, on the wire it is not.
        if value is not None and not any(type(value) is type(other) and value == other for other in harmless):
            raise unsupported_parameter(prefix + name, f"{prefix}{name}: {why}.")


@lru_cache(maxsize=32)
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def wrong_type(message: str, within: str = "") -> ApiError:
    """msgspec's message, which ends in "- at `$.messages[0].content`", as OpenAI says it.

    Args:
        within: the path of the value that was looked at, where that was not the whole body.
    """
    problem, _, where = message.partition(" - at ")
    path = _joined(within, "".join(_path(where)))
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        name = f"{path}.{unknown[1]}".lstrip(".")
        return invalid_request(f"Unknown parameter: {name!r}.", param=name[:256], code="unknown_parameter")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", problem, re.DOTALL):
        name = f"{path}.{missing[1]}".lstrip(".")
        return invalid_request(f"Missing required parameter: {name!r}.", param=name, code="missing_required_parameter")
    problem = problem[0].lower() + problem[1:]
    if not path:
        return invalid_request(f"The body is wrong: {problem}.", code="invalid_type")
    return invalid_request(f"Invalid value for {path!r}: {problem}.", param=path, code="invalid_value")


def _joined(within: str, path: str) -> str:
    return f"{within}.{path}" if within and path and not path.startswith("[") else within + path


def _path(where: str) -> Iterator[str]:
    """`$.messages[0].content` or "`key` in `$.logit_bias`" as `messages[0].content`, `logit_bias`."""
    if located := re.search(r"`\$\.?([^`]*)`", where):
        yield located[1].replace("[...]", "")
