"""Answers in OpenAI's shapes, checked by the official package's models; streams and whole answers say the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tiny_tokenizer import tiny_metadata

from ingress.api import schema_chat, schema_completion, validate
from ingress.api.answer import LOWEST_LOGPROB, Head, Renderer, failure, is_failure
from ingress.api.jobs import Plan, Prompt
from ingress.api.render_chat import ChatRenderer
from ingress.api.render_completion import CompletionRenderer
from ingress.engine import Finish, Job, Piece, TokenText, Usage
from ingress.streams import merge
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
HEAD = Head("id-1", 7, "m", "fp_1")


def plan(text: str, n: int, prompts: int = 1) -> Plan:
    asked = [Prompt(text, list(text.encode()))] * prompts
    return Plan(asked, [Job(model="m", prompt=asked[0].ids)] * (n * prompts), n)


def chat(n: int = 1, **changes: Any) -> ChatRenderer:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": n, **changes}
    return ChatRenderer(HEAD, validate.chat_request(json.dumps(body).encode()), plan("x", n))


def completion(n: int = 1, prompt: str = "né", prompts: int = 1, **changes: Any) -> CompletionRenderer:
    body = {"model": "m", "prompt": [prompt] * prompts, "n": n, **changes}
    request = validate.completion_request(json.dumps(body).encode())
    return CompletionRenderer(HEAD, request, plan(prompt, n, prompts), TINY)


def entry(byte: int, logprob: float = -1.0) -> TokenText:
    return TokenText(byte, bytes([byte]), logprob, ((byte, bytes([byte]), logprob), (0xE2, b"\xe2", -2.0)))


def pieces_of(text: str, cuts: list[int], reason: Any = "stop") -> list[Piece]:
    """One byte a token, delivered in pieces of whole characters, as the engine does."""
    bounds = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    parts = [text[left:right] for left, right in itertools.pairwise(bounds)]
    pieces = [Piece(part, tuple(part.encode()), tuple(map(entry, part.encode()))) for part in parts]
    return [*pieces, Piece(finish=Finish(reason, Usage(3, len(text.encode()), 1)))]


def streamed(renderer: Renderer, answers: list[list[Piece]], prompt: Any = ()) -> list[dict[str, Any]]:
    bodies = renderer.first()
    for index, pieces in enumerate(answers):
        for piece in pieces:
            bodies += renderer.piece(index, piece, prompt)
    finishes = [pieces[-1].finish for pieces in answers if pieces[-1].finish is not None]
    return [json.loads(body) for body in bodies + renderer.last(finishes)]


TEXTS = st.lists(st.tuples(st.text(max_size=12), st.lists(st.integers(0, 12), max_size=4)), min_size=1, max_size=3)


@given(texts=TEXTS, options=st.fixed_dictionaries({"logprobs": st.booleans(), "return_token_ids": st.booleans()}))
def test_chat_chunks_add_up_to_the_whole_answer(texts: list[tuple[str, list[int]]], options: dict[str, bool]) -> None:
    """However the engine cuts an answer into pieces, the deltas of a stream join to the body that is not streamed."""
    answers = [pieces_of(text, cuts) for text, cuts in texts]
    chunks = streamed(chat(len(texts), stream=True, stream_options={"include_usage": True}, **options), answers)
    whole = json.loads(chat(len(texts), **options).whole([merge(pieces) for pieces in answers], [[]]))
    ChatCompletion.model_validate(whole, strict=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    for index, choice in enumerate(whole["choices"]):
        mine = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert "".join(part["delta"].get("content", "") for part in mine) == choice["message"]["content"]
        assert [part["finish_reason"] for part in mine if part["finish_reason"]] == [choice["finish_reason"]]
        assert mine[-1]["finish_reason"] == "stop"
        if options["logprobs"]:
            entries = [e for part in mine if part["logprobs"] for e in part["logprobs"]["content"]]
            assert entries == choice["logprobs"]["content"]
        if options["return_token_ids"]:
            assert [i for part in mine for i in part.get("token_ids", [])] == choice["token_ids"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


@given(texts=TEXTS, echo=st.booleans(), logprobs=st.none() | st.integers(0, 2))
def test_completion_chunks_add_up_to_the_whole_answer(
    texts: list[tuple[str, list[int]]], echo: bool, logprobs: int | None
) -> None:
    answers = [pieces_of(text, cuts, "length") for text, cuts in texts]
    prompt = [None, *map(entry, "né".encode()[1:])]
    options = {"echo": echo, "logprobs": logprobs}
    chunks = streamed(completion(len(texts), stream=True, **options), answers, prompt)
    whole = json.loads(completion(len(texts), **options).whole([merge(pieces) for pieces in answers], [prompt]))
    if not echo or logprobs is None:  # the first token of a prompt has no log probability; OpenAI too sends null there
        Completion.model_validate(whole, strict=True)
    for index, choice in enumerate(whole["choices"]):
        mine = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        assert "".join(part["text"] for part in mine) == choice["text"] == ("né" if echo else "") + texts[index][0]
        assert [part["finish_reason"] for part in mine if part["finish_reason"]] == ["length"]
        if logprobs is not None:
            for column in ("tokens", "token_logprobs", "text_offset"):
                joined = [value for part in mine for value in part["logprobs"][column]]
                assert joined == choice["logprobs"][column]


def test_offsets_count_characters_and_half_characters_begin_where_theirs_does() -> None:
    whole = json.loads(completion(logprobs=1).whole([merge(pieces_of("aé😀b", []))], [[]]))
    logprobs = whole["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [
        "a", "bytes:\\xc3", "bytes:\\xa9", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "b",
    ]  # fmt: skip
    assert logprobs["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3]


def test_echo_scores_the_prompt_but_not_its_first_token() -> None:
    prompt = [None, entry(ord("y"), -0.25)]
    answers = [merge(pieces_of("z", []))]
    logprobs = json.loads(completion(prompt="xy", echo=True, logprobs=1).whole(answers, [prompt]))["choices"][0][
        "logprobs"
    ]
    assert logprobs["token_logprobs"] == [None, -0.25, -1.0]
    assert logprobs["top_logprobs"] == [None, {"y": -0.25}, {"z": -1.0}]


def test_prompt_logprobs_go_by_token_id_with_the_prompt_token_always_in() -> None:
    value = TokenText(120, b"x", float("-inf"), ((97, b"a", -0.5),))
    whole = json.loads(chat(prompt_logprobs=1).whole([merge(pieces_of("z", []))], [[None, value]]))
    assert whole["prompt_logprobs"] == [
        None,
        {"97": {"logprob": -0.5, "decoded_token": "a", "rank": 1},
         "120": {"logprob": LOWEST_LOGPROB, "decoded_token": "x"}},
    ]  # fmt: skip


def test_usage_counts_each_prompt_once() -> None:
    answers = [merge(pieces_of("ab", [])) for _ in range(4)]
    usage = json.loads(completion(2, prompts=2).whole(answers, [[], []]))["usage"]
    assert usage == {
        "prompt_tokens": 6,
        "completion_tokens": 8,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_an_error_in_a_stream_is_told_from_a_chunk() -> None:
    finish = Finish("error", Usage(1, 0), error='{"id": broken')
    assert failure(finish).status == 500
    assert failure(Finish("abort", Usage(1, 0))).status == 503
    renderer = chat(stream=True)
    assert not any(is_failure(body) for body in renderer.first() + renderer.piece(0, pieces_of("x", [])[0], ()))


# What JSON has to escape, and what could be taken for the place where a text goes.
hostile = st.text() | st.sampled_from(
    ['"text":""', '"content":""', '\\"', "\x00\x1f\x7f", "\u2028\u2029", "%b%s{}", "</script>"]
)


@given(hostile.filter(bool), hostile.filter(bool), st.integers(0, 2), st.booleans())
def test_a_chunk_from_a_mould_is_what_the_encoder_writes(text: str, name: str, index: int, usage: bool) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": usage}}
    talk, complete = chat(3, **options), completion(3, **options)
    talk._head = complete._head = Head("id", 7, name, "fp")
    expected = {
        talk: talk._chunk(schema_chat.ChunkChoice(index=index, delta=schema_chat.Delta(content=text))),
        complete: complete._chunk([schema_completion.CompletionChoice(index=index, text=text)]),
    }
    for renderer, chunk in expected.items():
        for _ in range(3):  # the first of a choice, the one for which the mould is made, another
            assert renderer.piece(index, Piece(text), ()) == [chunk]
        said = json.loads(chunk)["choices"][0]
        assert (said["delta"]["content"] if renderer is talk else said["text"]) == text
        assert json.loads(chunk)["model"] == name
