"""What an effort or a budget means to a model, by its template and its configuration; and grammars after thoughts."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest
from tiny_tokenizer import tiny_metadata

from bus.config import EffortsConfig, ReasoningConfig
from ingress.errors import ApiError
from ingress.grammar.tried import new_tokenizer
from ingress.grammar.wanted import Wanted
from ingress.grammar.writing import grammar
from ingress.text.effort import Asked, Reasoning
from ingress.text.reasoning import THINK, Tags, Thinking
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
PLAIN = "{{ messages }}"
R1 = "{{ messages }}</think>{% if add_generation_prompt %}<think>\n{% endif %}"
QWEN3 = "{{ messages }}<think></think>{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}"
KNOWS = "{% set e = reasoning_effort | default('medium') %}{{ messages }}"
GRANITE = "{%- if thinking %}<think></think>{% endif %}{{ messages }}"


def of(template: str, **config: Any) -> Reasoning:
    return Reasoning(ReasoningConfig(**config), template, TINY)


@pytest.mark.parametrize(
    ("template", "effort", "expected"),
    [
        (PLAIN, None, Asked(None)),
        (PLAIN, "none", Asked(None)),
        (R1, None, Asked(None)),
        (R1, "none", Asked(None, 0)),
        (R1, "low", Asked(None, 2048)),
        (R1, "high", Asked(None)),
        (QWEN3, "none", Asked({"enable_thinking": False})),
        (QWEN3, "medium", Asked({"enable_thinking": True}, 8192)),
        (GRANITE, "xhigh", Asked({"thinking": True})),
        (KNOWS, "low", Asked({"reasoning_effort": "low"})),
        (KNOWS, "none", Asked(None)),
    ],
)
def test_an_effort_is_what_the_template_can_do(template: str, effort: Any, expected: Asked) -> None:
    assert of(template).asked(effort, None, None) == expected


def test_words_of_messages_are_no_switches() -> None:
    for template in ("enable_thinking {{ messages }}", "{{ messages.thinking }}", "{{ 'thinking' }}"):
        assert not of(template).known


def test_configuration_goes_before_the_template_and_calls_before_both() -> None:
    efforts = EffortsConfig(low=7, none={"mode": "quiet"}, high={"thinking_budget": 9})
    asked = of(QWEN3, efforts=efforts).asked
    assert asked("low", None, None) == Asked({"enable_thinking": True}, 7)
    assert asked("none", None, None) == Asked({"mode": "quiet"})
    assert asked("high", None, {"thinking_budget": 1, "x": 2}) == Asked({"thinking_budget": 1, "x": 2})
    assert asked("low", 3, None) == Asked({"enable_thinking": True}, 3)
    assert asked(None, 3, {"enable_thinking": False}) == Asked({"enable_thinking": False}, 3)


@pytest.mark.parametrize(
    ("template", "effort", "budget", "param"),
    [
        (PLAIN, "low", None, "reasoning_effort"),
        (PLAIN, None, 5, "thinking_token_budget"),
        (KNOWS, None, 5, "thinking_token_budget"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(template: str, effort: Any, budget: int | None, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        of(template).asked(effort, budget, None)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_marks_and_closing_are_the_templates_or_the_configurations() -> None:
    def closing(reasoning: Reasoning) -> str:
        return TINY.decode(reasoning.closing)

    assert (of(R1).tags, closing(of(R1))) == (THINK, "\n</think>\n\n")
    assert of(R1, tags=()).tags is None
    own = of(PLAIN, tags=("<r>", "</r>"), closing="Enough.\n</r>\n")
    assert (own.tags, closing(own)) == (Tags("<r>", "</r>"), "Enough.\n</r>\n")
    assert own.thinking(TINY.encode("x<r>\n")) == Thinking(Tags("<r>", "</r>"), opened=True)


YES = Wanted("choice", ["yes", "no"], "")
OWN = Wanted("grammar", 'start: "yes" | "no"', "")
MAY, DOES = Thinking(THINK, opened=False), Thinking(THINK, opened=True)


@pytest.mark.parametrize("asked", [YES, OWN])
@pytest.mark.parametrize(
    ("thinking", "text", "accepted"),
    [
        (None, "yes", True),
        (None, "<think>a</think>yes", False),
        (MAY, "yes", True),
        (MAY, "<think>{a</think>\n\nyes", True),
        (MAY, "a</think>yes", False),
        (DOES, "{a\n</think>\n\nno", True),
        (DOES, "</think>no", True),
        (DOES, "no", False),
        (DOES, "a</think>perhaps", False),
    ],
)
def test_a_grammar_is_about_what_follows_a_thought(
    asked: Wanted, thinking: Thinking | None, text: str, accepted: bool
) -> None:
    matcher = llguidance.LLMatcher(new_tokenizer(), grammar(asked, thinking, {}), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    assert (bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())) == accepted


class _Marks:
    """Bytes, and two control tokens that are marks."""

    is_tokenizer_wrapper = True
    eos_token_id = 258
    bos_token_id = None
    special_token_ids = (256, 257, 258)
    tokens = (*(bytes([value]) for value in range(256)), b"[THINK]", b"[/THINK]", b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("opened", [False, True])
def test_marks_that_are_control_tokens_are_these_tokens(opened: bool) -> None:
    tokenizer = llguidance.LLTokenizer(_Marks(), n_vocab=259, eos_token=258, slices=[])  # type: ignore[arg-type]
    text = grammar(YES, Thinking(Tags("[THINK]", "[/THINK]"), opened), {"[THINK]": 256, "[/THINK]": 257})
    first = [] if opened else [256]
    for written, accepted in (
        ([*first, *b"hm", 257, *b"\nyes"], True),
        ([*first, 257, *b"no"], True),
        ([*first, *b"hm[/THINK]yes"], False),
    ):
        matcher = llguidance.LLMatcher(tokenizer, text, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        assert (bool(matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting())) == accepted
