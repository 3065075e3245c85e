"""Chat templates: messages to the text that the model was trained on. As Hugging Face renders them.

Templates come with model files and are code, so they run in jinja2's immutable sandbox, bounded in time and size; what
clients send is only ever data to them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ingress.errors import ApiError, internal, invalid_request

Message = Mapping[str, Any]
Rewrite = Callable[[str, str], str]
"""What a client wrote, and the role it wrote it in, to what the template gets instead."""

MAX_RENDERED_CHARACTERS: Final = 64 << 20
MAX_RENDER_S: Final = 10.0

# Marks where the last message ends in the rendered text; the template may add anything after it. The space shows
# whether the template trims content.
_CONTINUE: Final = "<<headrace continues here>> "


class BadTemplate(ValueError):
    """The model's chat template does not compile."""


class ChatTemplate:
    """One model's template. Rendering keeps no state.

    Args:
        source: the jinja text.
        special_tokens: `bos_token`, `eos_token` and so on, which templates use by name.

    Raises:
        BadTemplate: it does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._special_tokens = {"bos_token": "", "eos_token": "", **(special_tokens or {})}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise BadTemplate(f"the chat template does not compile: {error}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: Mapping[str, Any] | None = None,
        rewrite: Rewrite | None = None,
    ) -> str:
        """The prompt for these messages (OpenAI's format; content a string, `None`, or a list of text parts).

        Args:
            tools: OpenAI tool definitions, given to the template as they are.
            continue_final_message: the last message is not closed: the model goes on with it. Excludes
                `add_generation_prompt`.
            extra: further variables of the template (`chat_template_kwargs`).
            rewrite: for every text that a client wrote: contents, names, arguments and their keys, tools, variables.

        Raises:
            ApiError: 400, the messages are not what the template can render; it says why.
        """
        if continue_final_message and add_generation_prompt:
            raise invalid_request(
                "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
            )
        if not messages:
            raise invalid_request("At least one message is needed.", param="messages")
        plain = [_plain(message, index) for index, message in enumerate(messages)]
        if rewrite is not None:
            plain = [_rewritten_message(message, rewrite) for message in plain]
            tools = _rewritten(tools, rewrite, "system")
            extra = _rewritten(extra, rewrite, "system")
        final = ""
        if continue_final_message:
            final = plain[-1].get("content") or ""
            plain[-1]["content"] = final + _CONTINUE
        variables = {
            **self._special_tokens,
            **(extra or {}),
            "messages": plain,
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(variables)
        return _cut(text, final) if continue_final_message else text

    def _run(self, variables: Mapping[str, Any]) -> str:
        until = time.monotonic() + MAX_RENDER_S
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(variables):
                parts.append(part)
                size += len(part)
                if size > MAX_RENDERED_CHARACTERS or time.monotonic() > until:
                    raise internal("The chat template took too long or made too much text.")
        except ApiError:
            raise
        except Exception as error:  # a template is a program: it can fail in every way that Python can
            raise invalid_request(
                f"The chat template cannot render these messages: {error}", param="messages"
            ) from None
        return "".join(parts)


def from_directory(path: Path) -> str | None:
    """The template text of a Hugging Face directory: `chat_template.jinja`, else `tokenizer_config.json`'s.

    Raises:
        BadTemplate: the configuration is no JSON.
    """
    own = path / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    configured = path / "tokenizer_config.json"
    if not configured.is_file():
        return None
    try:
        template = json.loads(configured.read_text(encoding="utf-8")).get("chat_template")
    except ValueError as error:
        raise BadTemplate(f"{configured} cannot be read: {error}") from None
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _plain(message: Message, index: int) -> dict[str, Any]:
    """A message as templates expect it: content as one string, tool-call arguments as objects."""
    plain = dict(message)
    content = plain.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        plain["content"] = "\n".join(
            _part_text(part, f"messages[{index}].content[{at}]") for at, part in enumerate(content)
        )
    elif content is None and not plain.get("tool_calls"):
        plain["content"] = ""
    if calls := plain.get("tool_calls"):
        plain["tool_calls"] = [
            _parsed_call(call, f"messages[{index}].tool_calls[{at}]") for at, call in enumerate(calls)
        ]
    return plain


def _part_text(part: Mapping[str, Any], where: str) -> str:
    kind = part.get("type")
    text = part.get("text" if kind in ("text", "input_text") else "refusal" if kind == "refusal" else "")
    if not isinstance(text, str):
        raise invalid_request(f"Content of type {kind!r} is not supported; this model reads text.", param=where)
    return text


def _parsed_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    # Clients send arguments as a JSON string; templates write them with `tojson`, which would quote them again.
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise invalid_request(
                f"Tool-call arguments are not JSON: {error}", param=f"{where}.function.arguments"
            ) from None
    return {**call, "function": function}


def _rewritten_message(message: Message, rewrite: Rewrite) -> dict[str, Any]:
    """Everything in it but what the schema fixes: its role, and the types of calls."""
    role = message["role"]
    done = {key: value if key == "role" else _rewritten(value, rewrite, role) for key, value in message.items()}
    for call, given in zip(done.get("tool_calls") or (), message.get("tool_calls") or (), strict=True):
        call.update({"type": given["type"]} if "type" in given else {})
    return done


def _rewritten(value: Any, rewrite: Rewrite, role: str) -> Any:
    match value:
        case str():
            return rewrite(value, role)
        case Mapping():
            return {rewrite(str(key), role): _rewritten(item, rewrite, role) for key, item in value.items()}
        case Sequence():
            return [_rewritten(item, rewrite, role) for item in value]
        case _:
            return value


def _cut(text: str, final: str) -> str:
    """The text up to where the last message's content ends."""
    before, mark, after = text.rpartition(_CONTINUE.rstrip())
    if not mark or final.strip() not in before:
        raise invalid_request(
            "The chat template does not keep the last message's text, so it cannot be continued.",
            param="continue_final_message",
        )
    return before if after.startswith(" ") else before.rstrip()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model wrote, for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own escapes <, >, & and ' for HTML, which gives other token ids than the model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # local time: templates mean the user's date
