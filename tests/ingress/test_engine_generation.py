"""One answer: tokens in, pieces out. However they are delivered, the pieces add up to the same answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_tokenizer import END, START, VOCABULARY, tiny_metadata

from bus.messages.requests import Finished, FinishReason, TokenLogprobs
from bus.packed import pack_f32, pack_u32
from ingress.generation import Generation
from ingress.streams import Piece, merge
from ingress.text.stop import StopStrings
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())


def ids(text: str) -> list[int]:
    """One token per byte."""
    return list(text.encode())


def generation(*stop: str, **options: object) -> Generation:
    stops = frozenset({END})
    return Generation(TINY, 3, stop=StopStrings(stop) if stop else None, all_stops=stops, **options)  # type: ignore[arg-type]


def finished(reason: FinishReason, tokens: int, error: str = "") -> Finished:
    return Finished(1, reason, tokens, 2, 0, error=error)


def logprob(token: int) -> TokenLogprobs:
    return TokenLogprobs(-token / 10, pack_u32([token, START]), pack_f32([-token / 10, -9.5]))


def run(
    subject: Generation, deliveries: Sequence[tuple[int, Sequence[int]]], end: Finished, logprobs: bool = False
) -> Piece:
    """Deliver, the end with the last; all pieces as one."""
    pieces: list[Piece] = []
    for number, (start, tokens) in enumerate(deliveries, start=1):
        values = [logprob(token) for token in tokens] if logprobs else ()
        piece, verdict = subject.take(start, tokens, values, end if number == len(deliveries) else None)
        assert verdict != "gap"
        pieces += [piece] if piece is not None else []
        if verdict in ("finished", "stopped"):
            break
    return merge(pieces)


def test_the_end_of_sequence_ends_the_text_and_is_counted() -> None:
    answer = run(generation(), [(0, [*ids("hi"), END])], finished("stop", 3))
    assert (answer.text, answer.tokens) == ("hi", (*ids("hi"), END))
    assert answer.finish is not None
    assert (answer.finish.reason, answer.finish.stop_reason) == ("stop", None)
    assert (answer.finish.usage.prompt_tokens, answer.finish.usage.completion_tokens) == (3, 3)
    assert answer.finish.usage.cached_tokens == 2


def test_the_callers_stop_token_is_named_and_its_text_left_out_or_kept() -> None:
    for include, text in ((False, "hi"), (True, "hi!")):
        stops = frozenset(ids("!"))
        subject = Generation(TINY, 3, own_stops=stops, all_stops=stops | {END}, include_stop=include)
        answer = run(subject, [(0, ids("hi!"))], finished("stop", 3))
        assert answer.text == text
        assert answer.finish is not None
        assert answer.finish.stop_reason == ids("!")[0]


def test_the_same_token_is_text_where_it_did_not_stop() -> None:
    assert run(generation(skip_special=False), [(0, [*ids("a"), END])], finished("length", 2)).text == "a<|im_end|>"


def test_a_character_cut_short_by_the_limit_is_shown_as_broken() -> None:
    assert run(generation(), [(0, ids("aé")[:-1])], finished("length", 2)).text == "a\ufffd"


def test_what_looked_like_a_stop_string_comes_out_at_the_end() -> None:
    subject = generation("STOP")
    assert subject.take(0, ids("a ST")) == (Piece("a ", tuple(ids("a ST"))), "going")
    assert subject.take(4, ids("O")) == (None, "going")
    piece, verdict = subject.take(5, [], (), finished("length", 5))
    assert verdict == "finished"
    assert piece is not None
    assert (piece.text, piece.tokens) == ("STO", tuple(ids("O")))


def test_a_stop_string_ends_it_from_this_side_and_later_tokens_do_not_count() -> None:
    subject = generation("STOP")
    piece, verdict = subject.take(0, ids("a STOP and more"))
    assert verdict == "stopped"
    assert piece is not None
    assert piece.finish is not None
    assert (piece.text, piece.finish.reason, piece.finish.stop_reason) == ("a ", "stop", "STOP")
    assert piece.finish.usage.completion_tokens == len("a STOP")


def test_a_stop_string_may_stay_in_the_text() -> None:
    piece, _ = generation("STOP", include_stop=True).take(0, ids("a STOP and more"))
    assert piece is not None
    assert piece.text == "a STOP"


def test_a_stop_string_in_what_finishes_needs_no_abort() -> None:
    piece, verdict = generation("b").take(0, ids("ab"), (), finished("length", 2))
    assert verdict == "finished"
    assert piece is not None
    assert piece.finish is not None
    assert (piece.text, piece.finish.reason, piece.finish.stop_reason) == ("a", "stop", "b")


def test_stop_strings_wait_for_the_least_tokens() -> None:
    piece, verdict = generation("x", min_tokens=3).take(0, ids("axbcxd"))
    assert verdict == "stopped"
    assert piece is not None
    assert piece.text == "axbc"


def test_an_error_ends_it_with_its_message_and_the_text_so_far() -> None:
    subject = generation("STOP")
    subject.take(0, ids("a ST"))
    piece, verdict = subject.take(4, [], (), finished("error", 9, "the worker is gone"))
    assert verdict == "finished"
    assert piece is not None
    assert piece.finish is not None
    assert (piece.text, piece.finish.reason, piece.finish.error) == ("ST", "error", "the worker is gone")


# --- deliveries ----------------------------------------------------------------------------------------------------


def test_tokens_before_these_are_missed() -> None:
    subject = generation()
    subject.take(0, ids("ab"))
    assert subject.take(3, ids("d")) == (None, "gap")
    assert subject.emitted == ids("ab")
    assert subject.take(2, ids("cd")).piece == Piece("cd", tuple(ids("cd")))


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_end_whose_tokens_did_not_all_come_is_no_end(reason: FinishReason) -> None:
    subject = generation()
    piece, verdict = subject.take(0, ids("ab"), (), finished(reason, 4))
    assert verdict == "gap"
    assert piece is not None
    assert piece.finish is None


words = st.text(alphabet="abSTOP é\U0001f600", max_size=20)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """Tokens, and the same tokens in overlapping pieces without a gap."""
    tokens = draw(words.map(ids) | st.lists(st.integers(0, VOCABULARY - 1), max_size=20))
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    overlaps = draw(st.lists(st.integers(0, 4), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    bounds = zip([0, *cuts], [*cuts, len(tokens)], overlaps, strict=True)
    pieces = [(max(0, begin - overlap), tokens[max(0, begin - overlap) : end]) for begin, end, overlap in bounds]
    return tokens, pieces


@given(deliveries(), st.sampled_from([(), ("STOP",), ("S", "TOP")]), st.booleans())
@example((ids("aSTOPb"), [(0, ids("aST")), (1, ids("STOPb"))]), ("STOP",), True)
def test_repeats_and_cuts_change_nothing(
    case: tuple[list[int], list[tuple[int, list[int]]]], stop: tuple[str, ...], logprobs: bool
) -> None:
    tokens, pieces = case
    end = finished("length", len(tokens))
    whole = run(generation(*stop, logprobs=logprobs), [(0, tokens)], end, logprobs)
    cut = run(generation(*stop, logprobs=logprobs), [*pieces, (len(tokens), [])], end, logprobs)
    assert (cut.text, cut.logprobs) == (whole.text, whole.logprobs)
    assert whole.finish is not None
    assert cut.finish is not None
    assert cut.finish.usage.completion_tokens == whole.finish.usage.completion_tokens
    assert cut.finish.stop_reason == whole.finish.stop_reason


@given(words, st.sampled_from([(), ("STOP",), ("T",)]))
def test_logprobs_are_those_of_the_text_that_went_out(text: str, stop: tuple[str, ...]) -> None:
    """The bytes of the tokens with log probabilities begin with the answer's and go on at most to the end of the token
    in which it ends; in each piece they have come no earlier than their text."""
    subject = generation(*stop, logprobs=True)
    out, entries = "", 0
    tokens = ids(text)
    for at, token in enumerate(tokens):
        last = at == len(tokens) - 1
        piece, verdict = subject.take(at, [token], [logprob(token)], finished("length", len(tokens)) if last else None)
        if piece is not None:
            out += piece.text
            entries += len(piece.logprobs)
            assert [entry.token for entry in piece.logprobs] == tokens[entries - len(piece.logprobs) : entries]
            assert bytes(tokens[:entries]).startswith(out.encode())
        if verdict in ("stopped", "finished"):
            break
    assert bytes(tokens[:entries]) == out.encode()


def test_logprobs_carry_bytes_and_alternatives() -> None:
    piece = run(generation(logprobs=True), [(0, ids("h"))], finished("length", 1), logprobs=True)
    (entry,) = piece.logprobs
    assert (entry.token, entry.text, entry.logprob) == (104, b"h", -10.4)
    assert [(index, text) for index, text, _ in entry.top] == [(104, b"h"), (START, b"<|im_start|>")]


def test_the_token_that_stopped_has_no_logprob() -> None:
    piece = run(generation(logprobs=True), [(0, [*ids("h"), END])], finished("stop", 2), logprobs=True)
    assert [entry.token for entry in piece.logprobs] == [104]
