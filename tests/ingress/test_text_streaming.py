"""Detokenising and stop strings over a stream: the result depends on the text alone, never on how it was cut."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from tiny_tokenizer import END, START, TOOL, VOCABULARY, tiny_metadata

from ingress.text.detokenizer import Detokenizer
from ingress.text.stop import StopMatcher, StopStrings
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
tokens_of_any_kind = st.lists(st.integers(0, VOCABULARY - 1))
tokens_of_text = st.text().map(lambda text: list(text.encode()))


@st.composite
def chunked(draw: st.DrawFn, values: st.SearchStrategy[list[int]]) -> list[list[int]]:
    whole = draw(values)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=len(whole))))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(chunked(tokens_of_any_kind | tokens_of_text), st.booleans())
def test_pieces_add_up_to_the_decoded_whole(chunks: list[list[int]], skip: bool) -> None:
    detokenizer = Detokenizer(TINY, skip_special=skip)
    pieces = [detokenizer.feed(chunk) for chunk in chunks]
    whole = TINY.decode([token for chunk in chunks for token in chunk], skip_special=skip)
    assert "".join(pieces) + detokenizer.flush() == whole


@given(chunked(tokens_of_text))
def test_no_piece_has_half_a_character(chunks: list[list[int]]) -> None:
    """The text is valid, so a U+FFFD could only come from a character that was given out too early."""
    detokenizer = Detokenizer(TINY)
    whole = b"".join(bytes(chunk) for chunk in chunks).decode()
    pieces = [detokenizer.feed(chunk) for chunk in chunks]
    assert "".join(pieces) == whole
    assert detokenizer.flush() == ""


@given(tokens_of_text)
def test_nothing_complete_is_held_back(tokens: list[int]) -> None:
    detokenizer = Detokenizer(TINY)
    given_out = ""
    for count, token in enumerate(tokens, start=1):
        given_out += detokenizer.feed([token])
        assert given_out == bytes(tokens[:count]).decode("utf-8", "ignore")


def test_special_tokens_are_skipped_or_kept() -> None:
    tokens = [START, 104, TOOL, 105, END]
    assert Detokenizer(TINY).feed(tokens) == "h<tool_call>i"
    assert Detokenizer(TINY, skip_special=False).feed(tokens) == "<|im_start|>h<tool_call>i<|im_end|>"


# --- stop strings --------------------------------------------------------------------------------------------------

few_letters = st.text(alphabet="ab\U0001f600", max_size=12)
stop_sets = st.lists(st.text(alphabet="ab\U0001f600", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, str] | None:
    """Text before the match that is complete first (of several, the longest), by trying every end."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return None


@given(st.lists(few_letters, max_size=8), stop_sets)
@example(["aab", "aa"], ["abaa", "ba"])
def test_the_answer_is_that_of_a_naive_search(chunks: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stops))
    out, found = "", None
    for chunk in chunks:
        text, found = matcher.feed(chunk)
        out += text
        if found is not None:
            break
    expected = naive("".join(chunks), stops)
    if expected is None:
        assert found is None
        assert out + matcher.flush() == "".join(chunks)
    else:
        assert (out, found) == expected


@given(st.lists(few_letters, max_size=8), stop_sets)
def test_what_is_held_back_is_exactly_what_could_begin_a_stop_string(chunks: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stops))
    seen = out = ""
    for chunk in chunks:
        seen += chunk
        text, found = matcher.feed(chunk)
        out += text
        if found is not None:
            return
        beginnings = [len(p) for stop in stops for p in (stop[:n] for n in range(len(stop))) if p and seen.endswith(p)]
        assert len(out) == len(seen) - max(beginnings, default=0)


@given(st.lists(few_letters, max_size=8), stop_sets)
def test_including_the_stop_string_adds_it_and_nothing_else(chunks: list[str], stops: list[str]) -> None:
    without, with_it = (StopMatcher(StopStrings(stops), include=include) for include in (False, True))
    first = second = ""
    for chunk in chunks:
        text, found = without.feed(chunk)
        first += text
        second += with_it.feed(chunk).text
        if found is not None:
            assert second == first + found
            return
    assert first == second


def test_overlapping_beginnings() -> None:
    matcher = StopMatcher(StopStrings(["\n\nUser:", "\nUser"]))
    assert matcher.feed("Hi\n\n") == ("Hi", None)
    assert matcher.feed("Us") == ("", None)
    assert matcher.feed("er: x") == ("\n", "\nUser")
