"""Which model answers: what is hard is never gone over, parts are as they are weighted, conversations stay."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.config.routes import CascadeConfig, RouteConfig, RuleConfig, ScoreConfig, TargetConfig
from bus.prices import Price
from bus.prompt_score import FEATURES, FORMAT, BadCalibration, Calibration, Worth, features, load
from ingress.errors import ApiError
from ingress.router.candidate import Asked, Candidate
from ingress.router.decide import Policy, decide, of_one
from ingress.router.fitness import refusal, why_not
from ingress.router.pins import Pin, Pins
from ingress.router.score import Score
from ingress.router.weights import ranked, share

NAMES = ("a", "b", "c", "d")
hashes = st.integers(0, 2**64 - 1)


def asked(**more: Any) -> Asked:
    return Asked(**{"session": 1, "call": 2, "prompt_tokens": 10, **more})


def route(*weights: tuple[str, float], **more: Any) -> RouteConfig:
    return RouteConfig(name="auto", target=tuple(TargetConfig(model=m, weight=w) for m, w in weights), **more)


def all_ready(*names: str) -> dict[str, Candidate]:
    return {name: Candidate(name) for name in names or NAMES}


candidates = st.builds(
    Candidate,
    name=st.just(""),
    elsewhere=st.booleans(),
    context_tokens=st.sampled_from([0, 100, 10_000]),
    offers=st.frozensets(st.sampled_from(["images", "json", "seed"])),
    refused=st.sampled_from(["", "", "logit_bias"]),
    surfaces=st.sampled_from([frozenset({"chat.completions"}), frozenset({"completions"})]),
    allowed=st.booleans(),
    standing=st.sampled_from(["ready", "waiting", "shut"]),
    retry_s=st.floats(0, 10),
    price=st.builds(Price, *[st.integers(0, 10**9)] * 3),
)
calls = st.builds(
    Asked,
    session=hashes, call=hashes, prompt_tokens=st.integers(0, 20_000), max_tokens=st.none() | st.integers(1, 5_000),
    needs=st.dictionaries(st.sampled_from(["images", "json", "seed"]), st.just("parameter"), max_size=2),
    text=st.text(max_size=30),
)  # fmt: skip
routes = st.builds(
    RouteConfig,
    name=st.just("auto"),
    target=st.lists(
        st.builds(TargetConfig, model=st.sampled_from(NAMES), weight=st.sampled_from([0.0, 0.5, 3.0])),
        max_size=4, unique_by=lambda target: target.model,
    ).map(tuple),
    fallbacks=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
    rule=st.lists(
        st.builds(
            RuleConfig, name=st.just("r"), models=st.tuples(st.sampled_from(NAMES)),
            prompt_tokens_above=st.none() | st.integers(0, 10_000), contains=st.sampled_from(["", "x"]),
        ),
        max_size=2,
    ).map(tuple),
    canary=st.sampled_from(["", "c"]),
    canary_share=st.sampled_from([0.0, 0.5, 1.0]),
    mirror=st.sampled_from(["", "d"]),
    mirror_share=st.sampled_from([0.0, 1.0]),
    attempts=st.integers(1, 4),
    cascade=st.none() | st.just(CascadeConfig(first="a", then="b")),
)  # fmt: skip
pins = st.none() | st.builds(Pin, st.sampled_from([*NAMES, "gone"]), st.integers(0, 10_000), st.just(0))


@settings(max_examples=400, deadline=None)
@given(routes.filter(lambda config: config.models), calls, st.tuples(*[candidates] * 4), pins)
def test_nothing_goes_over_what_is_hard(
    config: RouteConfig, call: Asked, models: tuple[Candidate, ...], pin: Pin | None
) -> None:
    known = {name: model._replace(name=name) for name, model in zip(NAMES, models, strict=True)}
    decision = decide(Policy(config), call, known, pin)
    assert len(set(decision.order)) == len(decision.order) <= config.attempts
    for name in decision.order:
        assert name in config.models
        assert why_not(known[name], call) is None
    fit = [name for name in config.models if why_not(known[name], call) is None]
    standings = [known[name].standing == "ready" for name in decision.order]
    assert standings == sorted(standings, reverse=True)  # who is not ready is asked last
    open_to_all = {target.model for target in config.target if target.weight} | set(config.fallbacks)
    if not decision.order and open_to_all.intersection(fit):
        assert config.rule  # only a rule, or a weight of 0, keeps models out that could
    if decision.cascade is not None:
        assert decision.order[:2] == ("a", "b")
    if decision.mirror:
        assert decision.mirror not in decision.order[:1]
        assert known[decision.mirror].standing == "ready"
    assert decision == decide(Policy(config), call, known, pin)  # it depends on nothing else
    if not fit:
        assert isinstance(refusal("auto", decision.unfit or {"a": why_not(known["a"], call)}), ApiError)


@pytest.mark.parametrize(
    ("candidate", "call", "status", "code"),
    [
        (Candidate("a", allowed=False), asked(), 403, "model_not_allowed"),
        (Candidate("a", context_tokens=100), asked(prompt_tokens=500), 400, "context_length_exceeded"),
        (Candidate("a", context_tokens=100), asked(max_tokens=200), 400, "context_length_exceeded"),
        (Candidate("a"), asked(needs={"images": "messages[0].content"}), 400, "unsupported_parameter"),
        (Candidate("a", refused="logit_bias"), asked(), 400, "unsupported_parameter"),
        (Candidate("a", surfaces=frozenset()), asked(), 400, "unsupported_endpoint"),
        (Candidate("a", standing="shut", retry_s=7.0), asked(), 503, "upstream_unavailable"),
    ],
)
def test_whom_nobody_can_answer_is_told_why(candidate: Candidate, call: Asked, status: int, code: str) -> None:
    decision = decide(Policy(of_one("a")), call, {"a": candidate})
    assert not decision.order
    error = refusal("a", decision.unfit)
    assert (error.status, error.code) == (status, code)


# --- weights ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=4), st.integers(0, 2**32))
def test_a_weight_is_a_part_of_all_conversations(weights: list[float], seed: int) -> None:
    named = list(zip(NAMES, weights, strict=False))
    count = 4000
    won = Counter(ranked(seed + number * 7919, named)[0] for number in range(count))
    for name, weight in named:
        expected = weight / sum(weights)
        assert abs(won[name] / count - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


@settings(max_examples=200, deadline=None)
@given(hashes, st.lists(st.floats(0.01, 100), min_size=3, max_size=4))
def test_who_is_taken_away_or_gets_more_moves_nobody_elses(session: int, weights: list[float]) -> None:
    named = list(zip(NAMES, weights, strict=False))
    order = ranked(session, named)
    without = ranked(session, [pair for pair in named if pair[0] != order[-1]])
    assert without == order[:-1]
    heavier = [(name, weight * 2 if name == order[0] else weight) for name, weight in named]
    assert ranked(session, heavier)[0] == order[0]


@given(hashes)
def test_a_share_is_between_0_and_1_and_another_for_each_salt(number: int) -> None:
    assert 0 < share(number, "canary") < 1
    assert share(number, "canary") != share(number, "mirror")


def test_the_canary_gets_its_share_of_conversations_and_keeps_them() -> None:
    policy = Policy(route(("a", 1.0), canary="b", canary_share=0.1))
    got = [decide(policy, asked(session=number * 104_729), all_ready("a", "b")) for number in range(3000)]
    part = sum(decision.order[0] == "b" for decision in got) / len(got)
    assert 0.07 < part < 0.13
    assert all(decision.by == "canary" for decision in got if decision.order[0] == "b")
    again = [decide(policy, asked(session=number * 104_729), all_ready("a", "b")) for number in range(3000)]
    assert [decision.order for decision in again] == [decision.order for decision in got]


# --- rules, pins, score ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"prompt_tokens_above": 9}, True),
        ({"prompt_tokens_above": 10}, False),
        ({"prompt_tokens_below": 11}, True),
        ({"prompt_tokens_below": 10}, False),
        ({"contains": "(?i)SUMMARI[SZ]E"}, True),
        ({"contains": "translate"}, False),
        ({"needs": ("json", "images")}, True),
        ({"needs": ("images",)}, False),
        ({"projects": ("org/web",)}, True),
        ({"projects": ("org/mobile",)}, False),
        ({"surfaces": ("messages",)}, False),
        ({"prompt_tokens_above": 9, "contains": "translate"}, False),
    ],
)
def test_a_rule_holds_where_all_of_it_does(rule: dict[str, Any], holds: bool) -> None:
    config = route(("a", 1.0), rule=(RuleConfig(name="r", models=("b",), **rule),), fallbacks=("c",))
    call = asked(text="please summarise", needs={"json": "response_format"}, project="org/web")
    models = {name: Candidate(name, offers=frozenset({"json"})) for name in NAMES}
    decision = decide(Policy(config), call, models, Pin("a", 10, 0))
    assert (decision.by, decision.order[0]) == (("rule:r", "b") if holds else ("weights", "a"))
    if holds:
        assert decision.order == ("b", "c")  # its models and the fallbacks; nobody else's


def test_a_conversation_stays_where_its_prefix_is_warm() -> None:
    policy = Policy(route(("a", 1.0), ("b", 0.0), fallbacks=("b",)))
    models = all_ready()
    assert decide(policy, asked(), models).order[0] == "a"
    held = decide(policy, asked(), models, Pin("b", 10, 0))
    assert (held.order[0], held.by) == ("b", "pin")
    models["b"] = Candidate("b", standing="shut")
    assert decide(policy, asked(), models, Pin("b", 10, 0)).order[0] == "a"


@pytest.mark.parametrize(("cached", "warm", "stays"), [(100, 9_000, True), (100, 10, False), (1000, 9_000, False)])
def test_it_leaves_where_that_saves_more_than_the_prefix_is_worth(cached: int, warm: int, stays: bool) -> None:
    """Leaving saves 40 % of 10,000 tokens. A warm prefix that costs a tenth is worth more; at full price, nothing."""
    million = 10**9
    policy = Policy(route(("cheap", 1.0), ("dear", 0.0), fallbacks=("dear",), switch_margin=1.0))
    models = {
        "cheap": Candidate("cheap", price=Price(600 * million, 600 * million, 0)),
        "dear": Candidate("dear", price=Price(1000 * million, cached * million, 0)),
    }
    decision = decide(policy, asked(prompt_tokens=10_000), models, Pin("dear", warm, 0))
    assert (decision.order[0] == "dear") is stays


def test_pins_are_bounded_and_end() -> None:
    pins = Pins(most=3)
    for session in range(5):
        pins.put("auto", session, Pin("a", 1, session * 10**9))
    assert len(pins) == 3
    assert pins.of("auto", 0, 5 * 10**9, 600.0) is None
    assert pins.of("auto", 4, 5 * 10**9, 600.0) == Pin("a", 1, 4 * 10**9)
    assert pins.of("auto", 4, 5 * 10**9, 0.5) is None
    assert pins.of("other", 4, 5 * 10**9, 600.0) is None


def calibration(weight: float = -1.0) -> Calibration:
    """The longer, the less."""
    count = len(FEATURES)
    return Calibration(
        format=FORMAT, features=FEATURES, mean=(3.0, *[0.0] * (count - 1)), scale=(1.0,) * count,
        weights=(weight, *[0.0] * (count - 1)), bias=0.0, threshold=0.5,
        worth=Worth(rows=1, small_ok=0.5, auc=0.5, auc_low=0.4, auc_high=0.6, length_auc=0.5),
    )  # fmt: skip


def test_the_score_divides_and_abstains_near_its_threshold() -> None:
    config = ScoreConfig(file="/x", small="a", large="b", band=0.05)
    score = Score(config, calibration())
    assert score.verdict("Hi") == "small"
    assert score.verdict("word " * 500) == "large"
    assert score.verdict("x" * 20) == "unsure"  # e**3 characters are the threshold
    policy = Policy(route(("c", 1.0), score=config), score)
    assert decide(policy, asked(text="Hi"), all_ready()).order[:2] == ("a", "c")
    assert decide(policy, asked(text="x" * 20), all_ready()).by == "weights"
    hard = decide(policy, asked(text="word " * 500), all_ready(), Pin("a", 100, 0))
    assert (hard.order[0], hard.by) == ("b", "score")  # a hard question leaves the small model
    easy = decide(policy, asked(text="Hi"), all_ready(), Pin("b", 100, 0))
    assert (easy.order[0], easy.by) == ("b", "pin")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_features_are_finite_and_the_probability_is_one(text: str) -> None:
    assert len(features(text)) == len(FEATURES)
    assert all(map(math.isfinite, features(text)))
    assert 0 <= calibration(50.0).probability(text) <= 1


@pytest.mark.parametrize(
    "wrong", [b"", b"[]", b"\xff", msgspec.json.encode(msgspec.structs.replace(calibration(), scale=(0.0,) * 12)),
              msgspec.json.encode(msgspec.structs.replace(calibration(), format=2)),
              msgspec.json.encode(msgspec.structs.replace(calibration(), weights=(1.0,)))],
)  # fmt: skip
def test_a_calibration_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadCalibration):
        load(wrong)
    assert load(msgspec.json.encode(calibration())) == calibration()
