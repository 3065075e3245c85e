"""What all tests share: timings never decide one, so hypothesis has no deadline. Triton's kernels run in its
interpreter, which must be said before anything imports Triton."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--torture-loops N`: rounds of kv's own torture."""
    parser.addoption("--torture-loops", type=int, default=20, help="rounds of kv's torture")
