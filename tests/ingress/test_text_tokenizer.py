"""Tokenisers: ids equal to the references', bytes that add up, refusal of what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import END, START, TOOL, VOCABULARY, alphabet, tiny_metadata

from ingress.errors import ApiError
from ingress.models import ServedModel
from ingress.text.byte_level import byte_level
from ingress.text.tokenizer import Tokenizer, UnsupportedTokenizer, from_directory, from_gguf

REFERENCE = Path(__file__).parent.parent / "workers" / "reference"
TINY = from_gguf(tiny_metadata())


# --- the real ones -------------------------------------------------------------------------------------------------


def _same_as_reference(model: ServedModel, file: str) -> None:
    prompts = json.loads((REFERENCE / file).read_text())["prompts"]
    assert len(prompts) >= 20
    for prompt in prompts:
        if "messages" in prompt:
            assert model.template is not None
            ids = model.tokenizer.encode(model.template.render(prompt["messages"]), special=False)
        else:
            ids = model.tokenizer.encode(prompt["text"])
        assert ids == prompt["ids"], prompt["name"]


@pytest.mark.model
def test_smollm2_ids_equal_the_reference(smollm2: ServedModel) -> None:
    _same_as_reference(smollm2, "smollm2.json")


@pytest.mark.model
def test_qwen_ids_equal_the_reference(qwen: ServedModel) -> None:
    _same_as_reference(qwen, "qwen05b.json")


@pytest.mark.model
def test_smollm2_splits_every_digit_wherever_it_stands(smollm2: ServedModel) -> None:
    """With GPT-2's pattern alone " 12" would be cut with its space, and the space would join a digit."""
    digits = {str(digit): smollm2.tokenizer.encode(str(digit)) for digit in range(10)}
    assert all(len(ids) == 1 for ids in digits.values())
    spaced = smollm2.tokenizer.encode("a 12\n34")
    assert [index for index in spaced if [index] in digits.values()] == [digits[d][0] for d in "1234"]


@pytest.mark.model
def test_qwen_composes_before_it_cuts(qwen: ServedModel) -> None:
    tokenizer = qwen.tokenizer
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "caf\u00e9"


@pytest.mark.model
def test_smollm2_does_not_compose(smollm2: ServedModel) -> None:
    assert smollm2.tokenizer.decode(smollm2.tokenizer.encode("cafe\u0301")) == "cafe\u0301"


@pytest.mark.model
@pytest.mark.parametrize(
    "text",
    ["👩‍👩‍👧‍👦🇫🇷 ✨", "  \n\n\t a  \r\n ", "東京タワー", "مرحبا", "\x00\x7f", "a" * 5000, "<|im_start|>x<|im_end|>"],
)
def test_real_tokens_give_the_text_back(smollm2: ServedModel, qwen: ServedModel, text: str) -> None:
    for model in (smollm2, qwen):
        assert model.tokenizer.decode(model.tokenizer.encode(text), skip_special=False) == text


@pytest.mark.model
def test_real_ends_of_sequence(smollm2: ServedModel, qwen: ServedModel) -> None:
    for model in (smollm2, qwen):
        names = {model.tokenizer.token_bytes(index) for index in model.eos_ids}
        assert names == {b"<|im_end|>", b"<|endoftext|>"}


# --- the tiny one --------------------------------------------------------------------------------------------------


@given(st.text())
def test_bytes_of_the_tokens_are_the_text(text: str) -> None:
    plain = from_gguf_without_nfc()
    ids = plain.encode(text)
    assert b"".join(map(plain.token_bytes, ids)) == text.encode()


_PLAIN: list[Tokenizer] = []


def from_gguf_without_nfc() -> Tokenizer:
    if not _PLAIN:
        _PLAIN.append(from_gguf(tiny_metadata(pre="smollm")))
    return _PLAIN[0]


def test_the_byte_alphabet_is_gpt2s() -> None:
    assert [byte_level(character) for character in alphabet()] == [bytes([byte]) for byte in range(256)]


def test_control_tokens_are_found_in_text_and_left_out_of_it(tiny: Tokenizer) -> None:
    ids = tiny.encode("<|im_start|>hello<|im_end|><tool_call>[PAD0]")
    assert ids[0] == START
    assert END in ids
    assert TOOL in ids
    assert VOCABULARY - 1 not in ids  # the padding's name is text
    assert tiny.decode(ids) == "hello<tool_call>[PAD0]"
    assert [tiny.bytes_of([index]) == b"" for index in (START, END, TOOL, 104)] == [True, True, False, False]


def test_ids_beyond_the_vocabulary_have_no_text(tiny: Tokenizer) -> None:
    assert tiny.decode([104, VOCABULARY + 500, 105]) == "hi"


def test_a_begin_of_sequence_is_added_only_where_the_file_asks() -> None:
    asks = from_gguf(tiny_metadata(add_bos_token=True))
    assert asks.adds_bos
    assert asks.encode("h") == [START, 104]
    assert asks.encode("h", special=False) == [104]
    assert TINY.encode("h") == [104]


def test_lone_surrogates_are_a_clients_error(tiny: Tokenizer) -> None:
    with pytest.raises(ApiError) as caught:
        tiny.encode("a\ud800b")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "rwkv"}, "'rwkv'"),
        ({"pre": "mystery-bpe"}, "'mystery-bpe'.*qwen2"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"token_type": [1, 1]}, "2 token types"),
        ({"merges": ["he"]}, "'he'"),
    ],
)
def test_unknown_kinds_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=message):
        from_gguf(tiny_metadata(**changes))


# --- Hugging Face directories --------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model directory as transformers saves it, with the tiny vocabulary."""
    TINY._backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [START]}))
    return tmp_path


def test_a_directory_gives_the_same_tokeniser(directory: Path) -> None:
    loaded = from_directory(directory)
    text = "<|im_start|>hello wörld 😀<tool_call>"
    assert loaded.encode(text) == TINY.encode(text)
    assert [loaded.token_bytes(index) for index in range(PRESENT)] == [
        TINY.token_bytes(index) for index in range(PRESENT)
    ]
    assert loaded.eos_ids == (START, END)
    assert loaded.bytes_of([START, TOOL]) == loaded.token_bytes(TOOL)
    assert loaded.bytes_of([START, TOOL], skip_special=False) == loaded.token_bytes(START) + loaded.token_bytes(TOOL)


PRESENT = TOOL + 1  # the padding is not in tokenizer.json


def test_a_sentence_piece_directory_decodes_bytes_and_spaces(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5, "▁hello": 6, "▁": 7}
    description = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for name, index in list(vocabulary.items())[:3]
        ],
        "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "merges": [],
                  "vocab": vocabulary},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    loaded = from_directory(tmp_path)
    assert loaded.decode([1, 6, 7, 3, 4, 5, 2]) == "hello €"


def test_broken_directories_are_refused_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json is missing"):
        from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json cannot be read"):
        from_directory(tmp_path)
