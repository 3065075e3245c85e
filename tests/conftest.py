"""What all tests share: timings never decide one, so hypothesis has no deadline; and options of `make` targets."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--count-kills N`: rounds of the random kill test; `--torture-loops N`: of kv's own."""
    parser.addoption("--count-kills", type=int, default=4, help="rounds of the random kill test")
    parser.addoption("--torture-loops", type=int, default=20, help="rounds of kv's torture")
