"""Whose numbers a request is drawn with: its own, its operator's, its model's, or OpenAI's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.catalogue import recommended
from bus.config import SamplingConfig
from ingress.drawing import NAMES, Drawing, drawing_of, recommended_by, said_by_directory, said_by_gguf


class Asked(NamedTuple):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None


def maybe(numbers: st.SearchStrategy[float] | st.SearchStrategy[int]) -> st.SearchStrategy[float | int | None]:
    return st.none() | numbers


asked = st.builds(Asked, maybe(st.floats(0, 2)), maybe(st.floats(0.1, 1)), maybe(st.integers(-1, 50)),
                  maybe(st.floats(0, 1)))  # fmt: skip
said = st.builds(SamplingConfig, maybe(st.floats(0, 2)), maybe(st.floats(0.1, 1)), maybe(st.integers(0, 50)),
                 maybe(st.floats(0, 1)))  # fmt: skip
FILE = Path("model.gguf")


@given(asked, said)
def test_one_number_named_and_nothing_is_recommended(request: Asked, config: SamplingConfig) -> None:
    own = recommended_by(config)
    drawn = drawing_of(request, own)
    if request == Asked():
        assert drawn == own
        return
    for name in NAMES:
        named, default = getattr(request, name), getattr(Drawing(), name)
        assert getattr(drawn, name) == (default if named in (None, -1) else named)


@given(st.lists(said, max_size=3))
def test_the_first_who_says_something_of_a_number_counts(configs: list[SamplingConfig]) -> None:
    found = recommended_by(*configs)
    for name in NAMES:
        numbers = [number for one in configs if (number := getattr(one, name)) is not None]
        assert getattr(found, name) == (numbers[0] if numbers else getattr(Drawing(), name))


def test_files_say_it_in_two_ways() -> None:
    generation = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": 3}
    assert said_by_directory(generation, FILE) == SamplingConfig(temperature=0.7, top_k=20)
    assert said_by_directory(generation | {"do_sample": False}, FILE) == SamplingConfig()
    metadata = {"general.sampling.temp": 0.5, "general.sampling.min_p": 0.05, "general.name": "x"}
    assert said_by_gguf(metadata, FILE) == SamplingConfig(temperature=0.5, min_p=0.05)


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_k": "many"}, {"min_p": 2}])
def test_a_publishers_mistake_is_told_and_not_used(wrong: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    assert said_by_directory({"temperature": 0.3} | wrong, FILE) == SamplingConfig()
    assert "model.gguf" in caplog.text
    assert next(iter(wrong)) in caplog.text


def test_the_catalogue_recommends_for_its_models_only() -> None:
    assert recommended("catalog:smollm2-135m-instruct") == SamplingConfig(temperature=0.7, top_p=0.9)
    assert recommended("catalog:nobody") == recommended("path:/srv/smollm2-135m-instruct") == SamplingConfig()
