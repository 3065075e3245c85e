"""`headrace router`: a score finds what is there and admits what is not; a report adds up what was written.

`data/routing.jsonl`: 150 questions of GSM8K and MMLU with whether a weak and a strong model answered them right, from
RouteLLM (lm-sys/RouteLLM, Apache-2.0; questions MIT).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.prompt_score import FEATURES, features, load
from bus.shadow import Arm, Pair, read_pairs, shadow_file
from cli.router import report
from cli.router.calibrate import Unusable, calibrate, from_file, from_shadow, run
from cli.router.fitting import area, curve, fit, gain, unseen

LABELLED = Path(__file__).parent / "data" / "routing.jsonl"


def test_a_fit_finds_the_weights_that_made_the_labels() -> None:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(4000, 3))
    labels = draw.random(4000) < 1 / (1 + np.exp(-(rows @ [2.0, -1.0, 0.0] + 0.5)))
    found = fit(rows, labels)
    assert np.allclose(found.weights / found.scale, [2.0, -1.0, 0.0], atol=0.2)
    sure = area(unseen(rows, labels, [""] * 4000), labels)
    assert sure.low > 0.8


def test_of_noise_it_says_that_it_is_noise() -> None:
    """Of twenty intervals one misses; more than four would be another interval."""
    missed = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        labels = draw.random(300) < 0.5
        told = area(unseen(draw.normal(size=(300, 5)), labels, [""] * 300, seed), labels)
        missed += not told.low <= 0.5 <= told.high
    assert missed <= 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in rows])
    labels = np.array([label for _, label in rows])
    good, bad = scores[labels], scores[~labels]
    told = area(scores, labels)
    assert told.low <= told.value <= told.high
    if len(good) and len(bad):
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in bad]
        assert told.value == pytest.approx(sum(pairs) / len(pairs))


def test_a_curve_goes_from_one_model_to_the_other() -> None:
    scores = np.array([3.0, 1.0, 2.0, 0.0] * 10)
    small = np.array([True, False, True, False] * 10)
    points = curve(scores, small, np.ones(40, dtype=bool))
    assert (points[0].right, points[-1].right) == (0.5, 1.0)
    assert points[5].right == 1.0  # the half that needs it comes first
    assert gain(points) > 0.7


def test_a_calibration_of_real_questions_is_written_with_its_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    rows = from_file(LABELLED)
    assert run(rows, out, 0.4, even_so=True, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    found = load(out.read_bytes())
    assert found.worth.rows == 150
    assert told["worth"]["auc_low"] < told["worth"]["auc"] < told["worth"]["auc_high"]
    assert found.worth.auc < 0.8  # a prompt alone says little
    assert 0 < found.threshold < 1
    assert 0 < found.probability("What is the capital of France?") < 1


def test_what_is_no_better_than_chance_is_not_written(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    path = tmp_path / "noise.json"
    rows = [{"prompt": f"Question {n}", "small_ok": bool(draw.random() < 0.5), "large_ok": True} for n in range(200)]
    path.write_text(json.dumps({"rows": rows}))
    assert run(from_file(path), tmp_path / "score.json", 0.5, even_so=False, as_json=True) == 1
    assert not (tmp_path / "score.json").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"prompt": "x"}', "\n".join(['{"prompt": "x", "small_ok": true}'] * 80)])
def test_what_nothing_can_be_made_of_says_why(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows"
    path.write_text(text)
    with pytest.raises(Unusable):
        calibrate(from_file(path), 0.5)


def pair(likeness: float, **more: Any) -> Pair:
    arm = Arm(model="a", tokens=10, first_s=0.5, total_s=1.0, cost_nano=2_000_000_000)
    given: dict[str, Any] = {
        "at_s": 1, "route": "auto", "prompt_tokens": 5, "features": features("Why?"), "served": arm,
        "mirror": msgspec.structs.replace(arm, model="b", cost_nano=1_000_000_000), "likeness": likeness,
    }  # fmt: skip
    return Pair(**{**given, **more})


def test_a_report_adds_up_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shadow_file(tmp_path, "ingress@0")
    path.parent.mkdir()
    lines = [msgspec.json.encode(pair(likeness)) for likeness in (1.0, 0.9, 0.1, 0.0)]
    path.write_bytes(b"\n".join(lines) + b'\n{"at_s": 1, "rou')  # its writer died
    assert report.run("", as_json=True, state=tmp_path) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["calls"], one["alike"], one["served_cost"], one["mirror_cost"]) == (4, 0.5, 2.0, 1.0)
    assert one["alike_low"] < 0.5 < one["alike_high"]
    assert report.run("", as_json=False, state=tmp_path) == 0
    assert report.run("other", as_json=False, state=tmp_path) == 0
    rows = from_shadow("auto", "b", 0.8, tmp_path)
    assert rows.small == [True, True, False, False]
    assert len(list(read_pairs(tmp_path))) == 4
    assert all(len(row) == len(FEATURES) for row in rows.features)
