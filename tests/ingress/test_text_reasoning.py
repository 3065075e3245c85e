"""Thinking is told apart from the answer by the text alone, however it comes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_tokenizer import END, tiny_metadata

from bus.messages.requests import Finished
from ingress.generation import Generation
from ingress.models import ServedModel
from ingress.streams import Part, Piece, joined, merge
from ingress.text.reasoning import KNOWN, THINK, Tags, Thinking, ThoughtParser, tags_of
from ingress.text.stop import StopStrings
from ingress.text.template import ChatTemplate
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
OPEN, CLOSE = THINK
TEXTS = st.lists(
    st.sampled_from([OPEN, CLOSE, OPEN[:3], CLOSE[:4], "<", "think>", " ", "\n", "a", "b c", "é"]), max_size=8
).map("".join)
TAGS = st.sampled_from([THINK, Tags("[THINK]", "[/THINK]"), Tags("((", "))")])


def reference(text: str, thinking: Thinking) -> tuple[str, str]:
    """Thought and answer of a whole text."""
    opens = re.escape(thinking.tags.open)
    if not thinking.opened:
        if not (begun := re.match(rf"\s*{opens}", text)):
            return "", text
        text = text[begun.end() :]
    thought, _, rest = text.partition(thinking.tags.close)
    return thought.lstrip(), rest.lstrip()


def in_words(text: str, tags: Tags) -> str:
    """A text with a model's own marks in place of the usual ones."""
    return text.replace(OPEN, tags.open).replace(CLOSE, tags.close)


def by_kind(parts: Sequence[Part]) -> tuple[str, str]:
    thought, said = ("".join(part.text for part in parts if part.kind == kind) for kind in ("reasoning", "text"))
    return thought, said


def cut(text: str, at: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in pairwise(edges)]


@given(TEXTS, st.lists(st.integers(0, 99)), st.booleans(), TAGS)
@example(f" {OPEN}\nwhy{CLOSE}\n\nso", [1, 4, 9, 12], False, THINK)
def test_it_is_the_same_for_every_chunking(text: str, at: list[int], opened: bool, tags: Tags) -> None:
    text, thinking = in_words(text, tags), Thinking(tags, opened)
    parser = ThoughtParser(thinking)
    parts = [part for piece in cut(text, at) for part in parser.feed(piece)] + parser.flush()
    assert by_kind(parts) == reference(text, thinking)
    kinds = [part.kind for part in joined(parts)]
    assert kinds in ([], ["text"], ["reasoning"], ["reasoning", "text"])


@given(TEXTS, st.lists(st.integers(0, 99)), st.booleans(), st.sampled_from([(), ("b",), ("<",)]))
def test_an_answer_is_the_same_for_every_delivery(
    text: str, at: list[int], opened: bool, stop: tuple[str, ...]
) -> None:
    ids = list(text.encode())
    edges = sorted({0, len(ids), *(place % (len(ids) + 1) for place in at)})
    subject = Generation(
        TINY, 3, stop=StopStrings(stop) if stop else None, all_stops=frozenset({END}),
        thoughts=ThoughtParser(Thinking(THINK, opened)),
    )  # fmt: skip
    pieces: list[Piece] = []
    for start, end in pairwise(edges):
        piece, verdict = subject.take(start, ids[start:end])
        pieces += [piece] if piece is not None else []
        if verdict == "stopped":
            break
    else:
        piece, _ = subject.take(len(ids), [], (), Finished(1, "length", len(ids), 0, 0))
        pieces += [piece] if piece is not None else []
    answer = merge(pieces)
    whole = min((text[: text.index(string)] for string in stop if string in text), key=len, default=text)
    thought, said = reference(whole, Thinking(THINK, opened))
    assert (answer.text, by_kind(answer.parts)[0]) == (said, thought)
    assert answer.finish is not None
    assert answer.finish.usage.reasoning_tokens <= answer.finish.usage.completion_tokens
    assert bool(thought) <= bool(answer.finish.usage.reasoning_tokens)


def test_thought_tokens_are_counted_with_their_marks() -> None:
    text = f"{OPEN}abc{CLOSE}de"
    subject = Generation(TINY, 1, thoughts=ThoughtParser(Thinking(THINK, opened=False)))
    taken = subject.take(0, list(text.encode()), (), Finished(1, "length", len(text), 0, 0))
    assert taken.piece is not None
    assert taken.piece.finish is not None
    # The opening mark is known as one with its last byte.
    assert taken.piece.finish.usage.reasoning_tokens == 1 + len("abc") + len(CLOSE)


THINKS = "{{ messages[0].content }}<think></think>{% if add_generation_prompt %}{{ end }}{% endif %}"


MAY, DOES = Thinking(THINK, opened=False), Thinking(THINK, opened=True)


@pytest.mark.parametrize(
    ("source", "prompt", "begun", "expected"),
    [
        ("{{ messages }}", "x<think>", "", None),
        (THINKS, "assistant\n", "", MAY),
        (THINKS, "assistant\n<think>\n", "", DOES),
        (THINKS, "assistant\n<think>\n\n</think>\n\n", "", None),
        (THINKS, "assistant\n<think>\nSo", "<think>\nSo", DOES),
        (THINKS, "assistant\n<think>\n", "<think>\n", DOES),
        (THINKS, "assistant\n<think>\nSo</think>The", "<think>\nSo</think>The", None),
        (THINKS, "assistant\nThe", "The", None),
    ],
)
def test_the_prompts_end_says_whether_the_answer_begins_in_a_thought(
    source: str, prompt: str, begun: str, expected: Thinking | None
) -> None:
    model = ServedModel("tiny", TINY, ChatTemplate(source))
    # The tiny tokeniser has a token for each byte: as many as a mark has are looked at.
    assert model.reasoning.thinking(TINY.encode(prompt), begun) == expected


@pytest.mark.parametrize("tags", KNOWN)
def test_templates_tell_the_marks(tags: Tags) -> None:
    assert tags_of(f"{{% if x %}}{tags.open}{{{{ thought }}}}{tags.close}{{% endif %}}") == tags
    assert tags_of(tags.open) is None
