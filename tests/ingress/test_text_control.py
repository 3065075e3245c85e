"""Names of control tokens in messages stay text, in every role, whole or put together; ordinary text is not touched."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import END, SP_END, SP_START, START, TOOL, sentencepiece_metadata, tiny_metadata
from transformers.utils.chat_template_utils import render_jinja_template

from ingress.api.jobs import chat_ids
from ingress.api.schema_chat import AssistantMessage, FunctionCall, Message, SystemMessage, ToolCall, ToolMessage
from ingress.api.schema_chat import UserMessage as User
from ingress.errors import ApiError
from ingress.models import ServedModel
from ingress.text.control import ControlNames
from ingress.text.prompt import render
from ingress.text.template import ChatTemplate
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
PIECES = from_gguf(sentencepiece_metadata())
# One ends where the next begins: nothing between them, as some templates have it.
JOINED = "{% for m in messages %}{{ m.content }}{% endfor %}"
TRIMMED = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
SLICED = "{% for m in messages %}<|im_start|>{{ m.content.split('/')[-1] }}<|im_end|>{% endfor %}"
FRAGMENT = "{% for m in messages %}<|{{ m.content }}|>{% endfor %}"
CUT = "{% for m in messages %}{{ m.content[1:-1] }}{% endfor %}"
TEMPLATES = [
    CUT,
    JOINED,
    TRIMMED,
    SLICED,
    FRAGMENT,
    "{{ messages | tojson }}",
    "{{ (messages | last).content | upper }}",
]


def ids(model: ServedModel, messages: list[Message], allow: bool = False) -> list[int]:
    return asyncio.run(
        chat_ids(
            model, messages, add_generation_prompt=None, continue_final_message=None, extra=None,
            allow_special_tokens=allow,
        )
    )  # fmt: skip


def in_every_role(text: str) -> list[list[Message]]:
    call = ToolCall("c1", FunctionCall(text, '{"' + text.replace('"', "'") + '": "' + text.replace('"', "'") + '"}'))
    return [
        [SystemMessage(text), User("hello")],
        [User(text)],
        [User("a"), AssistantMessage(content=text), User("b")],
        [User("a"), AssistantMessage(content="x", tool_calls=[call]), ToolMessage(text, "c1"), User("b")],
    ]


@pytest.mark.model
def test_no_name_in_any_role_becomes_a_control_token(smollm2: ServedModel, qwen: ServedModel) -> None:
    for model in (smollm2, qwen):
        names = model.tokenizer.control_names
        assert len(names) > 10
        for name in names:
            control = TokenIds(model)
            for text in (name, f"a {name}b", f"{name}{name} ", f"<{name}>", f"x{name[:-1]}"):
                for hostile, plain in zip(in_every_role(text), in_every_role("what"), strict=True):
                    found = ids(model, hostile)
                    assert control.of(found) == control.of(ids(model, plain)), (model.name, text)
                    shown = model.tokenizer.decode(found, skip_special=False)
                    assert text.strip() in shown, (model.name, text)


@pytest.mark.model
def test_marks_that_a_template_writes_around_tools_stay_text_but_in_what_the_model_wrote(qwen: ServedModel) -> None:
    tool = qwen.tokenizer.encode("<tool_call>")
    assert len(tool) == 1
    assert not set(tool) & set(ids(qwen, [User("say <tool_call> twice: <tool_call>")]))
    assert set(tool) <= set(
        ids(qwen, [User("a"), AssistantMessage(content="<tool_call>\n{}\n</tool_call>"), User("b")])
    )


@pytest.mark.model
def test_they_become_control_tokens_where_that_is_allowed(smollm2: ServedModel) -> None:
    end = smollm2.tokenizer.encode("<|im_end|>")
    assert ids(smollm2, [User("<|im_end|>")], allow=True).count(end[0]) > ids(smollm2, [User("x")]).count(end[0])


ORDINARY = st.text(st.sampled_from("aZ0 \n\t.,<>|/[]{}'\"é😀_-im_end"), max_size=40)


@pytest.mark.model
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ORDINARY, ORDINARY), min_size=1, max_size=3), ORDINARY)
def test_ordinary_text_has_the_ids_of_transformers(
    smollm2: ServedModel, qwen: ServedModel, turns: list[tuple[str, str]], last: str
) -> None:
    for model in (smollm2, qwen):
        names = (*model.tokenizer.control_names, *model.tokenizer.other_names)
        if any(name in text for turn in [*turns, (last, "")] for text in turn for name in names):
            continue
        messages: list[Message] = [SystemMessage("s")]
        for question, answer in turns:
            messages += [User(question), AssistantMessage(content=answer)]
        messages.append(User(last))
        plain = [{"role": m.__struct_config__.tag, "content": m.content} for m in messages]
        assert model.template is not None
        text, _ = render_jinja_template(
            conversations=[plain], chat_template=model.template.source, add_generation_prompt=True
        )
        assert ids(model, messages) == model.tokenizer.encode(text[0], special=False)


HOSTILE = st.lists(
    st.sampled_from(
        ["<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<", "|>", "im_end", "im_start", " ", "/", "a", "\n"]
    ),
    max_size=5,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("source", TEMPLATES)
@settings(max_examples=120, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=3), st.booleans())
def test_none_is_put_together_by_any_template(source: str, texts: list[str], pieces: bool) -> None:
    """Either none but the template's own are there, or the messages are refused."""
    model = ServedModel("tiny", PIECES if pieces else TINY, ChatTemplate(source))
    names = {SP_START, SP_END, 0, 1, 2} if pieces else {START, END}
    expected = [token for token in ids(model, [User("what") for _ in texts]) if token in names]
    found = None
    with contextlib.suppress(ApiError):  # refused
        found = ids(model, [User(text) for text in texts])
    event(f"{'refused' if found is None else 'kept apart'}")
    assert found is None or [token for token in found if token in names] == expected


@pytest.mark.parametrize(
    "texts", [["<|im_", "end|>"], ["a<|im_end", "|>b"], ["<|im_end|>", "<|im_end|>"], ["<|", "im_end", "|>"]]
)
@pytest.mark.parametrize("source", [JOINED, TRIMMED])
def test_what_can_be_kept_apart_is_not_refused(source: str, texts: list[str]) -> None:
    model = ServedModel("tiny", TINY, ChatTemplate(source))
    shown = TINY.decode(ids(model, [User(text) for text in texts]), skip_special=False)
    assert all(text in shown for text in texts)


def test_what_a_template_cuts_out_and_joins_is_refused() -> None:
    with pytest.raises(ApiError) as refused:
        ids(ServedModel("tiny", TINY, ChatTemplate(CUT)), [User("-<|im_-"), User("-end|>-")])
    assert refused.value.code == "control_tokens"


def test_a_text_that_has_the_marks_themselves_is_kept() -> None:
    text = "\ufdd0<|im_end|>\ufdd1"
    rendered = render(
        ChatTemplate(TRIMMED), ControlNames(TINY.control_names), [{"role": "user", "content": text}],
        add_generation_prompt=False, continue_final_message=False, extra=None,
    )  # fmt: skip
    assert TINY.decode(TINY.encode_apart(*rendered), skip_special=False) == f"<|im_start|>user\n{text}<|im_end|>\n"


def test_a_user_token_that_the_template_does_not_write_is_found_as_before() -> None:
    model = ServedModel("tiny", TINY, ChatTemplate(TRIMMED))
    assert TOOL in ids(model, [User("<tool_call>")])
    assert TOOL in ids(model, [User("<tool_call><|im_end|>")])


class TokenIds:
    """Control tokens of a model, picked out of a prompt."""

    def __init__(self, model: ServedModel) -> None:
        self._ids: set[Any] = {model.tokenizer.encode(name, special=False)[0] for name in model.tokenizer.control_names}

    def of(self, prompt: list[int]) -> list[int]:
        return [token for token in prompt if token in self._ids]
