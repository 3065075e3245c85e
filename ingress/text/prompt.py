"""A conversation to the text of its prompt, in which only the template's own control tokens are some. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ingress.errors import invalid_request
from ingress.text.control import ControlNames, free_mark
from ingress.text.template import ChatTemplate, Message, Rewrite


class Rendered(NamedTuple):
    """A prompt. `mark` breaks the names in it that are no tokens; empty where there are none."""

    text: str
    mark: str = ""


def render(
    template: ChatTemplate,
    names: ControlNames,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    extra: Mapping[str, Any] | None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Rendered:
    """Render messages.

    Raises:
        ApiError: 400, the template cannot, or what is in the messages would become a control token all the same.
    """

    def rendered(rewrite: Rewrite) -> str:
        return template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            extra=extra,
            rewrite=rewrite,
        )

    look = _Look(names.like)
    text = rendered(look)
    if not look.found:
        return Rendered(text)
    # Only now and then, so it may cost: the prompt is rendered twice more.
    mark = free_mark((text, *look.texts))
    broken = rendered(names.broken(mark))
    if names.written(broken) != names.written(rendered(names.harmless(mark))):
        raise invalid_request(
            "The messages have names of the model's control tokens, which its chat template cannot keep apart from its "
            "own. allow_special_tokens lets them be control tokens.",
            param="messages",
            code="control_tokens",
        )
    return Rendered(broken, mark)


class _Look:
    """Changes nothing, and remembers whether anything was found."""

    def __init__(self, like: Callable[[str, str], bool]) -> None:
        self._like = like
        self.found = False
        self.texts: list[str] = []

    def __call__(self, text: str, role: str) -> str:
        self.texts.append(text)
        self.found = self.found or self._like(text, role)
        return text
