"""How much a model shall think: what its template and configuration make of an effort, or of a budget. Pure.

| asked for | what is done |
|---|---|
| effort `none` | the template's switch; without one, the thought is closed at its first token |
| effort `minimal` to `xhigh` | the template's own variable; without one, a budget of tokens |
| a budget | the engine closes a thought that has used it up, in the model's own manner |

What `[model.reasoning.efforts]` says of an effort goes before all that. Variables that a call names itself go before
any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from bus.config.reasoning import ReasoningConfig
from ingress.api.schema_common import Effort
from ingress.errors import unsupported_parameter
from ingress.text.reasoning import Tags, Thinking, tags_of, thinking_after
from ingress.text.tokenizer import Tokenizer

# Variables of templates that are true where the model shall think: Qwen 3, GLM and others; DeepSeek V3.1, Granite.
_SWITCHES: Final = ("enable_thinking", "thinking")
_VARIABLE: Final = "reasoning_effort"  # of templates that know efforts themselves
_BUDGETS: Final[Mapping[str, int]] = {"minimal": 512, "low": 2048, "medium": 8192}  # more has no bound
_END_TOKENS: Final = 32  # of a prompt, in which its last mark is found


class Asked(NamedTuple):
    """What one call asks for.

    Attributes:
        variables: of the template.
        budget: of thinking tokens; None is any number.
    """

    variables: Mapping[str, Any] | None
    budget: int | None = None


class Reasoning:
    """How one model thinks.

    Attributes:
        tags: what its thoughts stand between; None where it has none.
        closing: ids that close a thought, as a text that the model could have written.
    """

    def __init__(self, config: ReasoningConfig, template: str, tokenizer: Tokenizer) -> None:
        configured = config.tags
        self.tags = tags_of(template) if configured == "auto" else Tags(*configured) if configured else None
        self.closing: tuple[int, ...] = ()
        if self.tags is not None:
            self.closing = tuple(tokenizer.encode(config.closing or f"\n{self.tags.close}\n\n", special=False))
        self._tokenizer = tokenizer
        self._efforts = {
            name: value
            for name in config.efforts.__struct_fields__
            if (value := getattr(config.efforts, name)) != "auto"
        }
        # As a word of the template's code: `{% if enable_thinking ... %}`, not a message's or a tool's.
        code = " ".join(re.findall(r"\{[%{](.*?)[%}]\}", template, re.DOTALL))
        self._switch = next((name for name in _SWITCHES if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", code)), "")
        self._variable = bool(re.search(rf"(?<![\w.'\"]){_VARIABLE}(?![\w'\"])", code))

    @property
    def known(self) -> bool:
        """Whether it can be asked for anything."""
        return self.tags is not None or self._variable or bool(self._switch) or bool(self._efforts)

    def shows(self, control: Mapping[str, int]) -> bool:
        """Whether a mark is a control token, which has to be seen to be found."""
        return self.tags is not None and any(mark in control for mark in self.tags)

    def thinking(self, prompt: Sequence[int], begun: str = "") -> Thinking | None:
        """How the answer to a prompt, as ids, may think; None where it does not. begun: see `thinking_after`."""
        if self.tags is None:
            return None
        return thinking_after(self._tokenizer.decode(prompt[-_END_TOKENS:], skip_special=False), self.tags, begun)

    def asked(self, effort: Effort | None, budget: int | None, variables: Mapping[str, Any] | None) -> Asked:
        """What a call asks for, by an effort, a budget, which goes before it, and its own variables of the template.

        Raises:
            ApiError: 400, this model cannot be asked for it.
        """
        if budget is not None and self.tags is None:
            raise unsupported_parameter(
                "thinking_token_budget", "thinking_token_budget: this model has no thoughts that could be closed "
                "([model.reasoning] tags names the marks around them).",
            )  # fmt: skip
        if effort is None:
            on = {self._switch: True} if budget and self._switch else {}
            return Asked({**on, **(variables or {})} or None, budget)
        own, bound = self._meant(effort)
        return Asked({**own, **(variables or {})} or None, bound if budget is None else budget)

    def _meant(self, effort: Effort) -> tuple[Mapping[str, Any], int | None]:
        """Variables and budget of an effort."""
        on = {self._switch: effort != "none"} if self._switch else {}
        match self._efforts.get(effort):
            case int(budget):
                return on, budget
            case dict() as variables:
                return cast("Mapping[str, Any]", variables), None
        if effort == "none":
            return on, 0 if self.tags is not None and not on else None
        if self._variable:
            return {**on, _VARIABLE: effort}, None
        if self.tags is None and not on:
            raise unsupported_parameter(
                "reasoning_effort", 'reasoning_effort: this model does not think before it answers; only "none".'
            )
        return on, _BUDGETS.get(effort) if self.tags is not None else None
