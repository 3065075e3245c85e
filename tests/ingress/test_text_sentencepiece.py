"""SentencePiece vocabularies of GGUF files: the ids of the library itself, bytes that add up, names that stay apart."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece_model import model_proto
from tiny_tokenizer import SP_END, SP_PAD, SP_SPACES, SP_START, SP_TOOL, SP_VOCABULARY, sentencepiece_metadata
from tokenizers import Tokenizer as Backend

from bus.catalogue import ModelMissing, locate
from ingress.models import ServedModel
from ingress.text.detokenizer import Detokenizer
from ingress.text.gguf_metadata import read_metadata
from ingress.text.sentencepiece import BadVocabulary, byte_pair_model, byte_token
from ingress.text.tokenizer import Tokenizer, UnsupportedTokenizer, from_gguf

TINY = from_gguf(sentencepiece_metadata())
BARE = from_gguf(sentencepiece_metadata(add_space_prefix=False))
# llama.cpp puts its space before a text without names, SentencePiece before any. No known model has both.
PREFIXED = from_gguf(sentencepiece_metadata(defined=("<one>", "<two>")))
REFERENCE = Path(__file__).parent.parent / "workers" / "reference"

# Whatever a text may be made of: what the pieces are of, runs, marks that combine, emoji, controls, the space itself.
PARTS = [
    *("hello", "h", "a", "b", " ", "  ", "\u2581", "\t", "\n", "im_end", "<|", "|>", "<0x41>", "<tool_call>", "[PAD0]"),
    *("e\u0301", "é", "👩‍👩‍👧‍👦", "\x00", "\ufeff"),
]
TEXTS = st.text() | st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 9))).map(
    lambda parts: "".join(part * times for part, times in parts)
)


# --- beside SentencePiece ------------------------------------------------------------------------------------------


@cache
def library(source: str, **changes: Any) -> Any:
    sentencepiece = pytest.importorskip("sentencepiece")
    metadata = sentencepiece_metadata(**changes) if source == "tiny" else real(source)
    return sentencepiece.SentencePieceProcessor(model_proto=model_proto(metadata))


@cache
def real(name: str) -> dict[str, Any]:
    try:
        return read_metadata(locate(f"catalog:{name}"))
    except ModelMissing as missing:
        pytest.skip(str(missing))


@settings(deadline=None)
@given(TEXTS)
def test_ids_equal_the_librarys(text: str) -> None:
    if any(name in text for name in TINY.control_names):
        return
    assert BARE.encode(text, special=False) == library("tiny", add_space_prefix=False).encode(text)
    assert PREFIXED.encode(text, special=False) == library("tiny", defined=("<one>", "<two>")).encode(text)


@pytest.mark.model
@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(TEXTS)
def test_ids_of_a_real_vocabulary_equal_the_librarys(text: str) -> None:
    model = gemma()
    if not any(name in text for name in model.control_names):
        assert model.encode(text, special=False) == library("gemma-3-270m").encode(text)


@cache
def gemma() -> Tokenizer:
    return from_gguf(real("gemma-3-270m"))


@pytest.mark.model
def test_gemmas_ids_equal_the_references() -> None:
    prompts = json.loads((REFERENCE / "gemma3.json").read_text())["prompts"]
    assert len(prompts) >= 5
    for prompt in prompts:
        assert gemma().encode(prompt["text"]) == prompt["ids"], prompt["name"]
    assert {gemma().token_bytes(index) for index in gemma().eos_ids} == {b"<eos>", b"<end_of_turn>"}


# --- any vocabulary ------------------------------------------------------------------------------------------------


@st.composite
def trained(draw: st.DrawFn) -> list[str]:
    """Pieces as training makes them: each of two that there are, the next one with a lower score."""
    pieces = list("ab ")
    for _ in range(draw(st.integers(0, 12))):
        joined = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if joined not in pieces:
            pieces.append(joined)
    return pieces


def naive(text: str, scores: dict[str, float]) -> list[str]:
    """Join the two neighbours whose token is the best, the leftmost of equals, as long as there are any."""
    parts = list(text)
    while found := [(-scores[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@settings(deadline=None)
@given(trained(), st.text("ab ", max_size=40))
@example([*"ab ", "aa", "aaa", "aaaa"], "aaaaaaa")
@example([*"ab ", "ab", "aba", "ba"], "abababab")
def test_any_trained_vocabulary_is_joined_as_its_scores_say(pieces: list[str], text: str) -> None:
    tokens = [*map(byte_token, range(256)), *pieces]
    scores = [0.0] * 256 + [-float(index) for index in range(len(pieces))]
    model = Backend(byte_pair_model(tokens, scores, range(256, len(tokens)), range(256)))
    assert model.encode(text).tokens == naive(text, dict(zip(pieces, scores[256:], strict=True)))


@given(st.integers(0, 100))
def test_runs_whose_tokens_have_the_same_score_are_joined_from_the_left(count: int) -> None:
    """Llama 2's runs of spaces, 2 to 16 of them, are all alike."""
    runs = ["x" * size for size in range(1, 17)]
    model = Backend(byte_pair_model([*map(byte_token, range(256)), *runs], [-1e9] * 272, range(256, 272), range(256)))
    assert model.encode("x" * count).tokens == naive("x" * count, dict.fromkeys(runs, -1e9))


# --- what the file says beside -------------------------------------------------------------------------------------


@given(TEXTS)
def test_the_text_comes_back(text: str) -> None:
    """But for the one character that means a space."""
    ids = TINY.encode(text)
    assert ids[0] == 1
    plain = text.replace("\u2581", " ")
    if not any(name in plain for name in (*TINY.control_names, *TINY.other_names)):
        assert TINY.decode(ids) == plain
    assert BARE.decode(BARE.encode(text), skip_special=False).removeprefix("<s>") == plain


@given(TEXTS, st.data())
def test_a_stream_of_byte_tokens_has_no_half_character(text: str, data: st.DataObject) -> None:
    ids = BARE.encode(text, special=False)
    detokenizer, out = Detokenizer(BARE, skip_special=False), ""
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        out += detokenizer.feed(ids[:size])
        ids = ids[size:]
        assert text.replace("\u2581", " ").startswith(out)
    assert out + detokenizer.flush() == text.replace("\u2581", " ")


def test_what_is_added_around_a_text_is_what_the_file_says() -> None:
    def ids(**changes: Any) -> list[int]:
        return from_gguf(sentencepiece_metadata(**changes)).encode("hello")

    hello, prefixed = BARE.encode("hello", special=False), TINY.encode("hello", special=False)
    assert [BARE.bytes_of(hello), BARE.bytes_of(prefixed)] == [b"hello", b" hello"]
    assert ids() == [1, *prefixed]  # a file that does not say
    assert ids(add_bos_token=True, add_eos_token=True, add_space_prefix=True) == [1, *prefixed, SP_END]
    assert ids(add_bos_token=False, add_space_prefix=False) == hello
    assert ids(bos_token_id=None) == prefixed


def test_names_are_found_and_the_padding_is_none() -> None:
    ids = BARE.encode("<|im_start|>hello<|im_end|><tool_call>   [PAD0]<0x41><unk>", special=False)
    assert [ids[0], *ids[2:5], ids[-1]] == [SP_START, SP_END, SP_TOOL, SP_SPACES, 0]
    assert SP_PAD not in ids
    assert BARE.token_bytes(ord("A") + 3) == b"A"
    assert ids.count(ord("A") + 3) == 1, "of P-A-D; the name of a byte is text"
    assert BARE.decode(ids) == "hello<tool_call>   [PAD0]<0x41>"
    assert BARE.bytes_of([SP_VOCABULARY + 9]) == b""


def test_white_space_after_phi_3s_names_is_theirs() -> None:
    phi = from_gguf(sentencepiece_metadata(add_space_prefix=False) | {"general.architecture": "phi3"})
    text = "<|im_start|>\n hello<|im_end|>\n<s> hello"
    kept = BARE.encode("<|im_start|>hello<|im_end|><s> hello", special=False)
    assert phi.encode(text, special=False) == phi.encode_apart(text, "\ufdd0") == kept
    assert BARE.encode(text, special=False) != kept


@given(
    st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<", "|>", "s", ">", " ", "\ufdd0", "a"]))
)
def test_broken_names_are_no_control_tokens(parts: list[str]) -> None:
    mark = "\ufdd0"
    text = "".join(parts)
    for name in BARE.control_names:
        text = text.replace(name, name[0] + mark + name[1:])
    ids = BARE.encode_apart(text, mark) if mark in text else []
    assert not {SP_START, SP_END, 0, 1, 2} & set(ids)
    assert BARE.decode(ids) == text.replace(mark, "") * (mark in text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": None}, "need as many scores"),
        ({"scores": [0.0]}, "need as many scores"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap is set"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is set"),
        ({"token_type": [1] * SP_VOCABULARY}, "256 bytes have no token, <0x00>"),
        ({"model": "t5"}, "'t5'; gpt2 .* llama"),
        ({"model": "bert"}, "'bert'; gpt2 .* llama"),
    ],
)
def test_what_is_not_built_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=said):
        from_gguf(sentencepiece_metadata(**changes))


def test_a_vocabulary_without_a_byte_is_none() -> None:
    tokens = [byte_token(byte) for byte in range(256) if byte != 0x41]
    with pytest.raises(BadVocabulary, match="1 bytes have no token, <0x41>"):
        byte_pair_model(tokens, [0.0] * 255, [], range(255))


@pytest.mark.model
def test_thousands_of_names_cost_a_message_nothing() -> None:
    """Gemma has 6,249 control tokens. As alternatives, each character was compared with all of them."""
    model = ServedModel("gemma", gemma(), None)
    text = "<ul><li>hello</li></ul> text\n" * 3000
    assert model.control.like(text, "user")
    assert model.control.broken("\ufdd0")(text, "user") == text
    assert len(gemma().encode_apart(text + "<eo\ufdd0s>", "\ufdd0")) > 10_000
