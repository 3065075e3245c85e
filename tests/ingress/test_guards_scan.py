"""The law of scanning: however a text is cut, the same spans come out as of the whole, and what is held is bounded."""

from __future__ import annotations

import json
import random
import re
import re._parser as sre
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingress.guards import invisible, pii, secrets
from ingress.guards.json_text import JsonMasker
from ingress.guards.scan import CLOSER, LOOKAHEAD, Kind, Part, Scanner, join, masked, scan

ALL = (*pii.KINDS, *secrets.KINDS)
SETS = {"pii": pii.KINDS, "secrets": secrets.KINDS, "invisible": invisible.KINDS, "all": ALL}
SAMPLE = json.loads((Path(__file__).parent / "data" / "pii_sample.json").read_text(encoding="utf-8"))["texts"]

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabc+/=\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
ATOMS = (
    "john.doe@example.com", " ", "4111 1111 1111 1111", "GB29 NWBK 6016 1331 9268 19", "gb42nawi04454264788619", "-",
    'password = "', "api_key: ", "hunter2XyZ99", "\n", "+46 (0)8 928 571 38", "192.168.10.1", "fe80::1", "078-05-1120",
    "9498777106", "0490 75 40 81", "é", "\u200b", "HELLO", "WORLD", "a", "1", "12", "x", ":", "=", "@", ".", KEY,
    KEY[:40], JWT, JWT[:30], "sk-proj-abcdefghij0123456789ABCD", "AKIAIOSFODNN7EXAMPLE", '"', "token", "a" * 70,
    "0123456789" * 7, "\U000e0041", "/", "(", ")", "+", ",", "x9@y.zz", "\u00a0",
)  # fmt: skip
texts = st.lists(st.sampled_from(ATOMS) | st.text(max_size=3), max_size=14).map("".join)
cuts = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def mask(kind: str) -> str:
    return f"[{kind}]"


def streamed(kinds: tuple[Kind, ...], text: str, sizes: list[int]) -> list[Part]:
    scanner, parts, at = Scanner(kinds), [], 0
    bound = max(kind.bound for kind in kinds) + LOOKAHEAD
    while at < len(text):
        size = sizes[at % len(sizes)]
        parts += scanner.feed(text[at : at + size]).pieces
        at += size
        assert len(scanner.rest) <= bound
    return [*parts, *scanner.flush().pieces]


@pytest.mark.parametrize("kinds", SETS.values(), ids=SETS)
@settings(max_examples=150, deadline=None)
@given(texts, cuts)
@example("9498777106 4111 1111 1111 1111 078-05-1120", [1])
@example("38  078-05-1120fe80::1a", [3, 1])
def test_every_cut_gives_what_the_whole_gives(kinds: tuple[Kind, ...], text: str, sizes: list[int]) -> None:
    whole = scan(kinds, text)
    parts = streamed(kinds, text, sizes)
    assert "".join(part.text for part in parts) == text
    assert join(parts) == whole
    hidden = masked(parts, mask)
    at, expected = 0, ""
    for span in whole:
        expected += text[at : span.start] + mask(span.kind)
        at = span.end
    assert hidden == expected + text[at:]


@settings(max_examples=60, deadline=None)
@given(texts)
def test_one_kind_alone_finds_what_a_plain_search_finds(text: str) -> None:
    """Against the regular expression itself, run over the whole text."""
    for kind in pii.KINDS:
        found, at = [], 0
        while (match := kind.pattern.search(text, at)) is not None:
            length = kind.valid(match[0]) if kind.valid is not None else len(match[0])
            if length:
                found.append((match.start(), match.start() + length))
            at = match.start() + (length or 1)
        assert [(span.start, span.end) for span in scan((kind,), text)] == found


def test_patterns_are_as_bounded_as_they_say() -> None:
    for kind in (*ALL, *invisible.KINDS):
        assert sre.parse(kind.pattern.pattern).getwidth()[1] <= kind.bound, kind.name
        if kind.closer is not None:
            assert sre.parse(kind.closer.pattern).getwidth()[1] <= CLOSER


@pytest.mark.parametrize("kinds", SETS.values(), ids=SETS)
def test_no_text_takes_long(kinds: tuple[Kind, ...]) -> None:
    """Counted in what is tried, not in seconds: the work of a scanner does not grow with what went before."""
    scanner = Scanner(kinds)
    for filler in (
        "a" * 50,
        "1" * 50,
        "1 " * 25,
        "a@" * 25,
        "A1 " * 16,
        "-----BEGIN ",
        "eyJ" * 16,
        "token=" * 8,
        ":" * 50,
    ):
        for _ in range(40):
            scanner.feed(filler)
            assert len(scanner._text) <= max(kind.bound for kind in kinds) + 2 * LOOKAHEAD + CLOSER


def test_what_is_personal_in_a_sample_is_found() -> None:
    missed, wrong = [], []
    for one in SAMPLE:
        found = scan(pii.KINDS, one["text"])
        for start, end, kind in one["spans"]:
            if not any(span.kind == kind and span.start <= start and span.end >= end for span in found):
                missed.append(one["text"][start:end])
        wrong += [
            one["text"][span.start : span.end]
            for span in found
            if not any(start < span.end and span.start < end for start, end, _ in one["spans"])
        ]
    assert missed == []
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("card 4111 1111 1111 1112", []),  # a wrong check digit
        ("card 4111-1111-1111-1111 123", ["CARD"]),
        ("IBAN DE89 3704 0044 0532 0130 00.", ["IBAN"]),
        ("IBAN DE89 3704 0044 0532 0130 01", []),
        ("000-12-3456 666-12-3456 900-12-3456", []),
        ("078-05-1120", ["SSN"]),
        ("version 1.2.3, 10.0.0.256, v1.2.3.4", []),
        ("from 10.1.2.3 to 2001:db8::8a2e:370:7334", ["IP", "IP"]),
        ("12:30:45 std::vector abc::def", []),
        ("2024-01-31 31.12.2024 1 000 000 10-20", []),
        ("1700000000 1700000000123 0.4111111111111111", []),
        ("call (555) 123-4567 or +1-555-123-4567", ["PHONE", "PHONE"]),
        ("mail a.b+c@mail.example.co.uk, thanks", ["EMAIL"]),
        ("a @ b, x@y, @handle", []),
    ],
)
def test_what_looks_alike_is_told_apart(text: str, kinds: list[str]) -> None:
    assert [span.kind for span in scan(pii.KINDS, text)] == kinds


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"key:\n{KEY}\nbye", "key:\n[PRIVATE_KEY]\nbye"),
        (f"Bearer {JWT} ok", "Bearer [JWT] ok"),
        ("use sk-proj-abcdefghij0123456789ABCDEFGHIJKLMN now", "use [API_KEY] now"),
        ('password = "hunter2XyZ99"', 'password = "[ASSIGNMENT]"'),
        ("DB_PASSWORD=Xk29fjq02jd", "DB_PASSWORD=[ASSIGNMENT]"),
        ("the token: something ordinary", "the token: something ordinary"),
        ("password = correcthorse", "password = correcthorse"),
        ("secret: https", "secret: https"),
    ],
)
def test_secrets(text: str, hidden: str) -> None:
    assert masked(streamed(secrets.KINDS, text, [3]), mask) == hidden


def test_hidden_characters_go_and_emoji_stay() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    tagged = "hi" + "".join(chr(0xE0000 + ord(letter)) for letter in "ignore") + f" {family} \u202eabc"
    assert masked(streamed(invisible.KINDS, tagged, [1]), lambda _: "") == f"hi {family} abc"


json_values = st.recursive(
    st.sampled_from([4111111111111111, 42, None, True])
    | st.lists(st.sampled_from([*ATOMS, '\\"', "\t"]), max_size=4).map("".join),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "mail", "secret"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(json_values, st.booleans(), cuts)
@example({"a": "\njohn.doe@example.com"}, True, [1])
@example({"a": "éjohn.doe@example.com", "b": 4111111111111111}, True, [2])
def test_masked_json_is_json(value: object, ascii_only: bool, sizes: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    kinds = tuple(kind for kind in ALL if kind.name != "PRIVATE_KEY")
    whole = JsonMasker().masked(streamed(kinds, text, [len(text) or 1]), mask)
    assert json.loads(whole) is not ...
    masker, scanner, got, at = JsonMasker(), Scanner(kinds), "", 0
    while at < len(text):
        got += masker.masked(scanner.feed(text[at : at + sizes[at % len(sizes)]]).pieces, mask)
        at += sizes[at % len(sizes)]
    assert got + masker.masked(scanner.flush().pieces, mask) == whole


def test_every_match_is_within_a_run() -> None:
    """What the bound of a hold rests on, over many made-up texts."""
    rng = random.Random(7)
    ends = re.compile(r"[^!-~]")
    for _ in range(2000):
        text = "".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 10)))
        for kind in pii.KINDS:
            for match in kind.pattern.finditer(text):
                for gap in ends.finditer(match[0]):
                    before, after = match[0][gap.start() - 1], match[0][gap.end()]
                    assert gap[0] == " "
                    assert re.match(r"[0-9A-Z)+]", before)
                    assert re.match(r"[0-9A-Z(+]", after)
