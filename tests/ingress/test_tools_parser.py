"""Calls told apart from text: any cut of an answer gives what the whole gives, and every way of writing calls is read
as its grammar writes it."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.grammar.tried import new_tokenizer
from ingress.models import ServedModel
from ingress.streams import Part, joined
from ingress.tools.offered import Offered, offered
from ingress.tools.styles import STYLES, style_of

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"}},
    "required": ["city"],
    "additionalProperties": False,
}
OFFER = offered(
    [
        {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}},
        {"type": "function", "function": {"name": "now"}},
    ],
    "auto",
    parallel=None,
)
assert OFFER is not None

CALLS = [
    Part("tool", '{"city": "Rome", "days": 3}', 0, "get_weather"),
    Part("tool", "{}", 1, "now"),
]
_V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
WRITTEN = {
    "hermes": 'Wait.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "mistral": 'Wait.[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}, '
    '{"name": "now", "arguments": {}}]',
    "mistral_args": 'Wait.[TOOL_CALLS]get_weather[ARGS]{"city": "Rome", "days": 3}[TOOL_CALLS]now[ARGS]{}',
    "deepseek": f'Wait.<｜tool▁calls▁begin｜>{_V3}get_weather\n```json\n{{"city": "Rome", "days": 3}}\n'
    f"```<｜tool▁call▁end｜>\n{_V3}now\n```json\n{{}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v31": "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    '{"city": "Rome", "days": 3}'
    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "llama3": '{"name": "get_weather", "parameters": {"city": "Rome", "days": 3}}; {"name": "now", "parameters": {}}',
    "pythonic": '[get_weather(city="Rome", days=3), now()]',
}
PLAIN = ["", "Hello.", "a < b, [see] {this}", "<tool_call", "<tool_callx", "[TOOL_CALL]", "1. first\n\n2. second\n"]


def told(name: str, *pieces: str) -> tuple[Part, ...]:
    parser = STYLES[name].parser()
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined([*parts, *parser.flush()])


def accepts(grammar: str, text: str) -> bool:
    """Whether a whole text is in a grammar; bytes are tokens."""
    matcher = llguidance.LLMatcher(new_tokenizer(), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())


@pytest.mark.parametrize("name", STYLES)
def test_calls_and_the_text_before_them(name: str) -> None:
    before = [Part("text", "Wait.")] if WRITTEN[name].startswith("Wait.") else []
    assert list(told(name, WRITTEN[name])) == [*before, *CALLS]


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("text", PLAIN)
def test_text_without_calls_is_text_as_it_is(name: str, text: str) -> None:
    assert "".join(part.text for part in told(name, text)) == text
    assert all(part.kind == "text" for part in told(name, text))


_pieces = st.lists(
    st.sampled_from(
        [*WRITTEN.values(), *PLAIN, "<tool_call>", "</tool_call>", '{"name": "', '", "arguments": ', "[now(", "now(a=",
         "[TOOL_CALLS]", "[ARGS]", "```json", '"\\"', "}}", "{", "[", "]", ")", ",", ":", " ", "\n", "é"]
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(STYLES)), pieces=_pieces, cuts=st.lists(st.integers(1, 9), max_size=40))
def test_any_cut_gives_what_the_whole_gives(name: str, pieces: list[str], cuts: list[int]) -> None:
    """Well formed or not, broken off anywhere."""
    text = "".join(pieces)
    parts, at = [], 0
    for cut in cuts:
        parts.append(text[at : at + cut])
        at += cut
    assert told(name, *parts, text[at:]) == told(name, text)


@pytest.mark.parametrize("name", STYLES)
def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(name: str) -> None:
    text = WRITTEN[name]
    for end in range(len(text)):
        for part in told(name, text[:end]):
            if part.kind == "tool":
                whole = CALLS[part.call]
                assert part.name == whole.name
                assert whole.text.startswith(part.text) or part.text == "{}"


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_the_grammar_of_a_style_is_what_its_parser_reads(name: str, mode: Any) -> None:
    assert OFFER is not None
    text = STYLES[name].grammar(OFFER._replace(mode=mode), None, {})
    written = WRITTEN[name].removeprefix("Wait.").lstrip()
    assert accepts(text, written)
    assert accepts(text, "Hello.") == (mode == "auto")
    assert not accepts(text, written.replace("Rome", "Ro\nme"))
    assert not accepts(text, written.replace("get_weather", "get_whether"))
    assert not accepts(text, written.replace("days", "daze"))


@pytest.mark.parametrize("name", STYLES)
def test_one_call_where_only_one_may_be_made(name: str) -> None:
    assert OFFER is not None
    written = WRITTEN[name].removeprefix("Wait.").lstrip()
    alone = STYLES[name].grammar(OFFER._replace(mode="required", parallel=False), None, {})
    assert not accepts(alone, written)
    named = Offered(OFFER.tools, "required", "now", False)
    assert not accepts(STYLES[name].grammar(named, None, {}), written)


def test_an_answer_by_schema_or_a_call() -> None:
    assert OFFER is not None
    text = STYLES["hermes"].grammar(OFFER, None, {}, '%json {"type": "integer"}')
    assert accepts(text, "12")
    assert accepts(text, WRITTEN["hermes"].removeprefix("Wait.\n"))
    assert not accepts(text, "twelve")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.text(), st.integers(), st.booleans(), st.none())))
def test_arguments_of_any_kind_come_back(arguments: dict[str, Any]) -> None:
    """In JSON, and as Python writes them."""
    hermes = f"<tool_call>\n{json.dumps({'name': 'f', 'arguments': arguments})}\n</tool_call>"
    (call,) = told("hermes", hermes)
    assert json.loads(call.text) == arguments
    (call,) = told("pythonic", f"[f({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]")
    assert json.loads(call.text) == arguments


@pytest.mark.model
def test_templates_tell_their_style(qwen: ServedModel) -> None:
    assert qwen.calls is STYLES["hermes"]
    assert style_of("{{ messages }}") is None
