"""A tiny tokeniser that needs no model file, and the real ones for tests marked `model`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that helper modules beside the tests can be imported

from tiny_tokenizer import tiny_metadata

from bus.catalogue import ModelMissing
from bus.config import ModelConfig
from ingress.models import ServedModel, load
from ingress.text.tokenizer import Tokenizer, from_gguf


@pytest.fixture(scope="session")
def metadata() -> dict[str, Any]:
    return tiny_metadata()


@pytest.fixture(scope="session")
def tiny(metadata: dict[str, Any]) -> Tokenizer:
    return from_gguf(metadata)


def _real(name: str) -> ServedModel:
    try:
        return load(ModelConfig(name=name, source=f"catalog:{name}"))
    except ModelMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def smollm2() -> ServedModel:
    return _real("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def qwen() -> ServedModel:
    return _real("qwen2.5-coder-0.5b-instruct")
