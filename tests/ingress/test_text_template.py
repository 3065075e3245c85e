"""Chat templates render as Hugging Face's own function does, and bad messages are the client's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

import ingress.text.template as template_module
from ingress.errors import ApiError
from ingress.models import ServedModel
from ingress.text.template import BadTemplate, ChatTemplate, from_directory

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & 'here' in Köln 🌧",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hello <b>&'\"</b> 😀"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  spaced \n"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %} <|im_end|>"},
    ],
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln <x>"}}}
TOOL_CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Köln?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"degrees": 7}'},
    {"role": "tool", "tool_call_id": "c2", "content": "rain"},
]


def reference(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    rendered, _ = render_jinja_template(conversations=[messages], chat_template=source, **options)
    return str(rendered[0])


@pytest.mark.model
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_real_templates_equal_transformers(smollm2: ServedModel, qwen: ServedModel, chat: str, prompt: bool) -> None:
    for model in (smollm2, qwen):
        assert model.template is not None
        ours = model.template.render(CHATS[chat], add_generation_prompt=prompt)
        assert ours == reference(model.template.source, CHATS[chat], add_generation_prompt=prompt)


@pytest.mark.model
def test_tools_equal_transformers(qwen: ServedModel) -> None:
    assert qwen.template is not None
    ours = qwen.template.render(TOOL_CHAT, tools=[WEATHER])
    assert ours == reference(qwen.template.source, TOOL_CHAT, tools=[WEATHER], add_generation_prompt=True)
    assert "Köln <x>" in ours  # neither escaped for HTML nor for ASCII


@pytest.mark.model
def test_arguments_that_come_as_json_text_are_objects_to_the_template(qwen: ServedModel) -> None:
    assert qwen.template is not None
    as_text = [dict(message) for message in TOOL_CHAT]
    function = {"name": "get_weather", "arguments": '{"city": "Köln <x>"}'}
    as_text[1]["tool_calls"] = [{**CALL, "function": function}]
    assert qwen.template.render(as_text) == qwen.template.render(TOOL_CHAT)


@pytest.mark.model
@pytest.mark.parametrize("final", ["The sky is", "ends in a space ", "x"])
def test_the_last_message_is_continued_as_transformers_does(
    smollm2: ServedModel, qwen: ServedModel, final: str
) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": final}]
    for model in (smollm2, qwen):
        assert model.template is not None
        ours = model.template.render(messages, add_generation_prompt=False, continue_final_message=True)
        assert ours == reference(model.template.source, messages, continue_final_message=True)
        assert ours.endswith(final)


TRIMMING = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"


def test_a_template_that_trims_is_continued_without_the_space() -> None:
    messages = [{"role": "assistant", "content": "so far "}]
    ours = ChatTemplate(TRIMMING).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert ours == reference(TRIMMING, messages, continue_final_message=True) == "[so far"


def test_a_template_that_drops_the_message_cannot_be_continued() -> None:
    with pytest.raises(ApiError, match="cannot be continued"):
        ChatTemplate("fixed").render(
            [{"role": "assistant", "content": "x"}], add_generation_prompt=False, continue_final_message=True
        )


def test_parts_are_joined_and_other_kinds_refused_by_place() -> None:
    echo = ChatTemplate("{{ messages[0].content }}")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert echo.render([{"role": "user", "content": parts}]) == "a\nb"
    with pytest.raises(ApiError) as caught:
        echo.render([{"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": "x"}}]}])
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[2]")


def test_arguments_that_are_no_json_are_refused_by_place() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{nope"}}
    with pytest.raises(ApiError) as caught:
        ChatTemplate("x").render([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + none }}", "cannot render"),
        ("{{ messages[3].content.x.y }}", "cannot render"),
        ("{{ ''.__class__.__mro__ }}", "cannot render"),
        ("{{ messages.append(1) }}", "cannot render"),
    ],
)
def test_what_the_template_refuses_is_a_400(source: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])
    assert caught.value.status == 400


def test_the_fields_extras_are_there() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') | length }}{{ mood }}"
        "{{ {'b': 1, 'a': '<ü>'} | tojson(indent=1) }}"
    )
    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    rendered = ChatTemplate(source, {"bos_token": "<s>"}).render(messages, extra={"mood": "calm"})
    assert rendered == '<s>one4calm{\n "b": 1,\n "a": "<ü>"\n}'


def test_rendering_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_RENDERED_CHARACTERS", 1000)
    with pytest.raises(ApiError) as caught:
        ChatTemplate("{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}").render(
            [{"role": "user", "content": "hello"}]
        )
    assert caught.value.status == 500


def test_a_broken_template_is_found_when_it_is_loaded() -> None:
    with pytest.raises(BadTemplate):
        ChatTemplate("{% for %}")


def test_a_directory_names_its_template(tmp_path: Path) -> None:
    assert from_directory(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        '{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}'
    )
    assert from_directory(tmp_path) == "d"
    config.write_text('{"chat_template": "plain"}')
    assert from_directory(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("own")
    assert from_directory(tmp_path) == "own"
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text("{")
    with pytest.raises(BadTemplate, match=r"tokenizer_config\.json"):
        from_directory(tmp_path)
